"""RL-100 in Meta-World from a few noisy demonstrations: imitation, offline RL, online RL, a one-step head, and peers.

Every policy of a pipeline acts in the same held-out layouts from the same starts; its last head in more of them,
without a break. Per task and training seed a pipeline leaves its record,
benchmarks/results/rl100_metaworld/TASK_seedN.json, so that they may be measured one by one; one whose record stands is
not trained again. Peers: the critics' best of 32 chains, and the online stage alone (rounds = 0) from the same
imitation, after DPPO, but with a value that begins as that of offline critics. Writes
benchmarks/results/rl100_metaworld.md once all are there.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _policies import rate
from _records import keep, keep_records, load, parts_asked, rounded
from _report import RESULTS, describe_device, table, training_cost, write_report

from common.engine.config import load_config, parse_options
from common.engine.experiments import Job, run
from common.engine.test import test
from common.engine.workdir import read_metrics
from common.statistics import paired_difference

CONFIG = "configs/control/rl100/{}.py"
WAYS = ("mean", "one_step", "best_of_n")
LOGGED = ("seconds", "gates", "accepted", "first_ratio_gap", "kl_exact", "clip_fraction", "q_max", "collected_success")
LAYOUTS = 300
UNBROKEN = 1000  # of the last evaluation of a pipeline's head
ROW = 250  # successes one after the other that the paper's policies reach


@dataclass(frozen=True)
class Task:
    """config; seeds of the trainings; peers: those whose online stage is also trained alone; claims: whether the
    ordering of the stages is a gate; layouts: at most so many."""

    config: str
    seeds: tuple[int, ...] = (0,)
    peers: tuple[int, ...] = ()
    claims: bool = False
    layouts: int = 1000


TASKS = {
    "dial-turn": Task("dial_turn", (0, 1, 2), peers=(0, 1, 2), claims=True),
    "reach": Task("reach", (0, 1, 2), peers=(0,), claims=True),
    "push": Task("push"),
    "hammer": Task("hammer"),
    "push-points": Task("push_points", layouts=100),
}


def slug(name: str) -> str:
    """As a file's name."""
    return name.translate(str.maketrans(" ", "_", "(),"))


def job_of(name: str, seed: int, args, direct: bool = False) -> Job:
    """The pipeline of a task and seed; direct: without its offline rounds."""
    task = TASKS[name]
    given = {**args.options, "workers": 1, "evaluation.episodes": min(args.layouts, task.layouts),
             "evaluation.ways": WAYS}  # fmt: skip
    given |= {"pipeline.rounds": 0} if direct else {}
    pipeline = load_config(CONFIG.format(task.config), given).pipeline
    last = 5 + 4 * pipeline.rounds + pipeline.online.iterations
    label = f"{name}{' (online alone)' if direct else ''}"
    folder = args.work_dir / slug(label) / f"seed{seed}"
    return Job(f"{label}/{seed}", CONFIG.format(task.config), folder, last, given, seed, counter=None)


def what_happened(job: Job) -> dict:
    """stages: name -> way -> successes of the held-out layouts, in the order of the pipeline; steps: of the
    environments before each; gates, ratios and the online curve."""
    rows = read_metrics(job.work_dir)
    stages, steps = {}, {}
    for row in rows:
        path = job.work_dir / "evaluation" / f"{row['stage'].replace('/', '_')}.json"
        if path.is_file():
            found = json.loads(path.read_text())
            stages[row["stage"]] = {way: [1 * one["success"] for one in found[way]] for way in found}
            steps[row["stage"]] = row["env_steps"]
    curve = next((one["online_log"] for one in rows if "online_log" in one), [])
    shown = ("steps", "success", "kl", "clip_fraction", "first_ratio_gap", "stopped")
    online = [{key: row[key] for key in shown if key in row} for row in curve]
    return {"stages": stages, "steps": steps, "online": online,
            "log": [{key: row[key] for key in ("stage", *LOGGED) if key in row} for row in rows]}  # fmt: skip


def recipe(name: str, seed: int, args) -> dict:
    """All that decides a record: the config as it is, and what is asked of it."""
    task = TASKS[name]
    config = load_config(CONFIG.format(task.config), args.options)
    return {"config": config.pretty_text, "layouts": min(args.layouts, task.layouts), "ways": WAYS,
            "peers": seed in task.peers, "unbroken": unbroken_layouts(name, args)}  # fmt: skip


