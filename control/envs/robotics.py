"""PointMaze and Fetch of gymnasium-robotics as worlds."""

import numpy as np
from gymnasium import spaces

from common.errors import ConfigError
from control.envs.sensors import Camera, Draw, picture

# A ring: start on the left, goal on the right, two routes of the same length.
RING = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, "r", 1, "g", 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
MAZES = ("UMaze", "Medium", "Large", "Ring")
FETCH = ("Reach", "Push", "PickAndPlace")


class _Robotics:
    """What both have in common: a dictionary observation, flattened to (observation, goal)."""

    def _wrap(self, native, keys: tuple[str, ...]) -> None:
        self.native, self.keys = native, keys
        box, parts = native.action_space, native.observation_space
        self.action_space = spaces.Box(box.low, box.high, dtype=np.float32)
        width = sum(parts[key].shape[0] for key in keys)
        self.state_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def reset(self, seed: int) -> None:
        self._observation, info = self.native.reset(seed=seed)
        self._success = self._succeeded(info)

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        self._observation, reward, _, _, info = self.native.step(action.astype(np.float32))
        self._success = self._succeeded(info)
        return float(reward), False

    def state(self) -> np.ndarray:
        return np.concatenate([self._observation[key] for key in self.keys]).astype(np.float32)

    def info(self) -> dict:
        return {"success": self._success}

    def frame(self, height: int, width: int, draw: Draw = picture) -> np.ndarray:
        return draw(self.model, self.data, self.camera, height, width)


class PointMaze(_Robotics):
    """A force-driven ball in a maze. State: x, y (m), vx, vy (m/s), goal x, y. Success: within 0.45 m of the goal.

    maze: UMaze, Medium, Large, or Ring (two equally long routes from start to goal).
    """

    control_hz = 100.0

    def __init__(self, maze: str):
        from gymnasium_robotics.envs.maze import maps
        from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

        if maze not in MAZES:
            raise ConfigError(f"no maze {maze!r}; there are {', '.join(MAZES)}")
        layouts = {"UMaze": maps.U_MAZE, "Medium": maps.MEDIUM_MAZE, "Large": maps.LARGE_MAZE, "Ring": RING}
        self._wrap(PointMazeEnv(maze_map=layouts[maze], continuing_task=False), ("observation", "desired_goal"))
        half = max(len(layouts[maze]), len(layouts[maze][0])) / 2
        self.camera = Camera((0.0, -0.3, 2.9 * half), (0.0, 0.0, 0.0), 45.0)
        self.maze = self.native.maze

    @property
    def model(self):
        return self.native.point_env.model

    @property
    def data(self):
        return self.native.point_env.data

    def _succeeded(self, info: dict) -> bool:
        return bool(info["success"])


class Fetch(_Robotics):
    """The Fetch arm: Reach, Push or PickAndPlace at 25 Hz. State: gymnasium-robotics' observation, then the goal xyz.
    Action: xyz displacement and gripper. Success: the goal is met within 5 cm."""

    control_hz = 25.0
    camera = Camera((2.0, 0.35, 1.15), (1.3, 0.75, 0.5), 40.0, ((1.0, 0.3, 0.41), (1.6, 1.2, 1.0)))

    def __init__(self, task: str):
        if task not in FETCH:
            raise ConfigError(f"no Fetch task {task!r}; there are {', '.join(FETCH)}")
        from gymnasium_robotics.envs.fetch import pick_and_place, push, reach

        native = {"Reach": reach.MujocoFetchReachEnv, "Push": push.MujocoFetchPushEnv,
                  "PickAndPlace": pick_and_place.MujocoFetchPickAndPlaceEnv}[task]()  # fmt: skip
        self._wrap(native, ("observation", "desired_goal"))

    @property
    def model(self):
        return self.native.model

    @property
    def data(self):
        return self.native.data

    def _succeeded(self, info: dict) -> bool:
        gap = self._observation["achieved_goal"] - self._observation["desired_goal"]
        return bool(np.linalg.norm(gap) < self.native.distance_threshold)

    def frame(self, height: int, width: int, draw: Draw = picture) -> np.ndarray:
        self.native._render_callback()  # moves the goal's marker
        return super().frame(height, width, draw)
