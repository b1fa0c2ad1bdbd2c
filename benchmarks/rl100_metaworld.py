"""RL-100 in Meta-World from a few noisy demonstrations: imitation, offline RL, online RL, a one-step head, and peers.

Every policy of a pipeline acts in the same held-out layouts from the same starts; its last head in more of them,
without a break. Per task and training seed a pipeline leaves its record,
benchmarks/results/rl100_metaworld/TASK_seedN.json, so that they may be measured one by one; one whose record stands is
not trained again. Peers: the critics' best of 32 chains, and, as TASK-online, the online stage alone (rounds = 0) from
the same imitation, after DPPO, but with a value that begins as that of offline critics. Beside a task stands what was
tried where a stage of it stayed flat. Writes benchmarks/results/rl100_metaworld.md once every task's records are there,
and says which of those beside are not; `--now` alone measures nothing.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
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
from control.rl.rl100.runner import settings_of

CONFIG = "configs/control/rl100/{}.py"
WAYS = ("mean", "one_step", "best_of_n")
LOGGED = ("seconds", "gates", "accepted", "first_ratio_gap", "kl_exact", "clip_fraction", "q_max", "collected_success")
LAYOUTS = 300
UNBROKEN = 1000  # of the last evaluation of a pipeline's head
LEVEL = 0.9  # of the gates' intervals
ROW = 250  # successes one after the other that the paper's policies reach


@dataclass(frozen=True)
class Task:
    """config; seeds of the trainings; claims: whether the ordering of the stages is a gate; layouts: at most so many;
    beside: the task in whose part of the report this one stands; options: what it changes of the config."""

    config: str
    seeds: tuple[int, ...] = (0,)
    claims: bool = False
    layouts: int = 1000
    beside: str | None = None
    options: dict = field(default_factory=dict)


ALONE = {"pipeline.rounds": 0}  # the online stage, behind imitation
MORE = {"pipeline.collect": 300, "pipeline.rounds": 3, "pipeline.online.iterations": 0}  # and no online stage
PAPER = {"pipeline.gate.z": 0.0, "+pipeline.gate.relative": 0.05, "pipeline.online.iterations": 0}  # its gate
TASKS = {
    "dial-turn": Task("dial_turn", (0, 1, 2), claims=True),
    "reach": Task("reach", (0, 1, 2), claims=True),
    "push": Task("push"),
    "hammer": Task("hammer"),
    "push-points": Task("push_points", layouts=100),
    "dial-turn-online": Task("dial_turn", beside="dial-turn", options=ALONE),
    "reach-online": Task("reach", beside="reach", options=ALONE),
    "reach-more": Task("reach", beside="reach", options=MORE),
    "hammer-gate": Task("hammer", beside="hammer", options=PAPER),
}


def options_of(name: str, args) -> dict:
    """Overrides that decide a pipeline."""
    return {**args.options, **TASKS[name].options}


def job_of(name: str, seed: int, args) -> Job:
    """The pipeline of a task and seed."""
    task = TASKS[name]
    given = {**options_of(name, args), "workers": 1, "evaluation.episodes": min(args.layouts, task.layouts),
             "evaluation.ways": WAYS}  # fmt: skip
    pipeline = load_config(CONFIG.format(task.config), given).pipeline
    last = len(settings_of(dict(pipeline)).stages()) + pipeline.online.iterations
    folder = args.work_dir / name / f"seed{seed}"
    return Job(f"{name}/{seed}", CONFIG.format(task.config), folder, last, given, seed, counter=None)


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


def recipe(name: str, args) -> dict:
    """All that decides a record: the config as it is, and what is asked of it."""
    task = TASKS[name]
    config = load_config(CONFIG.format(task.config), options_of(name, args))
    return {"config": config.pretty_text, "layouts": min(args.layouts, task.layouts), "ways": WAYS,
            "unbroken": unbroken_layouts(name, args)}  # fmt: skip


def unbroken_layouts(name: str, args) -> int:
    """Of the last evaluation: all where the task's are not few; none of a peer."""
    return args.unbroken if args.layouts <= TASKS[name].layouts and not TASKS[name].beside else 0


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
    return args.results / "rl100_metaworld" / f"{name}_seed{seed}.json"


