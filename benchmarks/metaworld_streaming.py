"""Streaming at one network evaluation per call against Diffusion Policy, Streaming Diffusion Policy and plain cloning.

Six Meta-World tasks, two reactive tasks and the two-route task; three training seeds; fifty held-out layouts each. One
mixture-trained network per task and seed runs as DDPM-100, DDIM-10 and as a ladder. Negative control: a network trained
on independent levels alone. Finished trainings are kept, killed ones resumed. Writes
benchmarks/results/metaworld_streaming.md.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _policies import episodes, evaluation_folder, scores
from _report import describe_device, table, write_report

from common.engine.experiments import Job, run
from control.demonstrations.collect import Settings, collect
from control.envs import make
from control.envs.registry import TASKS
from control.rollout import paired_difference, wilson

EASY_TO_HARD = ("reach-v3", "button-press-topdown-v3", "drawer-open-v3", "door-open-v3", "push-v3", "pick-place-v3")
PLAIN = tuple(f"MetaWorld-{name}" for name in EASY_TO_HARD)
REACTIVE = ("MetaWorld-reach-moving-v0", "MetaWorld-push-pushed-v0")
ROUTES = "TwoRoutes-v0"
ROWS = {  # row: (config, plan, network evaluations per call, actions per call)
    "Diffusion Policy, DDPM-100": ("streaming", "DDPM100", 100, 8),
    "Diffusion Policy, DDIM-10": ("streaming", "DDIM10", 10, 8),
    "Streaming Diffusion Policy, as published": ("sdp", "SDP", 50, 8),
    "ours: ladder, one evaluation per call": ("streaming", "streaming", 1, 2),
    "behaviour cloning, MLP": ("cloning", "BC", 1, 1),
    "ladder on a network of independent levels": ("iid", "streaming", 1, 2),
}
REFERENCE, OURS = "Diffusion Policy, DDPM-100", "ours: ladder, one evaluation per call"


def demonstrations(work_dir: Path, task: str, count: int) -> Path:
    """The task's demonstrations, collected once."""
    folder = work_dir / "demonstrations" / task
    if not folder.exists():
        print(collect(Settings(task), folder, count), flush=True)
    return folder


CONFIGS = tuple(dict.fromkeys(config for config, *_ in ROWS.values()))


def trainings(
    work_dir: Path, tasks: list[str], seeds: list[int], iterations: int, count: int, configs: tuple[str, ...] = CONFIGS
) -> dict:
    """(task, config) -> one training per seed, of demonstrations that are collected where they are missing."""
    jobs = {}
    for task in tasks:
        env = make(task)
        data = demonstrations(work_dir, task, count)
        for config in configs:
            jobs[task, config] = []
            for seed in seeds:
                folder = work_dir / task / config / f"seed{seed}"
                options = {
                    "task": task,
                    "demonstrations": str(data),
                    "model.action_dim": env.action_space.shape[0],
                    "model.encoders.state.width": env.observation_space["state"].shape[0],
                    **evaluation_folder(folder),
                }
                path = f"configs/control/sdp/{config}_metaworld_state.py"
                jobs[task, config].append(Job(f"{task}/{config}/{seed}", path, folder, iterations, options, seed))
    return jobs


def success_table(jobs: dict, tasks: tuple[str, ...]) -> str:
    """Success per task with Wilson's interval over all trainings' episodes."""
    lines = []
    for row, (config, plan, *_) in ROWS.items():
        cells, rates = [], []
        for task in tasks:
            found = scores(jobs[task, config], plan)
            low, high = wilson(int(found.sum()), found.size)
            cells.append(f"{found.mean():.2f} [{low:.2f}, {high:.2f}]")
            rates.append(found.mean())
        lines.append([row, *cells, f"{np.mean(rates):.3f}"])
    return table(["", *(task.removeprefix("MetaWorld-") for task in tasks), "mean"], lines)


