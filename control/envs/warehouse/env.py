"""The warehouse as a gymnasium environment, and many of them at once for stable-baselines3."""

from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from common.errors import ConfigError
from control.envs.warehouse.kinematic import KinematicWorld
from control.envs.warehouse.layout import Layout
from control.envs.warehouse.levels import CONTROL_PERIOD, level, random_layout
from control.envs.warehouse.mujoco_world import MujocoWorld
from control.envs.warehouse.options import FIELD, Options, Randomisation
from control.envs.warehouse.pictures import draw
from control.envs.warehouse.task import Pool, Warehouse, check_actions

BACKENDS = {"mujoco": MujocoWorld, "kinematic": KinematicWorld}

cached_random_layout = lru_cache(maxsize=4096)(random_layout)


def layouts_of(layout: str | Path | Layout, pool: tuple[int, int], movers: int) -> Layout | Pool:
    """A layout by name, from a JSON file or as it is; "Random": those of the pool (first seed, how many)."""
    if layout == "Random":
        first, count = pool
        if count < 1 or movers < 0:
            raise ConfigError(f"pool={pool!r}, movers={movers!r}: wanted (first seed, number of layouts) with at least "
                              "one layout, and 0 movers or more")  # fmt: skip
        return Pool(first, count, partial(cached_random_layout, movers=movers))
    if movers:
        raise ConfigError(f"movers={movers!r} are for layout='Random'; a level or a file says its own")
    if isinstance(layout, Layout):
        return layout
    return Layout.from_json(layout) if str(layout).endswith(".json") else level(str(layout))


def _options(randomisation: bool | dict | Randomisation, given: dict) -> Options:
    unknown = sorted(set(given) - set(Options.__dataclass_fields__))
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r}; choose of {', '.join(Options.__dataclass_fields__)}")
    if isinstance(randomisation, dict):
        unknown = sorted(set(randomisation) - set(Randomisation.__dataclass_fields__))
        if unknown:
            raise ConfigError(f"unknown randomisation {unknown[0]!r}; choose of "
                              f"{', '.join(Randomisation.__dataclass_fields__)}")  # fmt: skip
        randomisation = Randomisation(**randomisation)
    elif isinstance(randomisation, bool):
        randomisation = FIELD if randomisation else Randomisation()
    return replace(Options(**given), randomisation=randomisation)


def observation_space(options: Options) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (47 if options.observe_pose else 43,), np.float32)


class AGVWarehouse(gym.Env):
    """A differential-drive vehicle that has to find a goal: 36 rays, a sparse reward, 5 actions a second.

    Action (2): speed (0 .. 1 m/s, or -0.5 .. 1 "reversible") and yaw rate (+-1.5 rad/s), each in [-1, 1]. Observation:
    see `Warehouse.observation`. `info["pose"]` is x, y (m), heading (rad) after every step; at an episode's end `info`
    holds its measures (`Warehouse.episode`).

    Args:
        layout: a level's name, "Random", a Layout, or the path of a layout's JSON.
        backend: "mujoco", or "kinematic": its numpy twin.
        pool: (first seed, number) of the layouts that "Random" draws from. movers: of a random layout.
        max_steps: of an episode; default the layout's. randomisation: True for all of it, or a dictionary.
        render_mode: "rgb_array": a picture from `render`, without a display; "human": a window at the vehicle's pace,
            from the first step on; ConfigError where there is no display.
        options: as `Options`: reward, collision, speed, observe_pose, goal_visibility, stop_at_goal.
    `reset(options=...)` takes layout_seed (of a random layout), start (x, y[, heading]) and goal (x, y).
    Raises: ConfigError, LayoutError; ActionError for an action of a wrong shape or outside [-1, 1].
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": round(1 / CONTROL_PERIOD)}

    def __init__(
        self,
        layout: str | Path | Layout = "Simple",
        backend: str = "mujoco",
        pool: tuple[int, int] = (0, 1000),
        movers: int = 0,
        max_steps: int | None = None,
        randomisation: bool | dict | Randomisation = False,
        render_mode: str | None = None,
        **options,
    ):
        if backend not in BACKENDS:
            raise ConfigError(f"backend={backend!r}: choose one of {', '.join(BACKENDS)}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(f"render_mode={render_mode!r}: choose one of {', '.join(self.metadata['render_modes'])}")
        self.options = _options(randomisation, options)
        self.layouts = layouts_of(layout, pool, movers)
        self.warehouse = Warehouse(BACKENDS[backend](1), self.layouts, self.options, 1, max_steps)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = observation_space(self.options)
        self.render_mode, self.control_hz = render_mode, 1 / CONTROL_PERIOD
        self.trail: list[tuple[float, float]] = []
        self._running, self._window = False, None

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        given = dict(options or {})
        if unknown := sorted(set(given) - {"layout_seed", "start", "goal"}):
            raise ConfigError(f"reset options: unknown {unknown[0]!r}; wanted layout_seed, start or goal")
        self._running = False
        self.warehouse.reset(0, self.np_random, **given)
        self._running, self.trail = True, [self.warehouse.pose_of(0)[:2]]
        if self._window:
            self._window.show(self.warehouse)
        return self.warehouse.observation()[0], self._info(False)

    def step(self, action):
        if not self._running:
            raise gym.error.ResetNeeded("step() before reset(), or after the episode ended: call reset()")
        action = check_actions(action, (2,))
        reward, terminated, truncated, flags = self.warehouse.step(action[None])
        success, ended, cut = bool(flags["is_success"][0]), bool(terminated[0]), bool(truncated[0])
        info = self._info(success)
        if ended or cut:
            info |= self.warehouse.episode(0, success, bool(flags["is_collision"][0]))
            self._running = False
        if self.render_mode == "human":
            self._show()
        elif self.render_mode:
            self.trail.append(info["pose"][:2])
        return self.warehouse.observation()[0], float(reward[0]), ended, cut, info

    def _info(self, success: bool) -> dict:
        return {"pose": self.warehouse.pose_of(0), "success": success, "is_success": success}

    def render(self) -> np.ndarray | None:
        """(H, W, 3) uint8 of "rgb_array"; None of "human", which `step` and `reset` draw."""
        if self.render_mode == "rgb_array":
            return draw(self.warehouse, 0, self.trail)

    def _show(self) -> None:
        """The window opens with the first step: gymnasium's checker makes and resets every mode, display or not."""
        if self._window is None:
            from control.envs.warehouse.window import Window

            self._window = Window()
        self._window.show(self.warehouse)

    def close(self) -> None:
        if self._window:
            self._window.close()


