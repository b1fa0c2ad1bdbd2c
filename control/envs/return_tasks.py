"""Tasks of offline reinforcement learning, measured by the return: D4RL's Maze2D (arXiv 2004.07219) and gymnasium's
locomotion. `info["return"]` is the sum of the episode's rewards so far; `control.envs.scores` makes points of it."""

import mujoco
import numpy as np
from gymnasium import spaces

from common.errors import ConfigError
from control.envs.sensors import Camera, Draw, picture

GOALS = {"UMaze": (1, 1), "Medium": (6, 6), "Large": (7, 9)}  # D4RL's evaluation goals: row, column of the cell
RADIUS = 0.5  # m around the goal that pay; gymnasium-robotics has 0.45
LOCOMOTION = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Walker2d-v4")


def goal_reward(position: np.ndarray, goal: np.ndarray, dense: bool) -> float:
    """D4RL's reward of a position (2,) in m: 1 within 0.5 m of the goal and 0 elsewhere, or exp(-distance)."""
    distance = float(np.linalg.norm(position - goal))
    return float(np.exp(-distance)) if dense else float(distance <= RADIUS)


class Maze2D:
    """D4RL's maze2d on gymnasium-robotics' PointMaze: the goal never moves and nothing terminates, so a return counts
    the steps spent at the goal. State: x, y (m), vx, vy (m/s); the goal is not in it. Action: force in [-1, 1], (2,).

    Start: a free cell of even chance (the goal's among them), +-0.1 m, and velocities of deviation 0.1 m/s, all as
    D4RL draws them. Rewards are those of the state that a step reaches. Success: within 0.5 m of the goal now.
    maze: UMaze, Medium or Large. dense: reward exp(-distance).
    """

    control_hz = 100.0

    def __init__(self, maze: str, dense: bool = False):
        from gymnasium_robotics.envs.maze import maps
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

        if maze not in GOALS:
            raise ConfigError(f"no maze {maze!r}; there are {', '.join(GOALS)}")
        layout = {"UMaze": maps.U_MAZE, "Medium": maps.MEDIUM_MAZE, "Large": maps.LARGE_MAZE}[maze]
        self.native = PointMazeEnv(maze_map=layout, continuing_task=True, reset_target=False)
        self.maze, self.dense = self.native.maze, dense
        self.free = [cell for cell in np.ndindex(len(layout), len(layout[0])) if layout[cell[0]][cell[1]] != 1]
        self.goal = self.maze.cell_rowcol_to_xy(GOALS[maze])
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        half = max(len(layout), len(layout[0])) / 2
        self.camera = Camera((0.0, -0.3, 2.9 * half), (0.0, 0.0, 0.0), 45.0)

    @property
    def model(self):
        return self.native.point_env.model

    @property
    def data(self):
        return self.native.point_env.data

    def reset(self, seed: int) -> None:
        draws, point = np.random.default_rng((seed, 0x2D)), self.native.point_env
        point.reset(seed=seed)
        self.native.goal = self.goal.copy()
        self.native.update_target_site_pos()
        cell = self.maze.cell_rowcol_to_xy(self.free[draws.integers(len(self.free))])
        point.set_state(cell + draws.uniform(-0.1, 0.1, 2), 0.1 * draws.standard_normal(2))
        self._return = 0.0

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        self.native.point_env.step(action)
        reward = goal_reward(self.data.qpos, self.goal, self.dense)
        self._return += reward
        return reward, False

    def state(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel]).astype(np.float32)

    def info(self) -> dict:
        return {"success": goal_reward(self.data.qpos, self.goal, False) > 0, "return": self._return}

    def on_floor(self, positions: np.ndarray) -> np.ndarray:
        """(N,) whether positions (N, 2), m, lie in free cells: neither in a wall nor outside."""
        corner = np.asarray(self.maze.cell_rowcol_to_xy((0, 0))) + np.array([-0.5, 0.5])
        column, row = np.floor((positions - corner) * np.array([1, -1])).astype(int).T
        free = np.zeros((len(self.maze.maze_map), len(self.maze.maze_map[0])), bool)
        free[tuple(np.array(self.free).T)] = True
        inside = (row >= 0) & (row < free.shape[0]) & (column >= 0) & (column < free.shape[1])
        inside[inside] = free[row[inside], column[inside]]
        return inside

    def frame(self, height: int, width: int, draw: Draw = picture) -> np.ndarray:
        return draw(self.model, self.data, self.camera, height, width)


