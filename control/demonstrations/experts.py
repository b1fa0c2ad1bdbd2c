"""Scripted experts: controllers that read the simulation and act. `expert_for(task)` finds a task's own.

An expert is made per episode and called with the environment; its actions are clipped to the action space by the
collector, which also stores them clipped: gains may exceed the range.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from common.errors import ConfigError
from control.envs.registry import task as find_task
from control.envs.task import TaskEnv

Expert = Callable[[TaskEnv], np.ndarray]


def expert_for(name: str) -> Callable[[int], Expert]:
    """seed -> expert of one episode. Raises ConfigError for tasks without one."""
    found = find_task(name)
    world = found.world.split(":")[1]
    makers = {
        "MetaWorld": lambda seed: meta_world(*found.arguments),
        "MovingTarget": lambda seed: Chase(),
        "PushedObject": lambda seed: meta_world("push-v3"),
        "TwoRoutes": lambda seed: TwoRoutesExpert(seed),
        "PointMaze": lambda seed: MazeExpert(seed),
        "Fetch": lambda seed: FETCH[found.arguments[0]],
        "Maze2D": lambda seed: _maze2d(),
    }
    if world == "Locomotion":
        raise ConfigError(f"task {found.name} has no scripted expert; trained agents record it: tutelage collect "
                          f"{found.name} OUT --steps N --mix medium-expert")  # fmt: skip
    if world not in makers:
        raise ConfigError(
            f"task {found.name} has no scripted expert; load recorded demonstrations "
            "(control/demonstrations/zarr_store.py)"
        )
    return makers[world]


def _maze2d() -> Expert:
    from control.demonstrations.mazes import GoalController

    return GoalController()


def meta_world(name: str) -> Expert:
    """Meta-World's own scripted policy of a task."""
    from metaworld.policies import ENV_POLICY_MAP

    policy = ENV_POLICY_MAP[name]()
    return lambda env: policy.get_action(env.world.state().astype(np.float64))


class Chase:
    """Hand to where the target of the moving reach will be 8 steps on; one unit of action moves the hand's by 1 cm."""

    def __init__(self):
        self.before: np.ndarray | None = None

    def __call__(self, env: TaskEnv) -> np.ndarray:
        state = env.world.state()
        target = state[36:]
        velocity = np.zeros(3) if self.before is None else target - self.before
        self.before = target.copy()
        return np.concatenate([10 * (target + 8 * velocity - state[:3]), [0.0]])


class TwoRoutesExpert:
    """Around the obstacle by a side drawn from the seed, then to the goal."""

    MARGIN = 0.08  # m beside the obstacle's surface

    def __init__(self, seed: int):
        self.side = 1 if np.random.default_rng((seed, 0x51DE)).random() < 0.5 else -1

    def __call__(self, env: TaskEnv) -> np.ndarray:
        from control.envs.two_routes import HAND, OBSTACLE, STEP

        world = env.world
        hand, radius = world.data.ctrl, OBSTACLE + HAND + self.MARGIN
        offset = hand - world.obstacle
        ahead = world.goal - hand
        direction = ahead / max(np.linalg.norm(ahead), 1e-6)
        beyond = offset @ direction > 0.03
        if not beyond:  # still in front of, or beside, the obstacle: keep the radius on the chosen side
            beside = world.obstacle + radius * np.array([self.side, 0.0])
            ahead = beside - hand
            if np.linalg.norm(offset) < radius + 0.02:
                tangent = self.side * np.array([-offset[1], offset[0]]) / np.linalg.norm(offset)
                ahead = tangent + 2 * (radius - np.linalg.norm(offset)) * offset / np.linalg.norm(offset)
        size = np.linalg.norm(ahead)
        return ahead / max(size, STEP)