def measure(cells: list[tuple[str, int]], args) -> None:
    """Train what is missing, and leave a record per task and seed."""
    jobs = {cell: job_of(*cell, args) for cell in cells}
    run(list(jobs.values()), parallel=args.parallel)
    for (name, seed), job in jobs.items():
        layouts = unbroken_layouts(name, args)
        record = {"recipe": recipe(name, args), "device": describe_device(), "trainings": training_cost([job], seconds),
                  **what_happened(job), "unbroken": unbroken(job, layouts) if layouts else []}  # fmt: skip
        keep(path_of(name, seed, args), rounded(record, 4))
        print(f"{name}, seed {seed} measured: {path_of(name, seed, args)}")


def successes(records: list[dict], stage: str, way: str) -> np.ndarray:
    """(trainings, layouts)."""
    return np.array([one["stages"][stage][way] for one in records], float)


def streak(values: np.ndarray) -> int:
    """Longest row of successes in one training's layouts."""
    best = now = 0
    for won in values:
        now = now + 1 if won else 0
        best = max(best, now)
    return best


def stage_table(records: list[dict], peers: list[dict]) -> str:
    """A line per stage and way of acting. peers: trainings of the online stage alone, if any."""
    lines = []

    def line(text: str, found: list[dict], stage: str, way: str) -> None:
        won, steps = successes(found, stage, way), np.mean([one["steps"][stage] for one in found])
        each = " ".join(f"{value:.2f}" for value in won.mean(1))
        lines.append([text, rate(won), each, f"{steps:,.0f}", max(streak(one) for one in won)])

    for stage, ways in records[0]["stages"].items():
        for way in ways:
            line(f"{stage}, {way}", records, stage, way)
    if peers:
        line("online alone, mean", peers, "online", "mean")
    heads = ["success", "per training", "steps in the task before it", "longest row of successes"]
    return table(["after stage, way of acting", *heads], lines)


def gates(name: str, records: list[dict]) -> str:
    """The orderings that must hold, paired by training and layout, and without a verdict what the offline rounds leave
    in all, the imitation behind the last one included."""
    offline, left = ([stage for stage in records[0]["stages"] if stage.startswith(kind)][-1]
                     for kind in ("improve", "retrain"))  # fmt: skip
    pairs = [
        ("imitation < offline RL", ("imitation", "mean"), (offline, "mean"), lambda low, mean, high: low > 0),
        ("offline RL < online RL", (offline, "mean"), ("online", "mean"), lambda low, mean, high: low > 0),
        ("the head within 0.05 of its teacher", ("online", "mean"), ("online", "one_step"),
         lambda low, mean, high: low >= -0.05),
        ("imitation < what the online stage begins with (no gate)", ("imitation", "mean"), (left, "mean"), None),
    ]  # fmt: skip
    lines = []
    for text, first, second, holds in pairs:
        mean, low, high = paired_difference(successes(records, *first), successes(records, *second), level=LEVEL)
        shown = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        lines.append([f"{name}: {text}", shown, ("yes" if holds(low, mean, high) else "no") if holds else ""])
    rows, first = ([of(one["unbroken"]) for one in records] for of in (streak, lambda won: streak(won[:ROW])))
    text = f"{name}: {ROW} successes of the head in a row, in one evaluation of one of the trainings"
    shown = (f"longest row {', '.join(map(str, rows))} of {len(records[0]['unbroken']):,} layouts; of the first {ROW} "
             f"alone {', '.join(map(str, first))}")  # fmt: skip
    lines.append([text, shown, "yes" if max(rows) >= ROW else "no"])
    return table(["", f"difference, {LEVEL:.0%} bootstrap".replace("%", " %"), "holds"], lines)


def whole(records: list[dict]) -> str:
    """Of the heads' evaluations without a break, a line per training that has one."""
    return "\n".join(f"- {sum(won):,} successes of the head in {len(won):,} layouts, the longest row {streak(won)}"
                     for won in (one["unbroken"] for one in records) if won)  # fmt: skip


def log_table(records: list[dict]) -> str:
    """What every stage logged, of the first training."""
    log = records[0]["log"]
    rows = [[row["stage"], *(f"{row[key]:.3g}" if key in row else "" for key in LOGGED)] for row in log]
    return table(["stage", *(key.replace("_", " ") for key in LOGGED)], rows)