class WarehouseVecEnv(VecEnv):
    """`count` kinematic warehouses stepped together, with stable-baselines3's reset within the step.

    Arguments as `AGVWarehouse`, without backend. Episode and seed of each row are those of an `AGVWarehouse` with the
    kinematic backend that was reset with the same generator.
    """

    def __init__(self, count: int, layout: str | Path | Layout = "Simple", pool: tuple[int, int] = (0, 1000),
                 movers: int = 0, max_steps: int | None = None, randomisation: bool | dict | Randomisation = False,
                 **options):  # fmt: skip
        self.options = _options(randomisation, options)
        self.layouts = layouts_of(layout, pool, movers)
        self.warehouse = Warehouse(KinematicWorld(count), self.layouts, self.options, count, max_steps)
        self.render_mode = None
        super().__init__(count, observation_space(self.options), spaces.Box(-1.0, 1.0, (2,), np.float32))
        self._random = [np.random.default_rng() for _ in range(count)]

    def reset(self) -> np.ndarray:
        for row, seed in enumerate(self._seeds):
            if seed is not None:
                self._random[row] = gym.utils.seeding.np_random(seed)[0]
            given = self._options[row]
            self.warehouse.reset(row, self._random[row], **given)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{"pose": self.warehouse.pose_of(row)} for row in range(self.num_envs)]
        return self.warehouse.observation()

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = check_actions(actions, (self.num_envs, 2))

    def step_wait(self):
        reward, terminated, truncated, flags = self.warehouse.step(self._actions)
        observation = self.warehouse.observation()
        poses = self.warehouse.world.pose.tolist()
        success = flags["is_success"].tolist()
        infos = [{"pose": tuple(pose), "is_success": won} for pose, won in zip(poses, success, strict=True)]
        done = terminated | truncated
        ended = np.flatnonzero(done)
        for row in ended:
            infos[row] |= self.warehouse.episode(row, success[row], bool(flags["is_collision"][row]))
            infos[row] |= {"terminal_observation": observation[row], "TimeLimit.truncated": bool(truncated[row])}
        if len(ended):
            observation = observation.copy()
            for row in ended:
                self.warehouse.reset(row, self._random[row])
            observation[ended] = self.warehouse.observation(ended)
        return observation, reward.astype(np.float32), done, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices=None) -> list:
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value, indices=None) -> None:
        raise NotImplementedError("the warehouses of one WarehouseVecEnv share their settings: make a new one")

    def env_method(self, method_name: str, *args, indices=None, **kwargs) -> list:
        raise NotImplementedError("WarehouseVecEnv holds no single environments")

    def env_is_wrapped(self, wrapper_class, indices=None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]
