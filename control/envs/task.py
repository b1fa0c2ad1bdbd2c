"""One gymnasium environment for all tasks; what differs stands in a `World`."""

from typing import Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from common.errors import ConfigError
from control.envs.sensors import Camera, OpenGLPictures, PointCloud

OBSERVATIONS = ("state", "rgb", "points")
RENDERERS = ("raycast", "opengl")


class World(Protocol):
    """The simulation of one task. An episode is a pure function of the seed and the actions.

    action_space: bounded Box. state_space: Box (O,). control_hz: actions per second. camera: its view, or None.
    """

    action_space: spaces.Box
    state_space: spaces.Box
    control_hz: float
    camera: Camera | None

    def reset(self, seed: int) -> None: ...

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        """Apply a clipped action for 1 / control_hz seconds. Returns reward and whether the episode is decided."""

    def state(self) -> np.ndarray:
        """(O,) float32."""

    def info(self) -> dict:
        """At least `success`, bool: the task's own criterion, now."""

    def frame(self, height: int, width: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB picture of the task's own camera; a world with a `camera` takes `draw` too, what
        draws it (`sensors.Draw`)."""


class TaskEnv(gym.Env):
    """Observation: a dictionary with, as chosen, `state` (O,) float32, `rgb` (H, W, 3) uint8, `points` (P, 3) float32
    in metres (world frame). `info["success"]` is there after every reset and step.

    Args: world; observe: some of "state", "rgb", "points"; image_hw; points: P, sampled by farthest points; renderer of
    pictures: "raycast" (the same everywhere), or "opengl" (MuJoCo's own: textures, shadows; RuntimeError where none).
    `reset(seed=s)` fixes the whole episode; without a seed the next one is drawn from the environment's generator.
    Actions outside the space are clipped; a wrong shape or a NaN raises ValueError.

    looking: whether `step` observes. A policy that acts for several steps without looking may switch it off, `step`
    then returns an empty observation, and ask `look` where it does: cameras and clouds cost far more than a step.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        world: World,
        observe: tuple[str, ...] = ("state",),
        image_hw: tuple[int, int] = (96, 96),
        points: int = 512,
        render_mode: str | None = None,
        renderer: str = "raycast",
    ):
        unknown = sorted(set(observe) - set(OBSERVATIONS))
        if unknown or not observe:
            raise ConfigError(f"observe={tuple(observe)}: choose some of {', '.join(OBSERVATIONS)}")
        if "points" in observe and world.camera is None:
            raise ConfigError(f"{type(world).__name__} has no depth camera: observe 'state' or 'rgb'")
        if renderer not in RENDERERS:
            raise ConfigError(f"renderer={renderer!r}: choose one of {', '.join(RENDERERS)}")
        if renderer == "opengl" and world.camera is None:
            raise ConfigError(f"{type(world).__name__} is no MuJoCo scene: leave renderer at 'raycast'")
        self._opengl = OpenGLPictures() if renderer == "opengl" else None
        if self._opengl and "rgb" in observe:
            self._opengl.start(world.model, *image_hw)  # fails here rather than in the first reset
        self.world, self.observe, self.image_hw, self.render_mode = world, tuple(observe), tuple(image_hw), render_mode
        self.metadata = {**self.metadata, "render_fps": round(world.control_hz)}
        self.control_hz = world.control_hz
        self.action_space = world.action_space
        self.cloud = PointCloud(world.camera, points) if "points" in observe else None
        parts = {
            "state": world.state_space,
            "rgb": spaces.Box(0, 255, (*self.image_hw, 3), np.uint8),
            "points": spaces.Box(-np.inf, np.inf, (points, 3), np.float32),
        }
        self.observation_space = spaces.Dict({name: parts[name] for name in self.observe})
        self._running, self.looking = False, True

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.world.reset(int(self.np_random.integers(2**31)) if seed is None else int(seed))
        self._running = True
        return self.look(), self.world.info()

    def step(self, action):
        if not self._running:
            raise gym.error.ResetNeeded("step() before reset(), or after the episode ended: call reset(seed=...)")
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(
                f"action of shape {action.shape}, finite: {bool(np.isfinite(action).all())}; wanted "
                f"{self.action_space.shape} finite numbers in [{self.action_space.low}, {self.action_space.high}]"
            )
        reward, decided = self.world.step(action.clip(self.action_space.low, self.action_space.high))
        self._running = not decided
        seen = self.look() if self.looking else {}
        return seen, float(reward), bool(decided), False, self.world.info()

    def render(self):
        if self.render_mode == "rgb_array":
            return self._frame(240, 320)

    def close(self) -> None:
        if self._opengl:
            self._opengl.close()

    def _frame(self, height: int, width: int) -> np.ndarray:
        extra = {"draw": self._opengl} if self._opengl else {}
        return self.world.frame(height, width, **extra)

    def look(self) -> dict[str, np.ndarray]:
        """The observation of now."""
        found = {}
        if "state" in self.observe:
            found["state"] = self.world.state()
        if "rgb" in self.observe:
            found["rgb"] = self._frame(*self.image_hw)
        if self.cloud is not None:
            found["points"] = self.cloud.points(self.world.model, self.world.data)
        return found
