"""Demonstrations of any format, recognised by what lies at the path, as training windows."""

from pathlib import Path

from common.errors import DataError
from control.demonstrations.d4rl import check_on_floor, read_d4rl
from control.demonstrations.lerobot import read_lerobot
from control.demonstrations.store import Episode, read_minari, task_of
from control.demonstrations.zarr_store import read_pusht, read_zarr
from control.policies.windows import WindowDataset


def read_episodes(path: str | Path, names: tuple[str, ...] = ("state",)) -> list[Episode]:
    """Episodes of a Minari data set (folder with data/), a LeRobot v3 set (meta/info.json), a D4RL file (.hdf5, .h5),
    or a zarr replay buffer (.zarr, .zarr.zip; one whose name begins with `pusht` gets our Push-T observation).

    Raises: DataError naming the path when it is none of these.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such demonstrations; make some with tutelage collect TASK {path}")
    if path.suffix == ".zarr" or path.name.endswith(".zarr.zip"):
        return read_pusht(path, "rgb" in names) if path.name.startswith("pusht") else read_zarr(path)
    if path.suffix in (".hdf5", ".h5"):
        return read_d4rl(path)
    if (path / "meta" / "info.json").is_file():
        return read_lerobot(path)
    if (path / "data").is_dir():
        return read_minari(path)
    raise DataError(f"{path} is no Minari folder, no LeRobot folder and no .zarr, .hdf5: see docs/streaming_policy.md")


def check_task(path: str | Path, task: str, episodes: list[Episode] | None = None) -> None:
    """Raises DataError naming both unless the demonstrations at `path` are of the task: by the name that a Minari set
    holds, and for all by the widths of state and action and, in a Maze2D, by positions on the floor of the maze.

    episodes: those at `path` where they have been read already.
    """
    from control.envs.registry import task as find_task

    found, path = find_task(task), Path(path).expanduser()
    episodes = read_episodes(path) if episodes is None else episodes
    name = task_of(path) if (path / "data").is_dir() else None
    # with and without D4RL's dense reward it is one maze, but not one reward
    if name is not None and name.removeprefix("tutelage/") != found.name:
        raise DataError(f"{path} holds {name}, wanted {found.name}: take a data set of that task, or change the task")
    world = found.build().world
    state, actions = episodes[0].observations.get("state"), episodes[0].actions
    held = {"state": None if state is None else state.shape[1:], "action": actions.shape[1:]}
    wanted = {"state": world.state_space.shape, "action": world.action_space.shape}
    if held != wanted:
        raise DataError(f"{path} holds {held}, wanted {wanted} of {found.name}: it is a data set of another task")
    if hasattr(world, "free"):
        for number, one in enumerate(episodes):
            check_on_floor(one.observations["state"], world, f"{path}, episode {number}")


def demonstration_windows(path: str, names: tuple[str, ...] = ("state",), **kwargs) -> WindowDataset:
    """Training windows of the demonstrations at `path`; kwargs as `WindowDataset`."""
    return WindowDataset(read_episodes(path, tuple(names)), names=tuple(names), **kwargs)
