"""`tutelage rollout OUT.onnx TASK`: an exported policy in closed loop with its task, through deploy.runtime alone."""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from common.errors import ConfigError
from control.demonstrations.collect import EVALUATION_SEEDS
from control.envs import make
from control.envs.scores import kinds, normalised_score
from control.pictures import save_png, strip
from control.rollout import Outcome, as_records, decides, returns, rollout, summary
from control.workers import Pool, local_pool, ray_pool
from deploy.runtime.control_loop import ControlLoop
from deploy.runtime.exported import open_manifest, open_policy


class RuntimeActor:
    """One exported policy per environment behind the interface of `control.rollout`."""

    def __init__(self, path: Path):
        self.path, self.policies = path, []

    def reset(self, seeds=None, mask=None) -> None:
        while len(self.policies) < len(seeds):
            self.policies.append(open_policy(self.path))
        for index, seed in enumerate(seeds):
            if mask is None or mask[index]:
                self.policies[index].reset(seed)

    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        count = len(next(iter(observation.values())))
        actions = np.zeros((count, len(self.policies[0].manifest.action_low)), np.float32)
        for i in range(count) if active is None else np.flatnonzero(active):
            actions[i] = self.policies[i].select_action({name: values[i] for name, values in observation.items()})
        return actions

    def rewarded(self, rewards: np.ndarray) -> None:
        """What the last actions earned (B,), to those that ask for it."""
        for policy, reward in zip(self.policies, rewards, strict=False):  # a last wave may be smaller
            if hasattr(policy, "rewarded"):
                policy.rewarded(float(reward))


def environment_of(manifest) -> dict:
    """What `make` has to be told, so that a task shows what the policy was trained on."""
    return {"observe": tuple(one.name for one in manifest.observations), **getattr(manifest, "environment", {})}


def closed_loop(path: Path, task: str, seeds: list[int], progress: bool = False) -> list[Outcome]:
    """Episodes of an exported policy, in the order of the seeds; where a return counts, they go on after a success."""
    environment = environment_of(open_manifest(path))
    return rollout(RuntimeActor(path), task, seeds, progress=progress, **environment)


def spread(path: Path, task: str, seeds: list[int], pool: Pool) -> list[Outcome]:
    """`closed_loop` in as many parts as the pool has workers: the same outcomes, in the order of the seeds. On Ray
    every machine must see `path`."""
    with pool as workers:
        parts = [seeds[i :: workers.workers] for i in range(min(workers.workers, len(seeds)))]
        for part in parts:
            workers.submit(closed_loop, path, task, part)
        found = {one.seed: one for _ in parts for one in workers.next()}
    return [found[seed] for seed in seeds]


def film(path: Path, task: str, seed: int) -> list[np.ndarray]:
    """Pictures (H, W, 3) of every step of an episode, the first and the last state included."""
    policy = open_policy(path)
    policy.reset(seed)
    env = make(task, render_mode="rgb_array", **environment_of(policy.manifest))
    seen, info = env.reset(seed=seed)
    frames, over = [env.render()], decides(info)
    while not over:
        seen, reward, ended, cut, info = env.step(policy.select_action(seen))
        if hasattr(policy, "rewarded"):
            policy.rewarded(float(reward))
        frames.append(env.render())
        over = ended or cut or decides(info)
    env.close()
    return frames


def real_time(
    path: Path, task: str, seed: int, hz: float, safe_action=None, on_miss: str = "hold"
) -> tuple[Outcome, dict]:
    """One episode in real time at `hz`: the simulation takes the place of the robot and does not wait for the policy.

    It moves on in every tick, whether the policy is in time or not: a tick whose action is missing gets the held,
    extrapolated or safe action (`ControlLoop`). Returns the outcome and the loop's summary, with `simulator_ms`, the
    mean time of a step of the simulation: the part of the period that the loop does not have.
    """
    policy = open_policy(path)
    policy.warm_up()
    policy.reset(seed)
    env = make(task, **environment_of(policy.manifest))
    seen, info = env.reset(seed=seed)
    state = {"observation": seen, "success": bool(info["success"]), "steps": 0, "info": info, "over": False}
    state["seconds"] = 0.0

    def send(action: np.ndarray, tick: int) -> None:
        if state["over"]:  # the safe action after an error in the last step
            return
        begin = time.perf_counter()
        state["observation"], reward, ended, cut, state["info"] = env.step(action)
        state["seconds"] += time.perf_counter() - begin
        state["steps"] += 1
        state["success"] |= bool(state["info"]["success"])
        state["over"] = ended or cut or decides(state["info"])
        if hasattr(policy, "rewarded"):
            policy.rewarded(float(reward))
        if state["over"]:
            loop.stop()

    if safe_action is None:
        safe_action = (np.asarray(policy.manifest.action_low) + np.asarray(policy.manifest.action_high)) / 2
    loop = ControlLoop(policy, lambda: state["observation"], send, np.asarray(safe_action, np.float32), hz, on_miss,
                       send_passed=True)  # fmt: skip
    try:
        loop.run(100_000)
    finally:
        env.close()
    timing = {**loop.summary(), "simulator_ms": 1e3 * state["seconds"] / max(1, state["steps"])}
    return Outcome(seed, state["success"], state["steps"], float(state["success"]), state["info"]), timing


