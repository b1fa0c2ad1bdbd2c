"""D4RL's HDF5 files (arXiv 2004.07219) for users who have them; neither d4rl nor its simulators are needed.

D4RL's mazes lie on axes of their own: `maze_episodes` turns them into those of the tasks Maze2D-*.
"""

from pathlib import Path

import numpy as np

from common.errors import DataError
from control.demonstrations.store import Episode

KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")


def read_d4rl(path: str | Path) -> list[Episode]:
    """Episodes of a file: a new one begins after every step whose `terminals` or `timeouts` is set.

    An episode's last state is taken from `next_observations`. A file without them (maze2d, the first versions) does not
    say where the last action of an episode led: that transition is left out, and an episode of one step with it.
    `terminated` says which of the two marks ended an episode; what the file ends with counts as cut.
    Raises: DataError naming the file and the missing key, the lengths, or the episode that is not finite.
    """
    path = Path(path)
    arrays = _arrays(path)
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) != 1 or not lengths["actions"]:
        raise DataError(f"{path}: {lengths}; wanted as many of each, and some: the file was cut short, get it again")
    shapes = {name: arrays[name].shape for name in ("observations", "actions")}
    if any(len(shape) != 2 for shape in shapes.values()):
        raise DataError(f"{path}: {shapes}; wanted (steps, width) of each: only flat observations and actions are read")
    following = arrays.get("next_observations")
    ends = arrays["terminals"].astype(bool) | arrays["timeouts"].astype(bool)
    ends[-1] = True
    episodes, begin = [], 0
    for end in np.flatnonzero(ends) + 1:
        steps = slice(begin, end if following is not None else end - 1)
        states = arrays["observations"][begin:end]
        if following is not None:
            states = np.concatenate([states, following[end - 1 : end]])
        begin, ended = end, bool(arrays["terminals"][end - 1])
        if len(states) < 2:
            continue
        rewards = arrays["rewards"][steps].astype(np.float32)
        actions = arrays["actions"][steps].astype(np.float32)
        episode = Episode({"state": states.astype(np.float32)}, actions, rewards, terminated=ended)
        episode.check(f"{path}, episode {len(episodes)}")
        episodes.append(episode)
    if not episodes:
        raise DataError(f"{path} holds no episode of two steps")
    return episodes


def _arrays(path: Path) -> dict[str, np.ndarray]:
    import h5py

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with h5py.File(path) as file:
            names = sorted(file.keys())
            if "episode_0" in names:
                raise DataError(f"{path} is the inside of a Minari data set: give its folder, the one that holds data/")
            missing = [name for name in KEYS if name not in names]
            if missing:
                held = ", ".join(names[:12]) or "nothing"
                raise DataError(
                    f"{path} is no D4RL data set that can be read: no {', '.join(missing)} (it holds {held}); files "
                    "without timeouts do not tell where episodes end: take version 1 or 2 of the set"
                )
            wanted = [*KEYS, *(name for name in ("next_observations",) if name in names)]
            found = {name: np.asarray(file[name]) for name in wanted}
    except DataError:
        raise
    except Exception as error:  # h5py raises a dozen kinds for a damaged file
        raise DataError(f"{path} cannot be read as HDF5 ({error}): it was cut short, get it again") from error
    return {name: one.reshape(-1) if name in KEYS[2:] else one for name, one in found.items()}


def maze_episodes(episodes: list[Episode], task: str) -> list[Episode]:
    """Episodes of D4RL's maze2d on the axes of our Maze2D task, with the rewards of its goal, 0.28 m from D4RL's.

    D4RL counts x down the rows and y along the columns, from the corner's cell, and its ball stands 0.2 m further than
    its position says (https://github.com/Farama-Foundation/D4RL, d4rl/pointmaze/maze_model.py): cell = position + 0.2.
    Raises DataError where positions are no floor of the task's maze: of another maze, or turned already.
    """
    from control.envs.registry import task as find_task
    from control.envs.return_tasks import goal_reward

    world = find_task(task).build().world
    origin = np.asarray(world.maze.cell_rowcol_to_xy((0, 0)))
    found = []
    for number, one in enumerate(episodes):
        state = one.observations["state"]
        row, column = state[:, 0] + 0.2, state[:, 1] + 0.2
        turned = np.stack([origin[0] + column, origin[1] - row, state[:, 3], -state[:, 2]], 1).astype(np.float32)
        check_on_floor(turned, world, f"episode {number}")
        actions = np.stack([one.actions[:, 1], -one.actions[:, 0]], 1)
        paid = np.array([goal_reward(at, world.goal, world.dense) for at in turned[1:, :2]], np.float32)
        found.append(Episode({"state": turned}, actions, paid, seed=one.seed, terminated=one.terminated))
    return found


def check_on_floor(states: np.ndarray, world, source: str) -> None:
    """Raises DataError naming `source` unless all positions (T, 2+), m, lie in free cells of a Maze2D world."""
    walls = ~world.on_floor(states[:, :2])
    if walls.any():
        step = int(walls.argmax())
        raise DataError(
            f"{source}: the position {states[step, :2].round(2).tolist()} m of step {step} is no floor of this maze: "
            "the data are of another maze, or on D4RL's axes (control.demonstrations.d4rl.maze_episodes turns them)"
        )
