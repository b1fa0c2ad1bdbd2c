"""`python -m control.demonstrations.references TASK ...`: own references of scores (control/envs/scores.py): mean
returns of random actions and, in the mazes, of the waypoint controller; elsewhere of the agents that are given."""

import argparse
import json
from pathlib import Path

import numpy as np

from control.demonstrations.collect import EVALUATION_SEEDS
from control.envs import make
from control.envs.registry import task as find_task
from control.workers import in_order, local_pool


def episode_return(task: str, seed: int, kind: str) -> float:
    """Return of one episode: "random" actions, uniform in their range, or the maze's "controller"."""
    from control.demonstrations.mazes import GoalController

    env, draws, controller = make(task), np.random.default_rng((seed, 0x4EF)), GoalController()
    _, info = env.reset(seed=seed)
    low, high = env.action_space.low, env.action_space.high
    cut = ended = False
    while not (ended or cut):
        action = draws.uniform(low, high) if kind == "random" else controller(env.unwrapped)
        *_, ended, cut, info = env.step(action)
    env.close()
    return float(info["return"])


def measure(task: str, episodes: int = 100, workers: int | None = None, agent: Path | None = None) -> dict[str, tuple]:
    """{"random": (mean, deviation), "controller" or "agent": ...} over the evaluation's first seeds."""
    seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + episodes)
    kinds = ("random", "controller") if find_task(task).world.endswith(":Maze2D") else ("random",)
    with local_pool(workers) as pool:
        found = {kind: in_order(pool, episode_return, [(task, seed, kind) for seed in seeds]) for kind in kinds}
    if agent:
        from control.demonstrations.agent import AgentPolicy, load_agent
        from control.rollout import rollout

        outcomes = rollout(AgentPolicy(load_agent(agent, task)), task, seeds)
        found["agent"] = [one.info["return"] for one in outcomes]
    return {kind: (float(np.mean(returns)), float(np.std(returns))) for kind, returns in found.items()}


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(prog="python -m control.demonstrations.references", description=__doc__)
    parse.add_argument("tasks", nargs="+")
    parse.add_argument("--episodes", type=int, default=100)
    parse.add_argument("--workers", type=int, help="processes; default: one per core")
    parse.add_argument("--agent", type=Path, help="an agent's .pth or .zip, for its mean return")
    args = parse.parse_args(argv)
    for task in args.tasks:
        found = measure(task, args.episodes, args.workers, args.agent)
        rounded = {kind: [round(value, 2) for value in pair] for kind, pair in found.items()}
        print(json.dumps({"task": task, "episodes": args.episodes, **rounded}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
