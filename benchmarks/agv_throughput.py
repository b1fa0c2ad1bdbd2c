"""Steps per second of the warehouses, beside gymnasium-robotics' PointMaze, and of a training with and without a bonus.

All are measured in turns in one run, on one thread; resets are part of the time. Writes
benchmarks/results/agv_throughput.md.
"""

import argparse
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _report import RESULTS, table, write_report
from stable_baselines3 import PPO
from tqdm import tqdm

from common.engine.config import load_config
from control.envs.warehouse.env import AGVWarehouse
from control.rl.rnd.runner import build
from control.rl.rnd.warehouses import warehouses

CONFIG = "configs/control/agv/rnd_simple.py"
ENVS, DRAWN = 32, 4096  # environments side by side; random actions, drawn before the clock runs


def single(env: gym.Env) -> Callable[[], int]:
    """A function that steps an environment once under a random action, and resets it where an episode ends."""
    space = env.action_space
    actions = cycle(np.random.default_rng(0).uniform(space.low, space.high, (DRAWN, *space.shape)).astype(np.float32))
    env.reset(seed=0)

    def step() -> int:
        *_, ended, cut, _ = env.step(next(actions))
        if ended or cut:
            env.reset()
        return 1

    return step


def together(envs) -> Callable[[], int]:
    """The same for many at once."""
    space, shape = envs.action_space, (DRAWN // ENVS, envs.num_envs, *envs.action_space.shape)
    actions = cycle(np.random.default_rng(0).uniform(space.low, space.high, shape).astype(np.float32))
    envs.reset()

    def step() -> int:
        envs.step(next(actions))
        return envs.num_envs

    return step


def training(model) -> Callable[[], int]:
    """A rollout and its updates."""
    size = model.n_steps * model.n_envs
    model.learn(size)  # warm-up, and what is done once

    def step() -> int:
        model.learn(size, reset_num_timesteps=False)
        return size

    return step


def point_maze() -> gym.Env:
    import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)
    return gym.make("PointMaze_UMaze-v3")


def plain_ppo(backend: str) -> PPO:
    """stable-baselines3's own, with the settings of the config."""
    ours = load_config(CONFIG, {"environment.backend": backend}).algorithm
    kept = ("n_steps", "batch_size", "n_epochs", "learning_rate", "gamma", "ent_coef")
    return PPO("MlpPolicy", warehouses(ENVS, backend, layout="Simple"), seed=0, device="cpu", vf_coef=0.5,
               policy_kwargs={"net_arch": [64, 64]}, **{key: ours[key] for key in kept})  # fmt: skip


def with_bonus(backend: str):
    return build(load_config(CONFIG, {"environment.backend": backend, "environment.count": ENVS}), seed=0)


def contenders() -> dict[str, Callable[[], int]]:
    """name -> a function that does a piece of work and returns its steps."""
    made = {}
    for level in ("Simple", "SimpleDynamic", "ComplexDynamic"):
        for backend in ("mujoco", "kinematic"):
            made[f"1 x {level}, {backend}"] = single(AGVWarehouse(level, backend))
    made["1 x PointMaze_UMaze-v3"] = single(point_maze())
    for backend in ("mujoco", "kinematic"):
        made[f"{ENVS} x Simple, {backend}"] = together(warehouses(ENVS, backend, layout="Simple"))
    for backend in ("mujoco", "kinematic"):
        made[f"training, {backend}, PPO of stable-baselines3"] = training(plain_ppo(backend))
        made[f"training, {backend}, PPO and bonus"] = training(with_bonus(backend))
    return made


def measure(made: dict[str, Callable[[], int]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Steps per second of every contender in every round; the order turns round from one to the next."""
    found: dict[str, list[float]] = {name: [] for name in made}
    for number in tqdm(range(rounds), desc="rounds", dynamic_ncols=True):
        for name in list(made)[:: 1 if number % 2 == 0 else -1]:
            steps, begun = 0, time.perf_counter()
            while time.perf_counter() - begun < seconds:
                steps += made[name]()
            found[name].append(steps / (time.perf_counter() - begun))
    return found


def body(found: dict[str, list[float]]) -> str:
    medians = {name: float(np.median(values)) for name, values in found.items()}
    rows = [[name, f"{medians[name]:,.0f}", f"{min(found[name]):,.0f} .. {max(found[name]):,.0f}"] for name in found]

    def ratio(name: str, other: str) -> str:
        each = np.divide(found[name], found[other])
        return f"{np.median(each):.2f} ({each.min():.2f} .. {each.max():.2f})"

    lines = [["Simple, MuJoCo / PointMaze", ratio("1 x Simple, mujoco", "1 x PointMaze_UMaze-v3")]]
    lines += [[f"training, {backend}: PPO and bonus / PPO of stable-baselines3",
               ratio(f"training, {backend}, PPO and bonus", f"training, {backend}, PPO of stable-baselines3")]
              for backend in ("mujoco", "kinematic")]  # fmt: skip
    return "\n\n".join([
        "One thread. A step of the warehouse is 0.2 s: ten of MuJoCo, 36 rays, the observation; PointMaze's is 0.01 s, "
        "one of MuJoCo, without rays.",
        table(["", "steps per second, median", "worst and best round"], rows),
        table(["ratio, round by round", "median (worst .. best)"], lines),
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--rounds", type=int, default=7)
    parse.add_argument("--seconds", type=float, default=2.0, help="of every contender and round")
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    args = parse.parse_args(argv)
    torch.set_num_threads(1)
    text = body(measure(contenders(), args.rounds, args.seconds))
    path = write_report("agv_throughput", "Steps per second of the warehouses", text, seeds=[0], folder=args.results)
    print(f"{text}\n\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
