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

from _policies import evaluation_folder, scores
from _report import describe_device, table, write_report

from common.engine.experiments import Job, run
from control.rollout import paired_difference

FILE = "pusht/pusht_cchi_v7_replay.zarr.zip"
ROWS = {  # row: (config, plan)
    "Diffusion Policy, DDPM-100": ("streaming", "DDPM100"),
    "Diffusion Policy, DDIM-10": ("streaming", "DDIM10"),
    "Streaming Diffusion Policy, as published": ("sdp", "SDP"),
    "ladder, one evaluation per call": ("streaming", "streaming"),
}
EVALUATIONS = {"DDPM100": (100, 8), "DDIM10": (10, 8), "SDP": (50, 8), "streaming": (1, 2)}
PUBLISHED = (
    "Published, at 65.8 M parameters and 4,500 epochs: Diffusion Policy 0.95 max / 0.91 mean (arXiv 2303.04137, table "
    "1, state, CNN); Streaming Diffusion Policy 0.90 mean (as summarised by third parties; its tables were not read)."
)


def trainings(data: Path, work_dir: Path, seeds: list[int], iterations: int) -> dict[str, list[Job]]:
    """Per config one training per seed."""
    jobs = {}
    for config in ("streaming", "sdp"):
        jobs[config] = []
        for seed in seeds:
            folder = work_dir / config / f"seed{seed}"
            options = {"demonstrations": str(data), **evaluation_folder(folder)}
            path = f"configs/control/sdp/{config}_pusht_state.py"
            jobs[config].append(Job(f"{config}/{seed}", path, folder, iterations, options, seed))
    return jobs


def report(jobs: dict[str, list[Job]], iterations: int) -> str:
    """The table of mean scores, and paired differences to DDPM-100."""
    found = {row: scores(jobs[config], plan, "score") for row, (config, plan) in ROWS.items()}
    lines, differences = [], []
    reference = found["Diffusion Policy, DDPM-100"]
    for row, (_, plan) in ROWS.items():
        evaluations, execute = EVALUATIONS[plan]
        per_seed = " ".join(f"{value:.3f}" for value in found[row].mean(1))
        lines.append([row, f"{found[row].mean():.3f}", per_seed, str(evaluations), f"{evaluations / execute:g}"])
        if row != "Diffusion Policy, DDPM-100":
            mean, low, high = paired_difference(reference, found[row])
            differences.append([f"{row} - DDPM-100", f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"])
    heads = ["way of running", "mean score", "per training seed", "evaluations per call", "per action"]
    return (
        f"Networks of the `sdp` family at CPU size, {iterations} iterations each. Score of an episode, as published: "
        "its largest coverage of the goal / 0.95, at most 1; mean over starts and trainings. No checkpoint is "
        "selected.\n\n"
        + table(heads, lines)
        + "\n\nDifferences, paired by start and training seed, 95 % bootstrap over both:\n\n"
        + table(["difference", "score"], differences)
        + f"\n\n{PUBLISHED}\n"
    )


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--data", type=Path, default=Path(os.environ.get("TUTELAGE_DATA", "data")))
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parse.add_argument("--iterations", type=int, default=12_000)
    parse.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/pusht_state"))
    return parse


def main() -> int:
    args = parser().parse_args()
    data = args.data / FILE
    if not data.is_file():
        print(f"{data}: no such file; set TUTELAGE_DATA or --data to the folder that holds {FILE}", file=sys.stderr)
        return 2
    jobs = trainings(data.resolve(), args.work_dir, args.seeds, args.iterations)
    run([job for part in jobs.values() for job in part], parallel=args.parallel)
    body = report(jobs, args.iterations)
    path = write_report("pusht_state", "Push-T from human demonstrations", body, seeds=args.seeds,
                        device=describe_device())  # fmt: skip
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
