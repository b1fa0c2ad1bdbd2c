"""`tutelage export` for policies without memory, trained by stable-baselines3: CONFIG CHECKPOINT OUT.onnx."""

import argparse

import numpy as np

from deploy.onnx_common import export_parser, onnx_path, provenance
from deploy.reactive_export import Parity, difference, export_actor
from deploy.runtime.reactive import ReactivePolicy

TOLERANCE = 1e-5
MEANING = ("speed", "observe_pose", "goal_visibility")  # options that decide what a policy is shown, and commands


class TorchActor:
    """The policy in PyTorch behind the interface of `control.rollout`."""

    def __init__(self, model):
        self.model = model

    def reset(self, seeds=None, mask=None) -> None:
        pass

    def act(self, observations: np.ndarray) -> np.ndarray:
        """(B, O) -> (B, A): the mean, clipped."""
        return self.model.predict(observations, deterministic=True)[0]

    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        return self.act(observation["state"])


def load_actor(config, checkpoint: str) -> TorchActor:
    """The config's policy with a checkpoint's weights. Raises: CheckpointError."""
    from control.rl.rnd import checkpoint as checkpoints
    from control.rl.rnd.runner import PPO, build

    config.environment["count"] = 1
    config.algorithm["batch_size"] = config.algorithm.get("n_steps", PPO["n_steps"])  # of one environment's rollout
    model = build(config, seed=0)
    checkpoints.load(model, checkpoint, resume=False)
    return TorchActor(model)


def observations_of(actor: TorchActor, config, count: int) -> np.ndarray:
    """(2 count + 3, O): drawn from the box, seen by the policy under its own actions, the box's corners and middle."""
    from control.rl.rnd.warehouses import EVALUATION_SEED, warehouses

    space = actor.model.observation_space
    drawn = np.random.default_rng(0).uniform(space.low, space.high, (count, *space.shape)).astype(np.float32)
    envs = warehouses(**{**config.environment, "count": 16, "backend": "kinematic"}, seed=EVALUATION_SEED)
    seen = [envs.reset()]
    while 16 * len(seen) < count:
        seen.append(envs.step(actor.act(seen[-1]))[0])
    edges = np.stack([space.low, np.zeros_like(space.low), space.high])
    return np.concatenate([drawn, np.concatenate(seen)[:count], edges])


def parity(actor: TorchActor, policy: ReactivePolicy, config, count: int = 1024, episodes: int = 20) -> Parity:
    """PyTorch against the exported graph: on drawn and on seen observations, and in closed loops with equal seeds."""
    from control.rl.rnd.warehouses import episodes as play

    observations = observations_of(actor, config, count)
    worst = difference(actor.act, policy.act, observations)
    given = {**config.environment, "backend": "kinematic"}
    given.pop("count")
    pairs = list(zip(*(play(act, episodes, **given) for act in (actor.act, policy.act)), strict=True))
    same = sum(a["is_success"] == b["is_success"] and a["is_collision"] == b["is_collision"] for a, b in pairs)
    apart = max((abs(a["path_length"] / max(b["path_length"], 1e-9) - 1) for a, b in pairs), default=0.0)
    return Parity(worst, len(observations), same, len(pairs), apart)


def parser() -> argparse.ArgumentParser:
    parse = export_parser("Export a policy without memory: one graph.", "OUT.onnx; OUT.json is written beside it")
    parse.add_argument("--episodes", type=int, default=20, help="closed loops of the parity check; 0: none")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Export, then compare; 1 if an action differs by more than 1e-5, or an episode ends otherwise."""
    args = parser().parse_args(argv)
    from common.engine.config import load_config, parse_options
    from control.envs.warehouse import IDS
    from control.envs.warehouse.levels import CONTROL_PERIOD

    out = onnx_path(args.out)
    config = load_config(args.config, parse_options(args.cfg_options))
    actor = load_actor(config, args.checkpoint)
    layout = str(config.environment["layout"])
    export_actor(
        actor.model.policy, out, rate_hz=1 / CONTROL_PERIOD,
        task=f"AGVWarehouse-{layout}-v0" if layout in IDS else "",
        environment={key: config.environment[key] for key in MEANING if key in config.environment},
        source=provenance(args.config, args.checkpoint),
    )  # fmt: skip
    found = parity(actor, ReactivePolicy(out), config, episodes=args.episodes)
    print(f"{out}: {out.stat().st_size / 1024:.1f} kB")
    print(f"actions differ by at most {found.worst:.2e} on {found.count} observations (limit {TOLERANCE:g})")
    if found.episodes:
        print(f"closed loop: {found.same} of {found.episodes} episodes end alike, ways differ by {found.apart:.2%}")
    return 0 if found.worst <= TOLERANCE and found.same == found.episodes else 1