def differences(jobs: dict, tasks: tuple[str, ...]) -> str:
    """Ours minus each other row: every task's episodes side by side, paired by layout and training seed."""
    lines = []
    for row in ROWS:
        if row == OURS:
            continue
        first, second = (
            np.concatenate([scores(jobs[task, ROWS[one][0]], ROWS[one][1]) for task in tasks], 1) for one in (row, OURS)
        )
        mean, low, high = paired_difference(first, second)
        lines.append([f"ours - {row}", f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"])
    return table(["difference", "success"], lines)


def routes(jobs: dict) -> str:
    """The two-route task: sides of the rollouts that passed the obstacle, collisions."""
    lines = []
    for row, (config, plan, *_) in ROWS.items():
        found = [one for job in jobs[ROUTES, config] for one in episodes(job, plan)]
        sides = np.array([one["info"]["side"] for one in found])
        passed = max(1, int((sides != 0).sum()))
        collisions = sum(bool(one["info"]["collision"]) for one in found)
        lines.append([row, f"{np.mean([one['success'] for one in found]):.2f}", f"{(sides > 0).sum() / passed:.2f}",
                      f"{collisions / len(found):.3f}"])  # fmt: skip
    return table(["", "success", "right of the obstacle", "into the obstacle"], lines)


def latency(jobs: dict, task: str, steps: int) -> str:
    """Milliseconds per control step of one environment, all ways of running on the same machine, one after another."""
    from common.engine.checkpoint import load_weights
    from common.engine.config import load_config
    from control.demo import step_times
    from control.policies.evaluation import actor
    from control.policies.model import build

    lines, worst = [], {}
    for row, (config, plan, evaluations, execute) in ROWS.items():
        job = jobs[task, config][0]
        cfg = load_config(job.config, job.options)
        model = build(cfg.model)
        load_weights(model, str(job.checkpoint))
        times = step_times(actor(model.eval(), cfg.val_cfg.plans[plan]), task, steps)
        worst[row] = times.max()
        lines.append([row, f"{evaluations / execute:g}", f"{times.mean():.2f}", f"{np.percentile(times, 99):.2f}",
                      f"{times.max():.2f}", f"{times.max() / worst[REFERENCE]:.4f}"])  # fmt: skip
    heads = ["", "evaluations per action", "mean ms", "p99 ms", "worst ms", "worst / DDPM-100's worst"]
    return table(heads, lines)


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parse.add_argument("--tasks", nargs="+", default=[*PLAIN, *REACTIVE, ROUTES], choices=sorted(TASKS), metavar="TASK")
    parse.add_argument("--demonstrations", type=int, default=50)
    parse.add_argument("--iterations", type=int, default=2000)
    parse.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    parse.add_argument("--steps", type=int, default=400, help="control steps of the latency measurement")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/metaworld_streaming"))
    return parse


def main() -> int:
    args = parser().parse_args()
    jobs = trainings(args.work_dir, args.tasks, args.seeds, args.iterations, args.demonstrations)
    run([job for part in jobs.values() for job in part], parallel=args.parallel)
    plain, reactive = (tuple(task for task in group if task in args.tasks) for group in (PLAIN, REACTIVE))
    parts = [
        f"{args.demonstrations} demonstrations and {args.iterations} iterations per network, 50 held-out layouts per "
        "task and seed. Success with its 95 % Wilson interval over all episodes of a cell."
    ]
    for title, tasks in (("Meta-World", plain), ("Reactive tasks", reactive)):
        if tasks:
            parts += [f"## {title}", success_table(jobs, tasks)]
            parts += ["Paired by layout and training seed, 95 % bootstrap over both:", differences(jobs, tasks)]
    if ROUTES in args.tasks:
        parts += ["## Two routes", routes(jobs)]
    parts += ["## Latency per control step", latency(jobs, args.tasks[0], args.steps)]
    body = "\n\n".join(parts)
    path = write_report("metaworld_streaming", "Streaming policies in Meta-World", body, seeds=args.seeds,
                        device=describe_device())  # fmt: skip
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