class _Beside:
    """A `Camera` beside a robot that runs along x."""

    fovy = 45.0
    bounds = ((-np.inf, -1.0, -0.1), (np.inf, 1.0, 2.0))
    rays = Camera.rays

    def __init__(self, data):
        self._data = data

    @property
    def position(self) -> tuple[float, float, float]:
        return (float(self._data.qpos[0]), -3.6, 1.1)

    @property
    def target(self) -> tuple[float, float, float]:
        return (float(self._data.qpos[0]), 0.0, 0.75)


class Locomotion:
    """gymnasium's MuJoCo runner of a name ("Hopper-v5"), with its own rewards, observations, control rate and falls
    (which end the episode), and its own start noise drawn by the seed. Success: `steps` steps without a fall.

    Hopper-v5 and HalfCheetah-v5 move as D4RL's v2; of the two walkers Walker2d-v4 does (v5 has more friction under one
    foot). v5 pays no healthy bonus for the step that falls.
    """

    def __init__(self, name: str, steps: int = 1000):
        import gymnasium as gym

        if name not in LOCOMOTION:
            raise ConfigError(f"no runner {name!r}; there are {', '.join(LOCOMOTION)}")
        gym.logger.min_level, before = gym.logger.ERROR, gym.logger.min_level  # v4 is said to be out of date
        try:
            self.native = gym.make(name, disable_env_checker=True).unwrapped
        finally:
            gym.logger.min_level = before
        self.steps, self.control_hz = steps, 1.0 / self.native.dt
        box = self.native.action_space
        self.action_space = spaces.Box(box.low, box.high, dtype=np.float32)
        self.state_space = spaces.Box(-np.inf, np.inf, self.native.observation_space.shape, np.float32)
        self.camera = _Beside(self.native.data)
        body = (self.model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE) & (self.model.geom_matid >= 0)
        self.model.mat_rgba[self.model.geom_matid[body]] = self.model.geom_rgba[body]  # white on white otherwise

    @property
    def model(self):
        return self.native.model

    @property
    def data(self):
        return self.native.data

    def reset(self, seed: int) -> None:
        self._observation, _ = self.native.reset(seed=seed)
        self._return, self._done, self._fallen = 0.0, 0, False

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        self._observation, reward, self._fallen, _, _ = self.native.step(action)
        self._return, self._done = self._return + float(reward), self._done + 1
        return float(reward), bool(self._fallen)

    def state(self) -> np.ndarray:
        return self._observation.astype(np.float32)

    def put(self, state: np.ndarray) -> None:
        """Stand as an observed state (S,) says; it has no x, which no reward or motion depends on."""
        split = self.model.nq - 1
        self.native.set_state(np.concatenate([[0.0], state[:split]]), np.asarray(state[split:], float))

    def info(self) -> dict:
        return {"success": bool(self._done >= self.steps and not self._fallen), "return": self._return}

    def frame(self, height: int, width: int, draw: Draw = picture) -> np.ndarray:
        image = draw(self.model, self.data, self.camera, height, width)
        return _metres(image, self.camera) if draw is picture else image


def _metres(image: np.ndarray, camera) -> np.ndarray:
    """A dark mark at every metre of the ground below the robot's line: rays show no texture, so nothing else tells that
    it moves. Changes the image (H, W, 3)."""
    height, width = image.shape[:2]
    (x, y, z), (_, _, aim) = camera.position, camera.target
    pitch, focal = np.arctan2(z - aim, -y), height / 2 / np.tan(np.radians(camera.fovy) / 2)
    ahead, below = -y * np.cos(pitch) + z * np.sin(pitch), z * np.cos(pitch) + y * np.sin(pitch)
    row, reach = int(height / 2 + focal * below / ahead), int(width / 2 / focal * ahead) + 1
    thick = max(1, height // 120)
    for metre in range(int(np.floor(x)) - reach, int(np.ceil(x)) + reach + 1):
        column = int(width / 2 + focal * (metre - x) / ahead)
        if 0 <= column < width:
            image[row : row + 4 * thick, column : column + thick] = 90
    return image