def unbroken_layouts(name: str, args) -> int:
    """Of the last evaluation: all where the task's are not few."""
    return args.unbroken if args.layouts <= TASKS[name].layouts else 0


def unbroken(job: Job, layouts: int) -> list[int]:
    """Successes of a pipeline's head, layout after layout, in one evaluation."""
    folder = job.work_dir / "unbroken"
    options = {**job.options, "evaluation.episodes": layouts, "evaluation.ways": ("one_step",)}
    test(load_config(job.config, options), job.checkpoint, folder)
    return [1 * one["success"] for one in json.loads((folder / "evaluation" / "online.json").read_text())["one_step"]]


def seconds(work_dir: Path) -> float:
    """Of a pipeline's stages, without their evaluations."""
    return sum(row.get("seconds", 0.0) for row in read_metrics(work_dir))


def path_of(name: str, seed: int, args) -> Path:
    return args.results / "rl100_metaworld" / f"{slug(name)}_seed{seed}.json"


def measure(cells: list[tuple[str, int]], args) -> None:
    """Train what is missing, and leave a record per task and seed."""
    jobs = {cell: [job_of(*cell, args)] for cell in cells}
    for (name, seed), both in jobs.items():
        if seed in TASKS[name].peers:
            both.append(job_of(name, seed, args, direct=True))
    run([job for both in jobs.values() for job in both], parallel=args.parallel)
    for (name, seed), both in jobs.items():
        layouts = unbroken_layouts(name, args)
        record = {"recipe": recipe(name, seed, args), "device": describe_device(),
                  "trainings": training_cost(both, seconds),
                  "runs": [what_happened(job) for job in both],
                  "unbroken": unbroken(both[0], layouts) if layouts else []}  # fmt: skip
        keep(path_of(name, seed, args), rounded(record, 4))
        print(f"{name}, seed {seed} measured: {path_of(name, seed, args)}")


def successes(records: list[dict], stage: str, way: str, run_: int = 0) -> np.ndarray:
    """(trainings, layouts)."""
    return np.array([one["runs"][run_]["stages"][stage][way] for one in records], float)


def streak(values: np.ndarray) -> int:
    """Longest row of successes in one training's layouts."""
    best = now = 0
    for won in values:
        now = now + 1 if won else 0
        best = max(best, now)
    return best


def stage_table(records: list[dict]) -> str:
    """A line per stage and way, and the peers."""
    lines = []
    stages = records[0]["runs"][0]["stages"]
    for stage, ways in stages.items():
        steps = np.mean([one["runs"][0]["steps"][stage] for one in records])
        for way in ways:
            found = successes(records, stage, way)
            each = " ".join(f"{value:.2f}" for value in found.mean(1))
            lines.append([f"{stage}, {way}", rate(found), each, f"{steps:,.0f}", max(streak(one) for one in found)])
    if alone := [one for one in records if len(one["runs"]) > 1]:
        found = successes(alone, "online", "mean", 1)
        steps = np.mean([one["runs"][1]["steps"]["online"] for one in alone])
        each = " ".join(f"{value:.2f}" for value in found.mean(1))
        row = max(streak(one) for one in found)
        lines.append(["online alone, mean", rate(found), each, f"{steps:,.0f}", row])
    heads = ["success", "per training", "steps in the task before it", "longest row of successes"]
    return table(["after stage, way of acting", *heads], lines)