class MazeExpert:
    """Breadth-first search over the cells, ties broken by the seed, and a PD controller on the next waypoint."""

    def __init__(self, seed: int):
        self.draws = np.random.default_rng((seed, 0x3A2E))
        self.path: list[np.ndarray] | None = None

    def __call__(self, env: TaskEnv) -> np.ndarray:
        maze, state = env.world.maze, env.world.state()
        position, velocity, goal = state[:2], state[2:4], state[4:6]
        if self.path is None:
            cells = route(maze, maze.cell_xy_to_rowcol(position), maze.cell_xy_to_rowcol(goal), self.draws)
            self.path = [np.asarray(maze.cell_rowcol_to_xy(cell)) for cell in cells[1:-1]] + [goal]
        while len(self.path) > 1 and np.linalg.norm(self.path[0] - position) < 0.35:
            self.path.pop(0)
        gap = self.path[0] - position
        speed = 2.0 * gap / max(np.linalg.norm(gap), 0.3)
        return 3.0 * (speed - velocity)


def steps_to(maze, goal: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Steps to the goal from every cell that has a way to it, by breadth-first search."""
    steps, queue = {goal: 0}, deque([goal])
    while queue:
        cell = queue.popleft()
        for neighbour in _neighbours(maze, cell):
            if neighbour not in steps:
                steps[neighbour] = steps[cell] + 1
                queue.append(neighbour)
    return steps


def route(maze, start, goal, draws: np.random.Generator) -> list[tuple[int, int]]:
    """Cells of a shortest path; among equally short ones the draw decides. Raises ValueError when there is none."""
    start, goal = tuple(int(i) for i in start), tuple(int(i) for i in goal)
    steps = steps_to(maze, goal)
    if start not in steps:
        raise ValueError(f"no way from cell {start} to cell {goal}")
    path = [start]
    while path[-1] != goal:
        nearer = [cell for cell in _neighbours(maze, path[-1]) if steps.get(cell, 1e9) == steps[path[-1]] - 1]
        path.append(nearer[draws.integers(len(nearer))])
    return path


def _neighbours(maze, cell: tuple[int, int]) -> list[tuple[int, int]]:
    around = [(cell[0] + i, cell[1] + j) for i, j in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    rows, columns = len(maze.maze_map), len(maze.maze_map[0])
    return [(i, j) for i, j in around if 0 <= i < rows and 0 <= j < columns and maze.maze_map[i][j] != 1]


def fetch_reach(env: TaskEnv) -> np.ndarray:
    state = env.world.state()
    return np.concatenate([10 * (state[-3:] - state[:3]), [0.0]])


def fetch_push(env: TaskEnv) -> np.ndarray:
    """Above the far side of the cube, down, and through it towards the goal."""
    state = env.world.state().astype(np.float64)
    hand, cube, goal = state[:3], state[3:6], state[-3:]
    way = (goal - cube)[:2]
    distance = np.linalg.norm(way)
    direction = way / max(distance, 1e-6)
    offset = (hand - cube)[:2]
    along, aside = offset @ direction, offset @ np.array([-direction[1], direction[0]])
    behind = cube[:2] - 0.075 * direction
    if distance < 0.02:
        target = hand + np.array([0, 0, 0.02])
    elif along < -0.04 and abs(aside) < 0.012 and hand[2] < cube[2] + 0.03:
        target = np.concatenate([cube[:2] - 0.05 * direction + min(distance, 0.06) * direction, [cube[2]]])
    elif np.linalg.norm(hand[:2] - behind) < 0.012:
        target = np.concatenate([behind, [cube[2]]])
    else:
        target = np.concatenate([behind, [cube[2] + 0.09]])
        if hand[2] < cube[2] + 0.06:
            target[:2] = hand[:2] - 0.02 * direction
    return np.concatenate([10 * (target - hand), [-1.0]])


def fetch_pick_and_place(env: TaskEnv) -> np.ndarray:
    """Over the cube with open fingers, down, close, to the goal."""
    state = env.world.state().astype(np.float64)
    hand, cube, fingers, goal = state[:3], state[3:6], state[9:11].sum(), state[-3:]
    offset = cube - hand
    level = np.linalg.norm(offset[:2])
    if np.linalg.norm(offset) < 0.015:
        held = fingers < 0.055
        target = goal if held else hand
        return np.concatenate([8 * (target - hand), [-1.0]])
    if level > (0.01 if offset[2] < -0.03 else 0.03):
        target = cube + np.array([0, 0, 0.08])
    else:
        target = cube
    return np.concatenate([10 * (target - hand), [1.0]])


FETCH = {"Reach": fetch_reach, "Push": fetch_push, "PickAndPlace": fetch_pick_and_place}
