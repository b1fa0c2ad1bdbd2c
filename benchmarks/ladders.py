"""How many actions a ladder should execute per call: 1, 2, 4 or 8, at one network evaluation per call.

Worst-case latency is that of one evaluation in every row; fewer calls cost less, and react later. A row of k actions
gives each of them 16 / k denoising steps. Networks and layouts are those of benchmarks/metaworld_streaming.py (trained
here where they are missing), whose ladder of one action is the first row. What is measured is kept beside each network.
Writes benchmarks/results/ladders.md.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _policies import identity, in_parallel, kept_successes, network_parser, rate
from _report import describe_device, table, training_cost, write_report
from metaworld_streaming import PLAIN, REACTIVE, ROUTES, gap, trainings

from common.engine.config import parse_options
from common.engine.experiments import Job, run
from control.policies.policy import DiffusionPolicy
from control.policies.streaming import ladder_plan
from control.trainings import trained

EXECUTE = (1, 2, 4, 8)


def measured(job: Job, task: str, execute: int, layouts: int) -> tuple[str, int, int, list[float]]:
    """(task, actions per call, seed, successes of the layouts) of one training."""
    torch.set_num_threads(1)
    model = trained(job)[1]
    plan = ladder_plan(model.horizon, execute, 1)
    key = identity(job, plan, task, layouts)
    found = kept_successes(job.work_dir / "ladders", str(execute), key, DiffusionPolicy(model, plan), task, layouts)
    return task, execute, job.seed, found


def sweep(jobs: dict[str, list[Job]], layouts: int, workers: int) -> dict[tuple[str, int], np.ndarray]:
    """(task, actions per call) -> (trainings, layouts) successes, several at a time."""
    cells = [(job, task, execute, layouts) for task in jobs for execute in EXECUTE for job in jobs[task]]
    found: dict[tuple[str, int], dict] = {}
    for task, execute, seed, successes in in_parallel(measured, cells, workers, "ladders"):
        found.setdefault((task, execute), {})[seed] = successes
    return {(task, n): np.array([rows[job.seed] for job in jobs[task]]) for (task, n), rows in found.items()}


def report(found: dict, tasks: list[str]) -> str:
    """Successes and, paired by layout and training seed, what more actions per call gain over one."""
    heads = [task.removeprefix("MetaWorld-") for task in tasks]
    rates = [[str(n), *(rate(found[task, n]) for task in tasks)] for n in EXECUTE]
    gaps = [[f"{n} - 1", *(gap(found[task, 1], found[task, n]) for task in tasks)] for n in EXECUTE[1:]]
    return "\n\n".join([table(["actions per call", *heads], rates), table(["difference", *heads], gaps)])


def main(argv: list[str] | None = None) -> int:
    args = network_parser(__doc__, [*PLAIN, *REACTIVE, ROUTES]).parse_args(argv)
    made = trainings(args.work_dir, args.tasks, args.seeds, args.iterations, args.demonstrations, args.layouts,
                     ("streaming",), parse_options(args.cfg_options))  # fmt: skip
    run([job for part in made.values() for job in part], parallel=args.parallel)
    jobs = {task: made[task, "streaming"] for task in args.tasks}
    parts = [
        f"{args.iterations} iterations per network, {len(args.seeds)} trainings x {args.layouts} held-out layouts per "
        "cell. Success and differences (paired by layout and training seed) with 95 % bootstrap intervals over both; "
        "where all episodes of a cell agree, Wilson's.",
        report(sweep(jobs, args.layouts, args.parallel), args.tasks),
        training_cost(job for part in made.values() for job in part),
    ]
    body = "\n\n".join(parts)
    path = write_report("ladders", "Actions per call of a ladder at one evaluation", body, seeds=args.seeds,
                        device=describe_device(), folder=args.results)  # fmt: skip
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
