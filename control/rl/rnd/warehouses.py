"""The environments that a training steps together, what it keeps of them, and episodes of a policy in unseen ones."""

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor
from tqdm import tqdm

from common.errors import ConfigError
from control.envs.warehouse.env import BACKENDS, AGVWarehouse, WarehouseVecEnv
from control.envs.warehouse.layout import Layout

EVALUATION_SEED = 1_000_000  # first seed of the episodes that no training sees


def warehouses(count: int, backend: str = "kinematic", seed: int = 0, **kwargs) -> VecMonitor:
    """`count` warehouses with extrinsic returns in their logs; kwargs as `AGVWarehouse`."""
    if backend not in BACKENDS:
        raise ConfigError(f"backend={backend!r}: choose one of {', '.join(BACKENDS)}")
    if backend == "kinematic":
        envs: VecEnv = WarehouseVecEnv(count, **kwargs)
    else:
        envs = DummyVecEnv([lambda: AGVWarehouse(backend=backend, **kwargs)] * count)
    envs.seed(seed)
    return VecMonitor(envs)


def layout_of(envs: VecEnv) -> Layout | None:
    """The layout that all share; None where layouts are drawn."""
    layouts = _holders(envs)[0].layouts
    return layouts if isinstance(layouts, Layout) else None


def arena(envs: VecEnv) -> tuple[float, float]:
    """Width and height (m) that hold every arena: of a layout, or the most that a random one may have."""
    layout = layout_of(envs)
    return layout.size if layout else (16.0, 16.0)


def _holders(envs: VecEnv) -> list:
    """What holds the warehouses: one vector environment, or every single one."""
    inner = envs.unwrapped
    return [inner] if isinstance(inner, WarehouseVecEnv) else [env.unwrapped for env in inner.envs]


def _monitor(envs: VecEnv) -> VecMonitor:
    """The one under whatever wraps it."""
    while not isinstance(envs, VecMonitor):
        envs = envs.venv
    return envs


def state_of(envs: VecEnv) -> dict:
    """All of the running episodes."""
    monitor = _monitor(envs)
    return {
        "warehouses": [holder.warehouse.state() for holder in _holders(envs)],
        "returns": monitor.episode_returns.copy(),
        "lengths": monitor.episode_lengths.copy(),
    }


def load_state(envs: VecEnv, state: dict) -> None:
    """Go on where `state_of` stood, bit for bit. Raises ConfigError for another number of environments, another backend
    or another layout."""
    holders, layout = _holders(envs), layout_of(envs)
    if len(state["returns"]) != envs.num_envs:
        raise ConfigError(f"the checkpoint is of {len(state['returns'])} environments, the config has {envs.num_envs}: "
                          f"set environment.count={len(state['returns'])}")  # fmt: skip
    envs.reset()
    if set(holders[0].warehouse.world.state()) != set(state["warehouses"][0]["world"]):
        raise ConfigError("the checkpoint is of another environment.backend: set it as in its training")
    for text in {text for one in state["warehouses"] for text in one["layouts"]}:
        if layout and Layout.from_json(text) != layout:
            raise ConfigError(f"the checkpoint is of another layout than {layout.name!r}: set environment.layout as in "
                              "its training")  # fmt: skip
    for holder, one in zip(holders, state["warehouses"], strict=True):
        holder.warehouse.load_state(one)
        if isinstance(holder, AGVWarehouse):
            # gymnasium's generator is the episode's: the next reset draws from where it stands
            holder._np_random = holder.warehouse.random[0]
        else:
            holder._random = list(holder.warehouse.random)
    monitor = _monitor(envs)
    monitor.episode_returns, monitor.episode_lengths = np.array(state["returns"]), np.array(state["lengths"])


def episodes(act, count: int, seed: int = EVALUATION_SEED, backend: str = "kinematic", progress: bool = False,
             ways: list | None = None, **kwargs) -> list[dict]:  # fmt: skip
    """The measures of `count` episodes, in the order of their seeds; all at once, so that a policy acts in batches.

    act: observations (N, O) -> actions (N, 2). ways: filled with every episode's way (K, 2), m. kwargs as
    `AGVWarehouse`. Of a pool of random layouts every episode has its own, in their order. Raises: ConfigError.
    """
    if count < 1:
        raise ConfigError(f"{count} episodes: wanted 1 or more")
    envs = warehouses(count, backend, seed, **kwargs)
    layouts = _holders(envs)[0].layouts
    if not isinstance(layouts, Layout):
        envs.venv.set_options([layouts.option(row) for row in range(count)])
    seen = envs.reset()
    found: list[dict | None] = [None] * count
    tracks = [[holder.warehouse.pose_of(row)[:2]] for holder in _holders(envs)
              for row in range(len(holder.warehouse.layout))]  # fmt: skip
    bar = tqdm(total=count, unit="episode", disable=not progress, dynamic_ncols=True)
    while any(one is None for one in found):
        seen, _, dones, infos = envs.step(np.clip(act(seen), -1, 1))
        for row, info in enumerate(infos):
            if found[row] is None:
                tracks[row].append(info["pose"][:2])
                if dones[row]:
                    left_out = ("terminal_observation", "TimeLimit.truncated", "episode", "success", "pose")
                    found[row] = {key: value for key, value in info.items() if key not in left_out}
                    bar.update()
    bar.close()
    if ways is not None:
        ways += [np.array(track) for track in tracks]
    return found
