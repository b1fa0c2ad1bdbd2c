"""Maze2D's data: a waypoint controller that pursues random targets without end, as D4RL's maze2d was made (arXiv
2004.07219), cut into episodes of the evaluation's length.

The ball is never reset between episodes of a part and knows nothing of the evaluation's goal; rewards are that goal's.
"""

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import ConfigError
from control.demonstrations.experts import steps_to
from control.demonstrations.store import Episode, write_minari
from control.workers import Pool, in_order, local_pool

GAIN, DAMPING = 10.0, 1.0
SOLVED = 0.1  # m from its target, where a pursuit ends
JITTER = 0.1  # m, of targets around a cell's centre
PART = 20  # episodes of one continuing stream; parts run side by side


def waypoint_action(position: np.ndarray, velocity: np.ndarray, waypoint: np.ndarray) -> np.ndarray:
    """(2,) clip(10 (waypoint - position) - velocity, -1, 1); m and m/s."""
    return np.clip(GAIN * (waypoint - position) - DAMPING * velocity, -1.0, 1.0)


class Waypoints:
    """Where to steer for a target: the centre of the next cell on a shortest way, in the target's cell the target."""

    def __init__(self, maze):
        self.maze, self._nearer = maze, {}

    def __call__(self, position: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(2,) m from (2,), (2,). Raises ValueError where there is no way."""
        here, there = (tuple(int(i) for i in self.maze.cell_xy_to_rowcol(one)) for one in (position, target))
        if here == there:
            return target
        if there not in self._nearer:
            self._nearer[there] = self._field(there)
        if here not in self._nearer[there]:
            raise ValueError(f"no way from cell {here} to cell {there}")
        return self._nearer[there][here]

    def _field(self, target: tuple[int, int]) -> dict:
        """The next cell's centre, for every cell from which there is a way."""
        steps, found = steps_to(self.maze, target), {}
        for row, column in steps:
            around = [(row, column + 1), (row + 1, column), (row, column - 1), (row - 1, column)]
            nearest = min(around, key=lambda cell: steps.get(cell, np.inf))
            found[row, column] = np.asarray(self.maze.cell_rowcol_to_xy(nearest))
        return found


class GoalController:
    """The controller on Maze2D's evaluation goal: the own reference of the mazes. Called with the environment."""

    def __init__(self):
        self.way: Waypoints | None = None

    def __call__(self, env) -> np.ndarray:
        world = env.world
        self.way = self.way or Waypoints(world.maze)
        position, velocity = world.data.qpos.copy(), world.data.qvel.copy()
        return waypoint_action(position, velocity, self.way(position, world.goal))


def stream(task: str, seed: int, episodes: int, noise: float) -> tuple[list[Episode], int]:
    """`episodes` successive stretches of one continuing run, and how many targets it reached. The seed fixes all.

    The stored actions are the executed ones, N(0, noise) and clipping included; rewards are those of the states that
    the steps reach; the last state of a stretch is the first of the next.
    """
    from control.envs.registry import task as find_task

    found = find_task(task)
    world, draws = found.build().world, np.random.default_rng((seed, 0x57E))
    way, length, reached = Waypoints(world.maze), found.max_steps, 0

    def target() -> np.ndarray:
        cell = world.maze.cell_rowcol_to_xy(world.free[draws.integers(len(world.free))])
        return cell + draws.uniform(-JITTER, JITTER, 2)

    world.reset(seed)
    aim, done = target(), []
    for number in range(episodes):
        states = np.empty((length + 1, 4), np.float32)
        actions, rewards = np.empty((length, 2), np.float32), np.empty(length, np.float32)
        states[0] = world.state()
        for step in range(length):
            position, velocity = world.data.qpos.copy(), world.data.qvel.copy()
            if np.linalg.norm(position - aim) < SOLVED:
                aim, reached = target(), reached + 1
            action = waypoint_action(position, velocity, way(position, aim))
            actions[step] = np.clip(action + noise * draws.standard_normal(2), -1, 1) if noise else action
            rewards[step], _ = world.step(actions[step].astype(np.float64))
            states[step + 1] = world.state()
        success = bool(world.info()["success"])
        done.append(Episode({"state": states}, actions, rewards, success, None if number else seed, terminated=False))
    return done, reached


def collect_maze(
    task: str,
    out: Path,
    steps: int,
    noise: float = 0.0,
    seed: int = 0,
    pool: Pool | None = None,
    progress: bool = True,
) -> dict:
    """Write at least `steps` steps, in whole episodes, as a Minari data set that appears whole or not at all.

    noise: deviation of the noise on the controller's actions in [-1, 1]; D4RL's option has 0.5. The result is a pure
    function of the arguments, whatever the pool. Returns a summary. Raises ConfigError for a task that is no Maze2D.
    """
    from control.demonstrations.collect import EVALUATION_SEEDS
    from control.envs import make
    from control.envs.registry import task as find_task
    from control.envs.scores import headline, normalised_score, references

    found = find_task(task)
    if not found.world.endswith(":Maze2D"):
        raise ConfigError(f"{found.name} is no Maze2D task: those are recorded as a stream of pursuits")
    if steps < 1 or noise < 0:
        raise ConfigError(f"steps={steps}, noise={noise}: wanted at least one step and no negative noise")
    episodes = -(-steps // found.max_steps)
    counts = [min(PART, episodes - begin) for begin in range(0, episodes, PART)]
    if not 0 <= seed <= EVALUATION_SEEDS - len(counts):
        raise ConfigError(f"seed {seed}: wanted 0 to {EVALUATION_SEEDS - len(counts)}, below those of evaluation")
    calls = [(found.name, seed + number, count, noise) for number, count in enumerate(counts)]
    bar = tqdm(total=episodes, desc=found.name, unit="episode", disable=not progress, dynamic_ncols=True)
    with pool or local_pool() as workers:
        parts = in_order(workers, stream, calls, lambda part: bar.update(len(part[0])))
    bar.close()
    kept = [one for part, _ in parts for one in part]
    for number, one in enumerate(kept):
        one.check(f"{found.name}, episode {number}")
    returns, pursuits = np.array([one.rewards.sum() for one in kept]), sum(count for _, count in parts)
    low, high = references(found.name, headline(found.name))
    summary = {
        "task": found.name,
        "episodes": episodes,
        "steps": episodes * found.max_steps,
        "noise": noise,
        "seed": seed,
        "pursuits": pursuits,
        "steps_per_pursuit": round(episodes * found.max_steps / max(1, pursuits), 1),
        "return_mean": round(float(returns.mean()), 2),
        "return_std": round(float(returns.std()), 2),
        "score_d4rl": round(float(normalised_score(found.name, returns.mean())), 2),
    }
    description = {"description": json.dumps(summary), "algorithm_name": "waypoint controller", "task": found.name,
                   "ref_min_score": low, "ref_max_score": high}  # fmt: skip
    write_minari(out, kept, make(found.name), identifier=f"tutelage/{found.name}", description=description)
    return summary
