"""Demonstrations in the zarr layout of Diffusion Policy's repository: data/* over time, meta/episode_ends."""

from pathlib import Path

import numpy as np

from common.errors import DataError
from control.demonstrations.store import Episode


def read_zarr(path: str | Path, observations: dict[str, str] | None = None) -> list[Episode]:
    """Episodes of a replay buffer, a folder or a .zip.

    observations: our name -> key in data/, by default {"state": "state"}. The last observation of an episode stands
    twice: the layout holds none after the last action.
    Raises: DataError naming the file, and the key that is missing or too short or the episode that is not finite.
    """
    import zarr

    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such demonstrations")
    wanted = observations or {"state": "state"}
    try:
        store = zarr.ZipStore(str(path), mode="r") if path.suffix == ".zip" else zarr.DirectoryStore(str(path))
        root = zarr.open_group(store, mode="r")
        ends = np.asarray(root["meta/episode_ends"])
        action = np.asarray(root["data/action"], np.float32)
        arrays = {name: np.asarray(root[f"data/{key}"]) for name, key in wanted.items()}
    except Exception as error:  # zarr, zip and numcodecs raise a dozen kinds for a damaged file
        raise DataError(
            f"{path} cannot be read as a zarr replay buffer with data/action, data/{', data/'.join(wanted.values())} "
            f"and meta/episode_ends ({type(error).__name__}: {error}): download it again, or name other keys"
        ) from error
    short = {name: len(values) for name, values in {**arrays, "action": action}.items() if len(values) < ends[-1]}
    if short or (np.diff(ends, prepend=0) <= 0).any():
        raise DataError(f"{path}: episodes end at {ends[-1]}, but {short or 'the ends do not ascend'}: it is cut short")
    episodes, begin = [], 0
    for end in ends:
        part = {name: values[[*range(begin, end), end - 1]] for name, values in arrays.items()}
        rewards = np.zeros(end - begin, np.float32)
        episodes.append(Episode(part, action[begin:end], rewards))
        episodes[-1].check(f"{path}, episode {len(episodes) - 1}")
        begin = end
    return episodes


def read_pusht(path: str | Path, image: bool = False) -> list[Episode]:
    """The human Push-T demonstrations with our task's observation: agent and corners of the T, and `rgb` if wanted."""
    from control.envs.pusht import corner_state

    episodes = read_zarr(path, {"state": "state", **({"rgb": "img"} if image else {})})
    for episode in episodes:
        episode.observations["state"] = corner_state(episode.observations["state"]).astype(np.float32)
        if image:
            episode.observations["rgb"] = episode.observations["rgb"].astype(np.uint8)
    return episodes