def gates(name: str, records: list[dict]) -> str:
    """The orderings that must hold, paired by training and layout."""
    offline = [stage for stage in records[0]["runs"][0]["stages"] if stage.startswith("improve")][-1]
    pairs = [
        ("imitation < offline RL", ("imitation", "mean"), (offline, "mean"), lambda low, mean, high: low > 0),
        ("offline RL < online RL", (offline, "mean"), ("online", "mean"), lambda low, mean, high: low > 0),
        ("the head within 0.05 of its teacher", ("online", "mean"), ("online", "one_step"),
         lambda low, mean, high: low >= -0.05),
    ]  # fmt: skip
    lines = []
    for text, first, second, holds in pairs:
        mean, low, high = paired_difference(successes(records, *first), successes(records, *second))
        shown = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append([f"{name}: {text}", shown, "yes" if holds(low, mean, high) else "no"])
    rows, first = ([of(one["unbroken"]) for one in records] for of in (streak, lambda won: streak(won[:ROW])))
    text = f"{name}: {ROW} successes of the head in a row, in one evaluation of one of the trainings"
    shown = (f"longest row {', '.join(map(str, rows))} of {len(records[0]['unbroken']):,} layouts; of the first {ROW} "
             f"alone {', '.join(map(str, first))}")  # fmt: skip
    lines.append([text, shown, "yes" if max(rows) >= ROW else "no"])
    return table(["", "difference, 95 % bootstrap", "holds"], lines)


def log_table(records: list[dict]) -> str:
    """What every stage logged, of the first training."""
    log = records[0]["runs"][0]["log"]
    rows = [[row["stage"], *(f"{row[key]:.3g}" if key in row else "" for key in LOGGED)] for row in log]
    return table(["stage", *(key.replace("_", " ") for key in LOGGED)], rows)


def plot(found: dict[str, list[dict]], path: Path) -> Path:
    """Success of the exploring policy over the online stage's steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.4), layout="constrained", squeeze=False)
    for axis, (name, records) in zip(axes[0], found.items(), strict=True):
        for record in records:
            for run_, style in zip(record["runs"], ("-", ":"), strict=False):
                steps, won = ([row[key] for row in run_["online"]] for key in ("steps", "success"))
                axis.plot(np.array(steps) / 1000, won, style, linewidth=1.2)
        for style, label in (("-", "after the offline rounds"), (":", "online alone")):
            axis.plot([], [], style, color="black", label=label)
        axis.legend(fontsize=7, loc="lower right")
        axis.set(title=name, xlabel="1,000 steps online", ylim=(-0.02, 1.02))
    axes[0, 0].set_ylabel("success of episodes that end\nin their lane, exploring")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="of the report")
    parse.add_argument("--now", nargs="+", metavar="TASK/SEED", help="to measure now; default all without a record")
    parse.add_argument("--layouts", type=int, default=LAYOUTS, help="held-out, of every evaluation; 100 of clouds")
    parse.add_argument("--unbroken", type=int, default=UNBROKEN, help="layouts of the head's last evaluation")
    parse.add_argument("--parallel", type=int, default=2, help="pipelines side by side")
    parse.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V", help="of every pipeline (for a try)")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/rl100_metaworld"))
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.options = parse_options(args.cfg_options)
    keep_records(parser(), "--cfg-options" if args.options else "", args.results, RESULTS)
    cells = [(name, seed) for name in args.tasks for seed in TASKS[name].seeds]
    asked = parts_asked(parser(), args.now, cells, {name: task.seeds for name, task in TASKS.items()})

    def known(cell: tuple[str, int]) -> dict | None:
        return load(path_of(*cell, args), recipe(*cell, args))

    missing = [cell for cell in asked if known(cell) is None]
    if missing:
        measure(missing, args)
    found = {name: [known((name, seed)) for seed in TASKS[name].seeds] for name in args.tasks}
    absent = [f"{name}/{seed}" for name, records in found.items()
              for seed, one in zip(TASKS[name].seeds, records, strict=True) if one is None]  # fmt: skip
    if absent:
        print(f"no report yet: {', '.join(absent)} not measured")
        return 0
    picture = plot(found, args.results / "rl100_metaworld.png")
    parts = [gates(name, found[name]) for name in args.tasks if TASKS[name].claims]
    parts.append(f"![success while exploring, over the steps of the online stage]({picture.name})")
    for name, records in found.items():
        parts.append(f"### {name}\n\n{stage_table(records)}\n\n{log_table(records)}")
        parts += [one["trainings"] for one in records]
    device = "; ".join(sorted({one["device"] for records in found.values() for one in records}))
    seeds = sorted({seed for name in args.tasks for seed in TASKS[name].seeds})
    path = write_report("rl100_metaworld", "RL-100 from a few noisy demonstrations", "\n\n".join(parts), seeds=seeds,
                        device=device, folder=args.results)  # fmt: skip
    print(path.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
