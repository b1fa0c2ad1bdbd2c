"""Push-T from the 206 human demonstrations: Diffusion Policy, DDIM, streaming at one evaluation per call, and Streaming
Diffusion Policy as published, on 50 held-out starts (100000 and up, 300 steps).

One mixture-trained network per seed serves all rows but Streaming Diffusion Policy's. Finished trainings are kept,
killed ones resumed. Writes benchmarks/results/pusht_state.md.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _policies import interval, scores
from _report import RESULTS, describe_device, table, training_cost, write_report

from common.engine.config import load_config, parse_options
from common.engine.experiments import Job, run
from common.statistics import paired_difference
from control.policies.model import build
from control.trainings import evaluation_options

FILE = "pusht/pusht_cchi_v7_replay.zarr.zip"
ROWS = {  # row: (config, plan)
    "Diffusion Policy, DDPM-100": ("streaming", "DDPM100"),
    "Diffusion Policy, DDIM-10": ("streaming", "DDIM10"),
    "Streaming Diffusion Policy, as published": ("sdp", "SDP"),
    "Diffusion Policy, DDIM-10, one action per call": ("streaming", "DDIM10x1"),
    "Diffusion Policy, one evaluation": ("streaming", "DDIM1"),
    "ours: ladder, one action per call": ("streaming", "streaming"),
    "ours: ladder, two actions per call": ("streaming", "streaming2"),
    "ours: ladder, eight actions per call": ("streaming", "streaming8"),
}
REFERENCE = "Diffusion Policy, DDPM-100"
PUBLISHED = (
    "Published, at 65.8 M parameters and 4,500 epochs: Diffusion Policy 0.95 max / 0.91 mean (arXiv 2303.04137, table "
    "1, state, CNN); Streaming Diffusion Policy 0.90 mean (as summarised by third parties; its tables were not read)."
)


def trainings(
    data: Path, work_dir: Path, seeds: list[int], iterations: int, layouts: int, options: dict | None = None
) -> dict[str, list[Job]]:
    """Per config one training per seed."""
    jobs = {}
    for config in ("streaming", "sdp"):
        jobs[config] = []
        for seed in seeds:
            folder = work_dir / config / f"seed{seed}"
            given = {"demonstrations": str(data), **evaluation_options(folder, layouts), **(options or {})}
            path = f"configs/control/sdp/{config}_pusht_state.py"
            jobs[config].append(Job(f"{config}/{seed}", path, folder, iterations, given, seed))
    return jobs


def evaluations(job: Job, name: str) -> tuple[int, int, float]:
    """Network evaluations per call, actions per call, and millions of parameters of a job's model."""
    config = load_config(job.config, job.options)
    plan = build(dict(config.val_cfg.plans[name]), horizon=config.model.horizon)
    size = sum(parameter.numel() for parameter in build(config.model).parameters())
    return plan.evaluations, plan.execute, size / 1e6


def report(jobs: dict[str, list[Job]], iterations: int) -> str:
    """The table of mean scores, and paired differences to DDPM-100."""
    found = {row: scores(jobs[config], plan, "score") for row, (config, plan) in ROWS.items()}
    lines, differences = [], []
    for row, (config, plan) in ROWS.items():
        calls, execute, size = evaluations(jobs[config][0], plan)
        solved = scores(jobs[config], plan).mean()
        per_seed = " ".join(f"{value:.3f}" for value in found[row].mean(1))
        low, high = interval(found[row])
        lines.append([row, f"{found[row].mean():.3f} [{low:.3f}, {high:.3f}]", per_seed, f"{solved:.2f}", str(calls),
                      f"{calls / execute:g}", f"{size:.2f} M"])  # fmt: skip
        if row != REFERENCE:
            mean, low, high = paired_difference(found[REFERENCE], found[row])
            differences.append([f"{row} - DDPM-100", f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"])
    heads = ["way of running", "mean score", "per training seed", "solved", "evaluations per call", "per action",
             "parameters"]  # fmt: skip
    every = [job for part in jobs.values() for job in part]
    layouts = found[REFERENCE].shape[1]
    return (
        f"All 206 human demonstrations, {iterations} iterations of 128 windows per network, {layouts} starts from seed "
        "100000 on, 300 steps. Score of an episode, as published: its largest coverage of the goal / 0.95, at most 1; "
        "mean over starts and trainings with its 95 % bootstrap interval over both; solved: coverage above 0.95. The "
        "averaged weights of the last iteration; no checkpoint is selected. All rows but Streaming Diffusion Policy's "
        "are the same networks; their training mixture has 0.2 equal levels, 0.6 ladders of single actions, 0.2 "
        "independent levels, and no ladder of more actions per call. That of eight actions was chosen, with its eta of "
        "1, on other starts (200000 and up).\n\n"
        + table(heads, lines)
        + "\n\nDifferences, paired by start and training seed, 95 % bootstrap over both:\n\n"
        + table(["difference", "score"], differences)
        + f"\n\n{PUBLISHED}\n\n"
        + training_cost(every)
    )


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--data", type=Path, default=Path(os.environ.get("TUTELAGE_DATA", "data")))
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parse.add_argument("--iterations", type=int, default=20_000)
    parse.add_argument("--layouts", type=int, default=50, help="held-out starts")
    parse.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/pusht_state"))
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    parse.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V", help="overrides of both configs")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    data = args.data / FILE
    if not data.is_file():
        print(f"{data}: no such file; set TUTELAGE_DATA or --data to the folder that holds {FILE}", file=sys.stderr)
        return 2
    jobs = trainings(data.resolve(), args.work_dir, args.seeds, args.iterations, args.layouts,
                     parse_options(args.cfg_options))  # fmt: skip
    run([job for part in jobs.values() for job in part], parallel=args.parallel)
    body = report(jobs, args.iterations)
    path = write_report("pusht_state", "Push-T from human demonstrations", body, seeds=args.seeds,
                        device=describe_device(), folder=args.results)  # fmt: skip
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
