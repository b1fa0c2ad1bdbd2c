"""`make demo`: simulate, train expert, baseline and apprentice, evaluate, export, check, benchmark, report."""

import argparse
import json
import sys
import time
from pathlib import Path

from common.engine.experiments import Job, run, tutelage

FAMILY = "configs/perception/vcd/{}_sim.py"
COLUMNS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
TITLES = {
    "baseline": "baseline (camera only)",
    "expert": "expert (LiDAR as depth prior)",
    "apprentice": "apprentice (camera only, distilled)",
}


def warm_up(common: dict, work_dir: Path, iterations: int, seed: int = 100) -> Job:
    """The camera network that every other training starts from: the baseline, trained data-parallel in two processes on
    very short clips. It stands for the ImageNet weights of the paper, which no simulated data can replace."""
    options = {**common, "train_dataloader.dataset.split_sequences": 4, "optim_wrapper.optimizer.lr": 3e-3}
    return Job("warm-up", FAMILY.format("baseline"), work_dir / "warm_up", iterations, options, seed, processes=2)


def trainings(data: Path, version: str, work_dir: Path, iterations: tuple[int, int], seed: int) -> list[Job]:
    """The warm-up and the three trainings from its weights; the apprentice also needs the expert's checkpoint.

    iterations: of the warm-up, of each training.
    """
    common = {"data_root": str(data), "version": version}
    start = warm_up(common, work_dir, iterations[0])
    common["load_from"] = str(start.checkpoint)

    def job(name: str, options: dict, needs: tuple[str, ...] = ()) -> Job:
        folder = work_dir / name
        options = {**common, "val_evaluator.out_dir": str(folder / "evaluation"), **options}
        return Job(name, FAMILY.format(name), folder, iterations[1], options, seed, (start.name, *needs))

    expert = job("expert", {})
    teacher = {"model.distiller.checkpoint": str(expert.checkpoint)}
    return [start, expert, job("baseline", {}), job("apprentice", teacher, ("expert",))]


def prepare(data: Path, train: int, val: int, seed: int) -> str:
    """Simulate the data set (finished scenes are reused) and make its info files. Returns the version."""
    from perception.datasets.converter import create_infos
    from perception.simulation.generate import generate
    from perception.simulation.profiles import profile

    summary = generate(data, profile=profile("tiny", keyframes=8), train=train, val=val, seed=seed)
    infos = [data / f"tutelage_infos_{part}.pkl" for part in ("train", "val")]
    if summary.simulated or not all(path.is_file() for path in infos):
        create_infos(data, summary.version)
    return summary.version


def table(results: dict[str, dict]) -> str:
    """Markdown: one row per network."""
    rows = [f"| network | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    for name, title in TITLES.items():
        rows.append(f"| {title} | " + " | ".join(f"{results[name][key]:.3f}" for key in COLUMNS) + " |")
    return "\n".join(rows)


def report(work_dir: Path, results: dict, parity: str, bench: str, settings: dict, seconds: float) -> Path:
    """Write report.md with the table and the pictures of the last evaluation of each network."""
    lines = [
        "# Demo: from simulated sensor data to an exported apprentice",
        "",
        f"    {settings['command']}",
        "",
        f"{settings['train']} + {settings['val']} simulated scenes of 8 key frames; a common start of "
        f"{settings['warm_up']} iterations, then {settings['iterations']} per network, seed {settings['seed']}; "
        f"{seconds / 60:.1f} minutes in this run. Scores by the "
        "nuScenes devkit on the validation scenes. One seed and a short training prove no ordering; "
        "benchmarks/vcd_simulated.py is made for that.",
        "",
        table(results),
        "",
        "## ONNX against PyTorch",
        "",
        *(line for line in parity[parity.index("| max abs") :].splitlines() if line.startswith("|")),
        "",
        *(line for line in parity.splitlines() if line.startswith(("passed", "FAILED"))),
        "",
        "## Latency and memory",
        "",
        "```",
        bench.strip(),
        "```",
        "",
        "## Pictures",
        "",
    ]
    for name, title in TITLES.items():
        for picture in sorted((work_dir / name / "pictures").glob("iter_*/*.png"))[:2]:
            lines += [f"{title}: {picture.stem}", "", f"![{title}]({picture.relative_to(work_dir)})", ""]
    path = work_dir / "report.md"
    path.write_text("\n".join(lines))
    return path


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="python -m perception.demo", description=__doc__)
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"))
    parse.add_argument("--scenes", type=int, default=40, help="training scenes")
    parse.add_argument("--val-scenes", type=int, default=8)
    parse.add_argument("--warm-up", type=int, default=600, help="iterations of the common start, 8 samples each")
    parse.add_argument("--iterations", type=int, default=200, help="iterations of each network, 4 samples each")
    parse.add_argument("--seed", type=int, default=0)
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    begun = time.time()
    work_dir = args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    print("1/4 simulate", flush=True)
    data = work_dir / "data"
    version = prepare(data, args.scenes, args.val_scenes, args.seed)
    print("2/4 train and evaluate: a common start, expert and baseline side by side, the apprentice", flush=True)
    jobs = {job.name: job for job in trainings(data, version, work_dir, (args.warm_up, args.iterations), args.seed)}
    results = run(list(jobs.values()))
    print(table(results), flush=True)
    print("3/4 export and check parity", flush=True)
    apprentice, onnx = jobs["apprentice"], work_dir / "apprentice.onnx"
    options = [f"data_root={data}", f"version={version}"]
    model = (apprentice.config, str(apprentice.checkpoint))
    parity = tutelage("export", *model, str(onnx), "--cfg-options", *options)
    print("4/4 benchmark", flush=True)
    bench = tutelage("bench", str(onnx), "--against", *model, "--frames", "30")
    settings = {
        "command": " ".join(["python -m perception.demo", *(argv or sys.argv[1:])]),
        "train": args.scenes,
        "val": args.val_scenes,
        "warm_up": args.warm_up,
        "iterations": args.iterations,
        "seed": args.seed,
    }
    path = report(work_dir, results, parity, bench, settings, time.time() - begun)
    (work_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{table(results)}\n\nreport: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
