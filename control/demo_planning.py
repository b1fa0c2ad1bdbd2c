"""`make demo-planning`: a maze's data, a planner that writes and improves, its table, pictures, an ONNX that plans."""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from common.engine.config import load_config
from common.engine.experiments import Job, run, tutelage

CONFIG = "configs/control/planner/maze_umaze.py"
STUDENT = "configs/control/planner/student_maze_umaze.py"
TASK = "Maze2D-UMaze-v0"
SHOWN = {
    "generator": "plans as written",
    "refined10": "improved from level 10",
    "chosen": "best of 8, improved from level 10",
    "decision_diffuser": "from noise, 20 steps",
    "cloning": "no plan: return-conditioned cloning",
    "one_step": "student: improved in 1 evaluation",
}
DEPLOYED = "one_step"  # of the student


def trainings(work_dir: Path, data: Path, iterations: int, episodes: int, seed: int) -> dict[str, Job]:
    """The planner, and the student of its optimiser."""
    shared = {"demonstrations": str(data), "val_dataloader.dataset.count": episodes}
    left_out = {"val_cfg.plans.refined": None, "val_cfg.plans.warm": None}
    planner = Job("planner", CONFIG, work_dir / "planner", iterations, {**shared, **left_out}, seed)
    taught = {**shared, "model.checkpoint": str(planner.checkpoint)}
    student = Job("student", STUDENT, work_dir / "student", max(1, iterations // 3), taught, seed, (planner.name,))
    return {"planner": planner, "student": student}


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="python -m control.demo_planning", description=__doc__)
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo_planning"))
    parse.add_argument("--steps", type=int, default=100_000, help="of data")
    parse.add_argument("--iterations", type=int, default=2000, help="of the planner; its student a third of them")
    parse.add_argument("--episodes", type=int, default=20, help="per planner, and of the ONNX file")
    parse.add_argument("--seed", type=int, default=0)
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    begun, work_dir = time.time(), args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    data = work_dir / TASK
    print("1/4 a controller pursues random targets: data without a download", flush=True)
    if not data.is_dir():
        tutelage("collect", TASK, str(data), "--steps", str(args.steps), "--seed", str(args.seed))
    print("2/4 train the planner and its student, roll every way of planning out", flush=True)
    jobs = trainings(work_dir, data, args.iterations, args.episodes, args.seed)
    metrics = run(list(jobs.values()))
    pictures(jobs["planner"], work_dir / "plans.png")
    print("3/4 export and compare with PyTorch", flush=True)
    onnx, job = work_dir / "planner.onnx", jobs["student"]
    pairs = [f"{key}={value}" for key, value in job.options.items()]
    output = tutelage("export", job.config, str(job.checkpoint), str(onnx), "--plan", DEPLOYED, "--cfg-options", *pairs)
    print("4/4 the student's ONNX file drives the maze through deploy.runtime", flush=True)
    output += tutelage("rollout", str(onnx), TASK, "--episodes", str(args.episodes), "--out",
                       str(work_dir / "driven.json"), "--picture", str(work_dir / "driven.png"))  # fmt: skip
    output += tutelage("bench", str(onnx))
    path = _report(work_dir, args, metrics, output, time.time() - begun)
    print(path.read_text())
    return 0


def pictures(job: Job, path: Path) -> None:
    """Plans before and after the optimiser, and what was driven, from three starts."""
    from common.engine.checkpoint import load_weights
    from control.demonstrations.collect import EVALUATION_SEEDS
    from control.planning.diffuser.pictures import maze_plans, watched
    from control.policies.model import build

    config = load_config(job.config, job.options)
    model = build(config.model)
    load_weights(model, str(job.checkpoint))
    planner = model.actor(config.val_cfg.plans["chosen"])
    seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + 3)
    maze_plans({f"start {i + 1}": watched(planner, TASK, seed, 150) for i, seed in enumerate(seeds)}, path)


def _row(name: str, title: str, metrics: dict) -> str:
    found = {key.split("/")[1]: value for key, value in metrics.items() if key.startswith(f"{name}/")}
    gain = f"{found['gain']:+.1f} [{found['gain_low']:+.1f}, {found['gain_high']:+.1f}]" if "gain" in found else ""
    return (
        f"| {title} | {found['return']:.1f} [{found['return_low']:.1f}, {found['return_high']:.1f}] | "
        f"{found['score_own']:.1f} | {found['score_d4rl']:.1f} | {gain} |"
    )


def _report(work_dir: Path, args, metrics: dict, output: str, seconds: float) -> Path:
    every = {**metrics["planner"], **metrics["student"]}
    driven = json.loads((work_dir / "driven.json").read_text())
    returns = np.array([one["info"]["return"] for one in driven])
    lines = [
        "# Demo: plans that are written, then improved",
        "",
        f"    python -m control.demo_planning --steps {args.steps} --iterations {args.iterations} --episodes "
        f"{args.episodes} --seed {args.seed}",
        "",
        f"{TASK}: {args.steps:,} steps of a controller that pursues random targets; {args.episodes} starts, one "
        f"training; {seconds / 60:.1f} minutes in this run. One training proves no ordering: "
        "benchmarks/trajectory_diffuser.py is made for that.",
        "",
        "| | return, with its 95 % interval | score, own references | D4RL's points | return less that of plans as "
        "written, paired |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(_row(name, title, every) for name, title in SHOWN.items() if f"{name}/return" in every),
        "",
        "Own references: a random policy is 0, the waypoint controller that knows the goal 100.",
        "",
        "![plans as written, improved, and what was driven](plans.png)",
        "",
        "## The student's ONNX file",
        "",
        "```",
        output.strip(),
        "```",
        "",
        f"Mean return of its {len(returns)} episodes: {returns.mean():.1f}.",
        "",
        "![one episode](driven.png)",
        "",
    ]
    path = work_dir / "report.md"
    path.write_text("\n".join(lines))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
