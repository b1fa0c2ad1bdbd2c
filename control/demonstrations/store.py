"""Episodes in memory and on disk: Minari data sets (HDF5, readable by the package `minari`)."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import DataError


@dataclass
class Episode:
    """observations: name -> (T + 1, ...), of which the last follows the last action; actions (T, A); rewards (T,).

    success: whether the task's criterion held at the end, None where nobody knows. seed: of the layout, or None.
    terminated: whether the task ended it, success or not, rather than the time limit; None: if it succeeded.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    success: bool | None = None
    seed: int | None = None
    extras: dict = field(default_factory=dict)
    terminated: bool | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def check(self, source: str) -> None:
        """Raises DataError naming `source` unless the lengths agree and everything is finite."""
        lengths = {name: len(values) for name, values in self.observations.items()}
        if set(lengths.values()) != {len(self.actions) + 1} or len(self.rewards) != len(self.actions):
            raise DataError(
                f"{source}: {len(self.actions)} actions, {len(self.rewards)} rewards, observations {lengths}; wanted "
                "one observation more than actions: the file was cut short or written by something else"
            )
        for name, values in {**self.observations, "actions": self.actions, "rewards": self.rewards}.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise DataError(f"{source}: {name} holds values that are not finite: collect or export it again")


def write_minari(folder: Path, episodes: list[Episode], env, *, identifier: str, description: dict) -> Path:
    """Write a Minari data set to `folder` (made anew). env gives the spaces; description goes into its metadata: its
    text `description`, the name of the `task`, the scores `ref_min_score` and `ref_max_score`, ..

    A data set appears whole or not at all: it is written beside and renamed.
    """
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    folder = folder.absolute()  # minari looks for its files under a relative path twice
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "data").mkdir(parents=True)
    storage = MinariStorage.new(
        beside / "data", observation_space=env.observation_space, action_space=env.action_space, env_spec=env.spec,
        data_format="hdf5",
    )  # fmt: skip
    buffers = []
    for number, episode in enumerate(episodes):
        ended = np.zeros(len(episode), bool)
        cut = ended.copy()
        (ended if (episode.success if episode.terminated is None else episode.terminated) else cut)[-1] = True
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=episode.seed,
                observations=episode.observations,
                actions=episode.actions,
                rewards=list(episode.rewards),
                terminations=list(ended),
                truncations=list(cut),
                infos={"success": np.full(len(episode) + 1, bool(episode.success))},
            )
        )
    storage.update_episodes(buffers)
    storage.update_metadata(
        {
            "dataset_id": identifier,
            "algorithm_name": "scripted expert",
            "minari_version": minari.__version__,
            **description,
        }
    )
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    return folder


def read_minari(folder: str | Path) -> list[Episode]:
    """All episodes of a Minari data set, in its order, with whether they `terminated`. A flat observation is called
    `state`.

    Raises: DataError naming the folder when it is none, is cut short, or holds an unsuitable space.
    """
    from minari import MinariDataset

    folder = Path(folder)
    if not (folder / "data").is_dir():
        raise DataError(f"{folder} is no Minari data set (it has no folder data): make one with tutelage collect")
    try:
        stored = MinariDataset(folder.absolute() / "data")
        found = list(stored.iterate_episodes())
        metadata = list(stored.storage.get_episode_metadata(stored.episode_indices))
    except Exception as error:  # h5py, json and minari raise a dozen kinds for a damaged file
        raise DataError(
            f"{folder} cannot be read as a Minari data set ({error}): collect or download it again"
        ) from error
    episodes = []
    for number, (one, about) in enumerate(zip(found, metadata, strict=True)):
        observations = one.observations if isinstance(one.observations, dict) else {"state": one.observations}
        success = one.infos.get("success") if one.infos else None
        episode = Episode(
            {name: np.asarray(values) for name, values in observations.items()},
            np.asarray(one.actions),
            np.asarray(one.rewards, np.float32),
            None if success is None else bool(np.asarray(success)[-1]),
            int(about["seed"]) if about.get("seed") is not None else None,
            terminated=bool(np.asarray(one.terminations)[-1]) if len(one.terminations) else None,
        )
        episode.check(f"{folder}, episode {number}")
        episodes.append(episode)
    if not episodes:
        raise DataError(f"{folder} holds no episodes")
    return episodes


def minari_metadata(folder: str | Path) -> dict:
    """What a Minari data set says about itself. Raises DataError naming the file."""
    path = Path(folder) / "data" / "metadata.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): collect or download the data set again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no description of a data set: collect or download it again")
    return found


def task_of(folder: str | Path) -> str | None:
    """The name of the task that a Minari data set was recorded in; None where it does not say."""
    found = minari_metadata(folder)
    if isinstance(found.get("task"), str):
        return found["task"]
    for text, key in ((found.get("description"), "task"), (found.get("env_spec"), "id")):
        try:
            name = json.loads(text)[key]
        except (TypeError, ValueError, LookupError):
            continue
        if isinstance(name, str):
            return name
    return None
