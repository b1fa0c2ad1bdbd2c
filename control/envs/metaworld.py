"""Meta-World's 50 tasks (arXiv 1910.10897, package metaworld 3.0) as worlds, and two reactive variants."""

import copy
from collections import deque
from functools import cache

import numpy as np
from gymnasium import spaces

from common.errors import ConfigError
from control.envs.sensors import Camera, Draw, mujoco, picture

# The state is Meta-World's own: hand xyz, gripper opening, two object slots of position and quaternion (18), the same
# 18 one step earlier, goal xyz. One unit of action moves the hand's target by 1 cm.
STATE = 39
CAMERA = Camera((0.9, 0.15, 0.75), (0.0, 0.7, 0.12), 40.0, ((-0.6, 0.3, 0.005), (0.6, 1.1, 0.6)))


@cache
def _scene(path: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(path)


@cache
def _native(name: str) -> type:
    """Meta-World's class of a task, whose scene is compiled once per process: its meshes take twice as long as an
    episode. Every environment has a copy of its own, as tasks move bodies of the model."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    if name not in ALL_V3_ENVIRONMENTS:
        raise ConfigError(f"no Meta-World task {name!r}; there are {', '.join(ALL_V3_ENVIRONMENTS)}")

    class Native(ALL_V3_ENVIRONMENTS[name]):
        def _initialize_simulation(self):
            model = copy.copy(_scene(self.fullpath))
            screen = model.vis.global_
            screen.offwidth, screen.offheight = max(screen.offwidth, self.width), max(screen.offheight, self.height)
            return model, mujoco.MjData(model)

    return Native


class MetaWorld:
    """A task by its name, e.g. "reach-v3". Raises ConfigError for an unknown one.

    Meta-World's `reset` ignores its seed and draws layouts from global state; here `reset(seed)` seeds the task's own
    generator, so the same seed is the same layout, whatever ran before. Success: Meta-World's, at the current step.
    """

    control_hz = 80.0
    camera = CAMERA

    def __init__(self, name: str):
        self.name, self.native = name, _native(name)()
        self.native._partially_observable = False
        self.native._freeze_rand_vec = False
        self.native.seeded_rand_vec = True
        self.native._set_task_called = True
        # computed while the goal was hidden, it would clip the goal to zero in every step
        vars(self.native).pop("sawyer_observation_space", None)
        self.native.max_path_length = 10**9  # TimeLimit's business; stepping past it would raise
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.state_space = spaces.Box(-np.inf, np.inf, (STATE,), np.float32)

    @property
    def model(self):
        return self.native.model

    @property
    def data(self):
        return self.native.data

    def reset(self, seed: int) -> None:
        self.native.seed(seed)
        observation, _ = self.native.reset()
        self._observation, self._success = observation, False

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        self._observation, reward, _, _, info = self.native.step(action.astype(np.float32))
        self._success = bool(info["success"])
        return reward, False

    def state(self) -> np.ndarray:
        return self._observation.astype(np.float32)

    def info(self) -> dict:
        return {"success": self._success}

    def frame(self, height: int, width: int, draw: Draw = picture) -> np.ndarray:
        return draw(self.model, self.data, self.camera, height, width)


class MovingTarget(MetaWorld):
    """reach-v3 with a target that flees: constant speed, a new direction every 20 to 40 steps, inside a box.

    Success: the hand has been within 5 cm of the target for the last 40 steps (0.5 s).
    """

    SPEED = 0.25  # m/s
    HOLD = 40
    LOW, HIGH = np.array([-0.2, 0.6, 0.1]), np.array([0.2, 0.85, 0.3])

    def __init__(self):
        super().__init__("reach-v3")

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self._draws = np.random.default_rng((seed, 0x70A2))
        self._left, self._velocity = 0, np.zeros(3)
        self._near = deque(maxlen=self.HOLD)
        self._place(self.native._target_pos.clip(self.LOW, self.HIGH))

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        if self._left == 0:
            self._left = int(self._draws.integers(20, 41))
            direction = self._draws.normal(size=3)
            self._velocity = self.SPEED * direction / np.linalg.norm(direction)
        self._left -= 1
        target = self.native._target_pos + self._velocity / self.control_hz
        outside = (target < self.LOW) | (target > self.HIGH)
        self._velocity[outside] *= -1
        reward, decided = super().step(action)
        self._place(target.clip(self.LOW, self.HIGH))  # the native step clips its goal to the box of reach-v3
        self._near.append(bool(np.linalg.norm(self._observation[:3] - self._observation[36:]) < 0.05))
        self._success = len(self._near) == self.HOLD and all(self._near)
        return reward, decided

    def info(self) -> dict:
        gap = float(np.linalg.norm(self._observation[:3] - self._observation[36:]))
        return {"success": self._success, "gap": gap}

    def _place(self, target: np.ndarray) -> None:
        self.native._target_pos = target
        self.native.model.site("goal").pos = target
        self._observation = np.concatenate([self._observation[:36], target])


class PushedObject(MetaWorld):
    """push-v3 whose puck is knocked aside once: 5 to 8 cm, at a random step between 30 and 70."""

    def __init__(self):
        super().__init__("push-v3")

    def reset(self, seed: int) -> None:
        super().reset(seed)
        draws = np.random.default_rng((seed, 0xB0B))
        self._when, self._steps = int(draws.integers(30, 71)), 0
        angle, size = draws.uniform(-np.pi, np.pi), draws.uniform(0.05, 0.08)
        self._shift = size * np.array([np.cos(angle), np.sin(angle)])

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        if self._steps == self._when:
            joint = self.native.data.joint("objjoint")
            joint.qpos[:2] = (joint.qpos[:2] + self._shift).clip([-0.2, 0.5], [0.2, 0.9])
            joint.qvel[:] = 0
        self._steps += 1
        return super().step(action)

    def info(self) -> dict:
        return {"success": self._success, "pushed": self._steps > self._when}