def plot(found: dict[str, list[dict]], path: Path) -> Path:
    """Success of the exploring policy over the online stage's steps, of every task and of its peer: a colour a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [name for name in found if not TASKS[name].beside]
    figure, axes = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.4), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], shown, strict=True):
        for records, style in ((found[name], "-"), (peers_of(name, found), ":")):
            for number, one in enumerate(records):
                steps, won = ([row[key] for row in one["online"]] for key in ("steps", "success"))
                axis.plot(np.array(steps) / 1000, won, style, color=f"C{number}", linewidth=1.2)
        labels = [("-", "after the offline rounds"), *([(":", "online alone")] if peers_of(name, found) else [])]
        for style, label in labels:
            axis.plot([], [], style, color="black", label=label)
        axis.legend(fontsize=7, loc="lower right")
        axis.set(title=name, xlabel="1,000 steps online", ylim=(-0.02, 1.02))
    axes[0, 0].set_ylabel("success of episodes that end\nin their lane, exploring")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def peers_of(name: str, found: dict[str, list[dict]]) -> list[dict]:
    """Trainings of a task's online stage alone."""
    return [one for key, records in beside(name, found).items() if TASKS[key].options == ALONE for one in records]


def beside(name: str, found: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Key -> trainings that stand in a task's part of the report."""
    return {key: records for key, records in found.items() if TASKS[key].beside == name}


def tried(name: str, found: dict[str, list[dict]]) -> list[str]:
    """What else was tried of a task: its tables."""
    parts = []
    for key, records in beside(name, found).items():
        if records and (changed := TASKS[key].options) != ALONE:
            text = ", ".join(f"{option}={value}" for option, value in changed.items())
            seeds = ", ".join(map(str, TASKS[key].seeds))
            shown = f"{stage_table(records, [])}\n\n{log_table(records)}"
            parts.append(f"Tried as {key}, {text}, seeds {seeds}:\n\n{shown}")
    return parts


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    tasks = [name for name, task in TASKS.items() if not task.beside]
    parse.add_argument(
        "--tasks", nargs="+", choices=tasks, default=tasks, help="of the report, and what is beside them"
    )
    parse.add_argument(
        "--now", nargs="*", metavar="TASK/SEED", help="to measure now, nothing if none is named; default: all that lack"
    )
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
    names = [name for name, task in TASKS.items() if (task.beside or name) in args.tasks]
    cells = [(name, seed) for name in names for seed in TASKS[name].seeds]
    asked = parts_asked(parser(), args.now, cells, {name: task.seeds for name, task in TASKS.items()})

    def known(cell: tuple[str, int]) -> dict | None:
        return load(path_of(*cell, args), recipe(cell[0], args))

    missing = [cell for cell in asked if known(cell) is None]
    if missing:
        measure(missing, args)
    found = {name: [known((name, seed)) for seed in TASKS[name].seeds] for name in names}
    absent = [(name, seed) for name, records in found.items()
              for seed, one in zip(TASKS[name].seeds, records, strict=True) if one is None]  # fmt: skip
    text = ", ".join(f"{name}/{seed}" for name, seed in absent)
    if any(not TASKS[name].beside for name, _ in absent):
        print(f"no report yet: {text} not measured")
        return 0
    found = {name: [one for one in records if one is not None] for name, records in found.items()}
    picture = plot(found, args.results / "rl100_metaworld.png")
    parts = [gates(name, found[name]) for name in args.tasks if TASKS[name].claims]
    parts += [f"Not measured: {text}."] if absent else []
    parts.append(f"![success while exploring, over the steps of the online stage, a colour a seed]({picture.name})")
    for name in args.tasks:
        records, more = found[name], beside(name, found)
        parts.append(f"### {name}\n\n{stage_table(records, peers_of(name, found))}")
        parts += [part for part in (whole(records), log_table(records), *tried(name, found)) if part]
        parts += [one["trainings"] for one in [*records, *(one for others in more.values() for one in others)]]
    device = "; ".join(sorted({one["device"] for records in found.values() for one in records}))
    seeds = sorted({seed for _, seed in cells})
    path = write_report("rl100_metaworld", "RL-100 from a few noisy demonstrations", "\n\n".join(parts), seeds=seeds,
                        device=device, folder=args.results)  # fmt: skip
    print(path.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