def points(task: str, outcomes: list[Outcome]) -> str:
    """Mean return, and scores by the references that the task has; empty where episodes have no return."""
    if not all(returns(one.info) for one in outcomes):
        return ""
    earned = np.array([one.info["return"] for one in outcomes], float)
    told = [f"return {earned.mean():.1f} (standard error {earned.std() / max(1, len(earned) - 1) ** 0.5:.1f})"]
    for kind in kinds(task):
        told.append(f"normalised score {float(np.mean(normalised_score(task, earned, kind))):.1f} ({kind})")
    return ", ".join(told)


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="tutelage rollout", description=__doc__.split("\n")[0])
    parse.add_argument("model", type=Path, help="ONNX file of a policy; manifest and encoder beside it")
    parse.add_argument("task", help="e.g. MetaWorld-reach-v3")
    parse.add_argument("--episodes", type=int, default=20)
    parse.add_argument("--seed", type=int, default=EVALUATION_SEEDS, help="first layout seed")
    parse.add_argument("--hz", type=float, help="run in real time at this control rate, one episode at a time")
    parse.add_argument("--workers", type=int, help="processes side by side; default: 1, or all of Ray's cores")
    parse.add_argument("--ray", metavar="ADDRESS", help="run as Ray tasks; 'local' starts a Ray of its own")
    parse.add_argument("--out", type=Path, help="write every episode to this JSON file")
    parse.add_argument("--picture", type=Path, metavar="FILE.png", help="six moments of the first episode")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    several = args.ray or (args.workers or 1) > 1
    if args.hz and several:
        raise ConfigError("--hz runs in real time, one episode at a time: leave --workers and --ray out")
    seeds = list(range(args.seed, args.seed + args.episodes))
    if args.hz:
        results = [real_time(args.model, args.task, seed, args.hz) for seed in seeds]
        outcomes = [outcome for outcome, _ in results]
        worst = max(timing["max_ms"] for _, timing in results)
        rate = float(np.mean([timing["miss_rate"] for _, timing in results]))
        simulator = float(np.mean([timing["simulator_ms"] for _, timing in results]))
        print(f"at {args.hz:g} Hz: slowest call {worst:.2f} ms, miss rate {rate:.4f}, simulator {simulator:.2f} ms of "
              f"{1e3 / args.hz:.2f} ms per tick")  # fmt: skip
        if simulator > 500 / args.hz:
            print("the simulator takes most of a tick, so misses are not the policy's alone: lower --hz")
    elif several:
        pool = ray_pool(args.ray, args.workers) if args.ray else local_pool(args.workers)
        outcomes = spread(args.model.resolve(), args.task, seeds, pool)
    else:
        outcomes = closed_loop(args.model, args.task, seeds, progress=True)
    found = summary(outcomes)
    low, high = found["success_low"], found["success_high"]
    print(f"success {found['success']:.3f} [{low:.3f}, {high:.3f}] (95 % Wilson) over {len(outcomes)} episodes, "
          f"{found['steps']:.1f} steps")  # fmt: skip
    if earned := points(args.task, outcomes):
        print(earned)
    if args.out:
        args.out.write_text(json.dumps(as_records(outcomes), default=str) + "\n")
    if args.picture:
        print(f"picture: {save_png(strip(film(args.model, args.task, seeds[0])), args.picture)}")
    return 0
