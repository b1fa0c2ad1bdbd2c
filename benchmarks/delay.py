"""Success when the answers of a policy come 0 to 4 control steps late: Diffusion Policy, Streaming Diffusion Policy, a
ladder at one evaluation per call, and the same ladder behind a clean prefix of the actions in flight.

The networks are those of benchmarks/metaworld_streaming.py (trained here where they are missing); the layouts are the
same 50 for all. What is measured is kept beside each network. Writes benchmarks/results/delay.md and one plot per task.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _policies import identity, in_parallel, interval, kept_successes, network_parser
from _report import describe_device, table, training_cost, write_report
from metaworld_streaming import ROUTES, trainings

from common.engine.config import parse_options
from common.engine.experiments import Job, run
from common.statistics import paired_difference
from control.delay import DelayedActor
from control.envs import make
from control.pictures import success_over_delay
from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, delayed_plan, ladder_plan
from control.trainings import trained

DELAYS = (0, 1, 2, 3, 4)
EXECUTE = 8
# way of running: (delay, horizon) -> (plan, calls every so many steps, actions of an answer that are out of date)
WAYS = {
    "Diffusion Policy, DDIM-10": lambda d, T: (chunk_plan(T, EXECUTE + d, 10), EXECUTE, d),
    "Streaming Diffusion Policy's ladder": lambda d, T: (ladder_plan(T, EXECUTE, 50, eta=1.0), EXECUTE, 0),
    "ours: ladder": lambda d, T: (ladder_plan(T, 1), 1, 0),
    "ours: ladder behind a clean prefix": lambda d, T: (delayed_plan(T, 1, d), 1, 0),
}
OURS = "ours: ladder behind a clean prefix"


def delayed_actor(model, task: str, way: str, delay: int) -> DelayedActor:
    """A way of running whose answers come `delay` steps late. Until the first is there the robot stands still, and the
    plan behind a clean prefix is told so: these are the actions in flight."""
    plan, every, drop = WAYS[way](delay, model.horizon)
    space = make(task).action_space
    idle = (space.low + space.high) / 2
    anchor = torch.zeros(model.horizon, len(idle))
    anchor[: plan.first] = model.actions(torch.as_tensor(idle, dtype=torch.float32)).detach()
    return DelayedActor(DiffusionPolicy(model, plan, "constant", anchor), delay, every, drop, idle)


def measured(job: Job, task: str, way: str, delay: int, layouts: int) -> tuple[str, int, int, list[float]]:
    """(way, delay, seed, successes of the layouts) of one training; kept in its folder under all that decides them."""
    torch.set_num_threads(1)
    model = trained(job)[1]
    plan, every, drop = WAYS[way](delay, model.horizon)
    key = identity(job, plan, task, layouts, way=way, every=every, drop=drop, delay=delay)
    policy = delayed_actor(model, task, way, delay)
    found = kept_successes(job.work_dir / "delay", f"{way} {delay}", key, policy, task, layouts)
    return way, delay, job.seed, found


def sweep(jobs: list[Job], task: str, layouts: int, workers: int) -> dict[tuple[str, int], np.ndarray]:
    """(way, delay) -> (trainings, layouts) successes, several at a time."""
    cells = [(job, task, way, delay, layouts) for way in WAYS for delay in DELAYS for job in jobs]
    found: dict[tuple[str, int], dict] = {}
    for way, delay, seed, successes in in_parallel(measured, cells, workers, task):
        found.setdefault((way, delay), {})[seed] = successes
    return {key: np.array([rows[job.seed] for job in jobs]) for key, rows in found.items()}


def report(found: dict, task: str) -> tuple[str, dict]:
    """Table and differences of one task, and the rates for the plot; found: (way, delay) -> (trainings, layouts)."""
    rates, lines = {}, []
    for way in WAYS:
        rates[way] = []
        for delay in DELAYS:
            scores = found[way, delay]
            rates[way].append((float(scores.mean()), *interval(scores)))
        lines.append([way, *(f"{rate:.2f} [{low:.2f}, {high:.2f}]" for rate, low, high in rates[way])])
    differences = []
    for way in WAYS:
        if way != OURS:
            gaps = [paired_difference(found[way, delay], found[OURS, delay]) for delay in DELAYS]
            differences.append([f"{OURS} - {way}", *(f"{m:+.2f} [{lo:+.2f}, {hi:+.2f}]" for m, lo, hi in gaps)])
    heads = ["delay in control steps", *map(str, DELAYS)]
    body = f"## {task}\n\n{table(heads, lines)}\n\nPaired by layout and training seed, 95 % bootstrap over both:\n\n"
    return body + table(["difference", *map(str, DELAYS)], differences), rates


def main(argv: list[str] | None = None) -> int:
    args = network_parser(__doc__, ["MetaWorld-reach-moving-v0", ROUTES]).parse_args(argv)
    jobs = trainings(args.work_dir, args.tasks, args.seeds, args.iterations, args.demonstrations, args.layouts,
                     ("streaming",), parse_options(args.cfg_options))  # fmt: skip
    run([job for part in jobs.values() for job in part], parallel=args.parallel)
    parts = [
        f"{args.iterations} iterations per network, {len(args.seeds)} trainings x {args.layouts} held-out layouts per "
        "cell. Success with its 95 % bootstrap interval over both. An answer that is asked for at a step arrives so "
        "many steps later; Diffusion Policy throws the actions away that are out of date by then, the ladders without "
        "a prefix are played late."
    ]
    for task in args.tasks:
        found = sweep(jobs[task, "streaming"], task, args.layouts, args.parallel)
        body, rates = report(found, task)
        name = f"delay_{task.removeprefix('MetaWorld-')}.png"
        args.results.mkdir(parents=True, exist_ok=True)
        success_over_delay(rates, list(DELAYS), args.results / name)
        parts += [body, f"![success over delay]({name})"]
    parts += [training_cost(job for part in jobs.values() for job in part)]
    body = "\n\n".join(parts)
    path = write_report("delay", "Policies whose answers come late", body, seeds=args.seeds,
                        device=describe_device(), folder=args.results)  # fmt: skip
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
