"""One network evaluation per control step against Diffusion Policy, Streaming Diffusion Policy and behaviour cloning.

Six Meta-World tasks, two reactive tasks and the two-route task; three training seeds; fifty held-out layouts each. One
mixture-trained network per task and seed runs as DDPM-100, DDIM-10 and as a ladder; on two tasks a network trained on
equal levels alone shows what the mixture costs Diffusion Policy. Negative control: a network trained on independent
levels alone. Finished trainings are kept, killed ones resumed. Writes benchmarks/results/metaworld_streaming.md.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _policies import episodes, rate, scores
from _report import RESULTS, describe_device, table, training_cost, write_report

from common.engine.config import parse_options
from common.engine.experiments import Job, run
from common.statistics import paired_difference
from control.envs.registry import TASKS
from control.policies.evaluation import actor
from control.timing import step_times, undisturbed_worst
from control.trainings import cost, demonstrations, evaluation_options, state_options, trained

EASY_TO_HARD = ("reach-v3", "button-press-topdown-v3", "drawer-open-v3", "door-open-v3", "push-v3", "pick-place-v3")
PLAIN = tuple(f"MetaWorld-{name}" for name in EASY_TO_HARD)
REACTIVE = ("MetaWorld-reach-moving-v0", "MetaWorld-push-pushed-v0")
ROUTES = "TwoRoutes-v0"
ROWS = {  # row: (config, plan)
    "Diffusion Policy, DDPM-100": ("streaming", "DDPM100"),
    "Diffusion Policy, DDIM-10": ("streaming", "DDIM10"),
    "Diffusion Policy, DDIM-10, one action per call": ("streaming", "DDIM10x1"),
    "Streaming Diffusion Policy, as published": ("sdp", "SDP"),
    "ours: ladder, one evaluation per control step": ("streaming", "streaming"),
    "behaviour cloning, MLP": ("cloning", "BC"),
    "ladder on a network of independent levels": ("iid", "streaming"),
}
REFERENCE, OURS = "Diffusion Policy, DDPM-100", "ours: ladder, one evaluation per control step"
ALONE = {  # row: (config, plan); networks of Diffusion Policy's own training, on these tasks only
    "DDPM-100, trained on equal levels alone": ("dp", "DDPM100"),
    "DDIM-10, trained on equal levels alone": ("dp", "DDIM10"),
}
ALONE_ON = ("MetaWorld-push-v3", "MetaWorld-reach-moving-v0")
CONFIGS = tuple(dict.fromkeys(config for config, _ in ROWS.values()))


def trainings(
    work_dir: Path,
    tasks: list[str],
    seeds: list[int],
    iterations: int,
    count: int,
    layouts: int,
    configs: tuple[str, ...] = CONFIGS,
    options: dict | None = None,
) -> dict[tuple[str, str], list[Job]]:
    """(task, config) -> one training per seed, of demonstrations that are collected where they are missing. options: of
    all configs."""
    jobs = {}
    for task in tasks:
        about = state_options(task, demonstrations(work_dir, task, count))
        shared = {"batch_size": 64, **about, **(options or {})}
        for config in (*configs, *(("dp",) if task in ALONE_ON and configs == CONFIGS else ())):
            path, jobs[task, config] = f"configs/control/sdp/{config}_metaworld_state.py", []
            for seed in seeds:
                folder = work_dir / task / config / f"seed{seed}"
                given = {**shared, **evaluation_options(folder, layouts)}
                if config == "streaming":  # no row runs the ladder of chunks
                    given["val_cfg.plans.SDP"] = None
                jobs[task, config].append(Job(f"{task}/{config}/{seed}", path, folder, iterations, given, seed))
    return jobs


def of_row(jobs: dict, task: str, row: str) -> np.ndarray:
    """(trainings, layouts) successes of a row on a task."""
    config, plan = ROWS[row]
    return scores(jobs[task, config], plan)


def gap(first: np.ndarray, second: np.ndarray) -> str:
    """Mean of second - first with its interval."""
    mean, low, high = paired_difference(first, second)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def success_table(jobs: dict, tasks: tuple[str, ...]) -> str:
    """Success per task with its interval over layouts and trainings."""
    lines = []
    for row in ROWS:
        found = [of_row(jobs, task, row) for task in tasks]
        lines.append([row, *map(rate, found), f"{np.mean([one.mean() for one in found]):.3f}"])
    return table(["", *(task.removeprefix("MetaWorld-") for task in tasks), "mean"], lines)


def differences(jobs: dict, tasks: tuple[str, ...]) -> str:
    """Ours minus each other row, per task and over all of them, paired by layout and training seed."""
    lines = []
    for row in ROWS:
        if row != OURS:
            pairs = [(of_row(jobs, task, row), of_row(jobs, task, OURS)) for task in tasks]
            whole = tuple(np.concatenate(side, 1) for side in zip(*pairs, strict=True))
            lines.append([f"ours - {row}", *(gap(*pair) for pair in pairs), gap(*whole)])
    return table(["difference", *(task.removeprefix("MetaWorld-") for task in tasks), "all"], lines)


def alone(jobs: dict) -> str:
    """Diffusion Policy on networks of its own training, and what the mixture's do more or less, task by task."""
    lines = []
    for task in (task for task in ALONE_ON if (task, "dp") in jobs):
        for row, (config, plan) in ALONE.items():
            own, mixed = scores(jobs[task, config], plan), scores(jobs[task, "streaming"], plan)
            lines.append([f"{task.removeprefix('MetaWorld-')}: {row}", rate(own), rate(mixed), gap(own, mixed)])
    return table(["", "success", "the mixture's network", "mixture - alone"], lines)


