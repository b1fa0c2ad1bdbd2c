"""`make demo-agv`: PPO with and without a novelty bonus in a warehouse, curves, a bonus map, an ONNX that drives."""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from common.engine.experiments import Job, run, tutelage
from common.engine.workdir import read_metrics
from control.pictures import curves_plot

CONFIG = "configs/control/agv/rnd_simple.py"
ROLLOUT = 4096  # steps
VARIANTS = {"PPO": {"algorithm.int_coef": 0.0}, "PPO and bonus": {}}
DEPLOYED = "PPO and bonus"
SHOWN = {"success in training": "rollout/success_rate", "coverage": "rnd/coverage"}


def trainings(work_dir: Path, steps: int, seed: int, backend: str) -> dict[str, Job]:
    """Both in the same configuration with the same seed."""
    steps = max(1, steps // ROLLOUT) * ROLLOUT
    return {
        name: Job(name, CONFIG, work_dir / name.lower().replace(" ", "_"), steps,
                  {"environment.backend": backend, "checkpoint_every": steps, **options}, seed, counter="total_steps")
        for name, options in VARIANTS.items()
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="python -m control.demo_agv", description=__doc__)
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo_agv"))
    parse.add_argument("--steps", type=int, default=249_856, help="of each training")
    parse.add_argument("--episodes", type=int, default=20, help="that the ONNX file drives")
    parse.add_argument("--backend", choices=("mujoco", "kinematic"), default="mujoco", help="of the trainings")
    parse.add_argument("--seed", type=int, default=0)
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    begun, work_dir = time.time(), args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    print("1/4 train PPO, and PPO with the bonus of novelty, in the same warehouse", flush=True)
    jobs = trainings(work_dir, args.steps, args.seed, args.backend)
    metrics = run(list(jobs.values()))
    rows = {name: read_metrics(job.work_dir) for name, job in jobs.items()}
    series = {
        title: {name: ([row["step"] for row in rows[name]], [row.get(key, 0.0) for row in rows[name]]) for name in jobs}
        for title, key in SHOWN.items()
    }
    curves_plot(series, work_dir / "curves.png", "environment steps")
    print("2/4 test both: ways through the warehouse, and where the bonus is", flush=True)
    for job in jobs.values():
        options = [f"{key}={value}" for key, value in job.options.items()]
        folder = work_dir / f"{job.work_dir.name}_test"
        given = ["--work-dir", str(job.work_dir), "--out", str(folder), "--cfg-options", *options]
        tutelage("test", CONFIG, str(job.checkpoint), *given)
    job = jobs[DEPLOYED]
    options = [f"{key}={value}" for key, value in job.options.items()]
    print("3/4 export and compare with PyTorch", flush=True)
    onnx = work_dir / "agv.onnx"
    output = tutelage("export", CONFIG, str(job.checkpoint), str(onnx), "--cfg-options", *options)
    print("4/4 drive in MuJoCo by the ONNX file through deploy.runtime", flush=True)
    task = "AGVWarehouse-Simple-v0"
    output += tutelage("rollout", str(onnx), task, "--episodes", str(args.episodes), "--out",
                       str(work_dir / "driven.json"), "--picture", str(work_dir / "driven.png"))  # fmt: skip
    output += tutelage("rollout", str(onnx), task, "--episodes", "2", "--hz", "50")
    path = _report(work_dir, args, jobs, metrics, rows, output, time.time() - begun)
    print(path.read_text())
    return 0


def _row(name: str, found: dict, rows: list[dict]) -> str:
    last = rows[-1]
    first = last.get("rnd/first_goal_step", -1)
    success = f"{found['evaluation/success']:.2f} [{found['evaluation/success_low']:.2f}, "
    return (
        f"| {name} | {last.get('rollout/success_rate', 0.0):.2f} | {last['rnd/coverage']:.2f} | "
        f"{f'{first:,}' if first > 0 else ''} | {success}{found['evaluation/success_high']:.2f}] | "
        f"{found['evaluation/spl']:.2f} |"
    )


def _report(work_dir: Path, args, jobs, metrics: dict, rows: dict, output: str, seconds: float) -> Path:
    driven = json.loads((work_dir / "driven.json").read_text())
    clearance = np.mean([one["info"]["min_clearance"] for one in driven])
    lines = [
        "# Demo: a vehicle that finds its way",
        "",
        f"    python -m control.demo_agv --steps {args.steps} --seed {args.seed} --backend {args.backend}",
        "",
        f"Both variants: {jobs[DEPLOYED].iterations:,} steps, one seed, a reward at the goal alone; {seconds / 60:.1f} "
        "minutes in this run. One seed proves no ordering: benchmarks/agv_rnd.py is made for that.",
        "",
        "| | success in training, last 200 episodes | coverage | first goal at step | success of the mean policy, with "
        "its 95 % Wilson interval | SPL |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(_row(name, metrics[job.name], rows[name]) for name, job in jobs.items()),
        "",
        "![success and coverage over the training](curves.png)",
        "",
        "Where the bonus was left at the end, and the ways of the mean policy:",
        "",
        f"![bonus over the floor]({jobs[DEPLOYED].work_dir.name}_test/bonus.png) "
        f"![ways]({jobs[DEPLOYED].work_dir.name}_test/ways.png)",
        "",
        "## The ONNX file",
        "",
        "```",
        output.strip(),
        "```",
        "",
        f"Nearest to a wall or shelf, mean over the {len(driven)} episodes: {clearance:.2f} m.",
        "",
        "![one episode](driven.png)",
        "",
    ]
    path = work_dir / "report.md"
    path.write_text("\n".join(lines))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