def routes(jobs: dict) -> str:
    """The two-route task: by which side the rollouts passed, how many changed sides or met the obstacle."""
    lines, into = [], {}
    for row, (config, plan) in ROWS.items():
        found = [[one["info"] for one in episodes(job, plan)] for job in jobs[ROUTES, config]]
        side, switches, hit = (np.array([[int(one[key]) for one in row_] for row_ in found])
                               for key in ("side", "switches", "collision"))  # fmt: skip
        into[row] = (hit > 0) & (switches > 0)
        shares = (side < 0, side > 0, switches > 0, hit > 0, into[row])
        lines.append([row, rate(of_row(jobs, ROUTES, row)), *map(rate, shares)])
    heads = ["", "success", "passed on the left", "passed on the right", "changed sides", "met the obstacle",
             "changed sides and met it"]  # fmt: skip
    return (
        table(heads, lines)
        + "\n\nChanged sides and met the obstacle, ours - Diffusion Policy (DDPM-100), paired as above: "
        + gap(into[REFERENCE], into[OURS])
        + ". All shares are of all rollouts; what passed on neither side met the obstacle or ran out of time."
    )


def latency(jobs: dict, task: str, steps: int) -> str:
    """Milliseconds per control step of one environment, all ways of running in turn on the same machine."""
    policies = {}
    for row, (config, plan) in ROWS.items():
        cfg, model = trained(jobs[task, config][0])
        policies[row] = actor(model, cfg.val_cfg.plans[plan])
    times = step_times(policies, task, steps)
    worst = {row: (found.max(), undisturbed_worst(found)) for row, found in times.items()}
    lines = []
    for row, found in times.items():
        evaluations, execute = cost(policies[row])
        lines.append([row, str(evaluations), f"{evaluations / execute:g}", f"{found.mean():.2f}",
                      f"{np.percentile(found, 99):.2f}", *(f"{one:.2f}" for one in worst[row]),
                      *(f"{one / own:.1f}" for one, own in zip(worst[row], worst[OURS], strict=True))])  # fmt: skip
    heads = ["", "evaluations per call", "per action", "mean ms", "p99 ms", "worst ms", "worst ms, undisturbed",
             "worst / ours", "undisturbed / ours"]  # fmt: skip
    repeats = next(iter(times.values())).shape[0]
    return (
        table(heads, lines)
        + f"\n\n{task.removeprefix('MetaWorld-')}, PyTorch on one thread, observation to action, {repeats} x {steps} "
        "steps of each way in turns over the same observations, after a warm-up and without garbage collection. "
        "Undisturbed: every step at its quickest repeat, then the slowest step; the rest of `worst` is the machine's."
    )


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parse.add_argument("--tasks", nargs="+", default=[*PLAIN, *REACTIVE, ROUTES], choices=sorted(TASKS), metavar="TASK")
    parse.add_argument("--demonstrations", type=int, default=50)
    parse.add_argument("--iterations", type=int, default=1500, help="of 64 windows")
    parse.add_argument("--layouts", type=int, default=50, help="held-out layouts per task and training")
    parse.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    parse.add_argument("--steps", type=int, default=400, help="control steps of the latency measurement")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/metaworld_streaming"))
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    parse.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V", help="overrides of every config")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    jobs = trainings(args.work_dir, args.tasks, args.seeds, args.iterations, args.demonstrations, args.layouts,
                     options=parse_options(args.cfg_options))  # fmt: skip
    run([job for part in jobs.values() for job in part], parallel=args.parallel)
    plain, reactive = (tuple(task for task in group if task in args.tasks) for group in (PLAIN, REACTIVE))
    parts = [
        f"{args.demonstrations} demonstrations and {args.iterations} iterations per network, of 64 windows if "
        f"no option says otherwise, {args.layouts} held-out "
        f"layouts per task and training, {len(args.seeds)} trainings. Success and differences (paired by layout and "
        "training seed) with 95 % bootstrap intervals over layouts and trainings; where all episodes of a cell agree, "
        "Wilson's. Diffusion Policy's rows and ours are the same networks, trained on a mixture of noise levels."
    ]
    for title, tasks in (("Meta-World", plain), ("Reactive tasks", reactive)):
        if tasks:
            parts += [f"## {title}", success_table(jobs, tasks), differences(jobs, tasks)]
    if any(config == "dp" for _, config in jobs):
        parts += ["## Diffusion Policy on networks of its own training", alone(jobs)]
    if ROUTES in args.tasks:
        parts += ["## Two routes", routes(jobs)]
    parts += ["## Latency per control step", latency(jobs, args.tasks[0], args.steps)]
    parts += [training_cost(job for part in jobs.values() for job in part)]
    body = "\n\n".join(parts)
    path = write_report("metaworld_streaming", "Streaming policies in Meta-World", body, seeds=args.seeds,
                        device=describe_device(), folder=args.results)  # fmt: skip
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
