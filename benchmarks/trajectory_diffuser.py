"""Trajectory Diffuser against planners from noise, by value guidance and without a plan: returns, feasibility, cost.

Per task and training seed every way of planning is rolled out from the same starts with the same noise. A task and seed
leave their record, benchmarks/results/trajectory_diffuser/TASK_seedN.json, so that they may be measured one by one; one
whose record stands is not trained again, and a killed run goes on. Data are collected first where they are missing.
Ablations (level, forward noise, candidates, target, steps per plan, mask, stride, small data) are those of the first
maze. Writes benchmarks/results/trajectory_diffuser.md and its picture once all are there.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _planner_tables import ablations, claims, plot, result_table
from _planners import CHECKED, PLANS, TIMED, VERSION, Cell, kept, of_data
from _policies import in_parallel
from _records import keep, keep_records, load, parts_asked, rounded
from _report import RESULTS, describe_device, training_cost, write_report

from common.engine.config import load_config, parse_options
from common.engine.experiments import Job, run, tutelage

CONFIG = "configs/control/planner/{}.py"
SEEDS = (0, 1, 2)
FROM_NOISE = (5, 10, 20, 50)  # steps of Decision Diffuser


@dataclass(frozen=True)
class Training:
    """config; iterations; teacher: option that takes the planner's checkpoint; options."""

    config: str
    iterations: int
    teacher: str | None = None
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """collect: arguments of `tutelage collect`; trainings: name -> what is trained, "planner" first; improved: name of
    the config's plan that enters at a fixed level; base: overrides of every plan of the planner; starts of rollouts;
    from_noise: steps of Decision Diffuser; variants: more trainings, for the ablations."""

    title: str
    name: str
    collect: tuple[str, ...]
    trainings: dict[str, Training]
    improved: str
    base: dict = field(default_factory=dict)
    starts: int = 20
    from_noise: tuple[int, ...] = FROM_NOISE
    variants: dict[str, Training] = field(default_factory=dict)


HABIT = {"train_dataloader.dataset.count": 4000}  # decisions of the planner that it learns


def maze(name: str, iterations: int, peers: int) -> dict[str, Training]:
    return {
        "planner": Training(f"maze_{name}", iterations),
        "student": Training(f"student_maze_{name}", peers, "model.checkpoint"),
        "habit": Training(f"habit_maze_{name}", 5000, "train_dataloader.dataset.checkpoint", HABIT),
        "diffuser": Training(f"diffuser_maze_{name}", iterations),
    }


RUNNER = {
    "planner": Training("hopper", 6000),
    "student": Training("student_hopper", 1500, "model.checkpoint"),
    "habit": Training("habit_hopper", 5000, "train_dataloader.dataset.checkpoint", HABIT),
    "diffuser": Training("diffuser_hopper", 6000),
}
UMAZE, SMALL = "maze_umaze", "10,000 steps of data"
VARIANTS = {  # of the first maze
    "no mask": Training(UMAZE, 3000, options={"+model.generator.causal": False}),
    "as released": Training("maze_umaze_as_released", 3000),
    "stride 16": Training(UMAZE, 3000, options={"model.stride": 16, "model.horizon": 8, "model.net.horizon": 8,
        "train_dataloader.dataset.stride": 16, "train_dataloader.dataset.length": 8}),
    SMALL: Training(UMAZE, 3000),
}  # fmt: skip
FEW = "10000"  # steps of the small and of the held-out data
TASKS = {
    "umaze": Task("Maze2D umaze", "Maze2D-UMaze-v0", ("--steps", "100000"), maze("umaze", 3000, 1000), "refined10",
                  from_noise=(*FROM_NOISE, 96), variants=VARIANTS),
    "medium": Task("Maze2D medium", "Maze2D-Medium-v0", ("--steps", "200000"), maze("medium", 3000, 1000), "refined10"),
    "hopper-medium-expert-like": Task("hopper-medium-expert-like", "Hopper-v5",
        ("--mix", "medium-expert", "--steps", "100000"), RUNNER, "refined5", {"execute": 4}, 16),
    "hopper-medium-replay-like": Task("hopper-medium-replay-like", "Hopper-v5",
        ("--mix", "medium-replay", "--steps", "100000"), RUNNER, "refined5", {"execute": 4}, 16),
}  # fmt: skip


def data_of(key: str, args, part: str = "whole") -> Path:
    """Where a data set of the task is, or will be: named by how it is collected. part: as `collection`."""
    given = collection(key, args, part)
    return args.work_dir / "data" / f"{key}_{digest(given)}"


def collection(key: str, args, part: str = "whole") -> list[str]:
    """Arguments of `tutelage collect`; agents are shared by the mixes of a runner. part: "whole", "small", or
    "held out", of which no training sees anything."""
    *given, steps = TASKS[key].collect
    given.append(str(max(2000, int(int(steps if part == "whole" else FEW) * args.scale))))
    if "--mix" in given:
        given += ["--agents", str(args.agents or args.work_dir / "agents" / TASKS[key].name)]
    return [*given, "--seed", "1" if part == "held out" else "0"]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def decided(one: Training, args) -> str:
    """Of all that its config and options say of the training; plans it is rolled out with are another matter."""
    config = load_config(CONFIG.format(one.config), {**args.options, **one.options})
    for key in [key for key in config if key.startswith(("val_", "test_")) or key in ("plans", "asks")]:
        config.pop(key)
    return digest([VERSION, config.pretty_text, one.iterations])


def jobs_of(key: str, seed: int, args) -> dict[str, Job]:
    """Name of a training -> job."""
    task, made = TASKS[key], {}
    for name, one in {**task.trainings, **task.variants}.items():
        folder = args.work_dir / key / f"seed{seed}" / f"{name.replace(' ', '_').replace(',', '')}_{decided(one, args)}"
        data = data_of(key, args, "small" if name == SMALL else "whole")
        config = CONFIG.format(one.config)
        plans = list(load_config(config).val_cfg.plans)
        given = {
            **args.options, **one.options, "demonstrations": str(data), "val_dataloader.dataset.count": 1,
            **{f"val_cfg.plans.{other}": None for other in plans[1:]},
        }  # fmt: skip
        if one.teacher:
            given |= {one.teacher: str(made["planner"].checkpoint)}
        if "habit" in one.config:
            given |= {"+train_dataloader.dataset.cache": str(folder / "decisions.pth")}
        needs = (made["planner"].name,) if one.teacher else ()
        iterations = max(2, int(one.iterations * args.scale))
        made[name] = Job(f"{key}/{seed}/{name}", config, folder, iterations, given, seed, needs)
    return made


def ways(key: str, jobs: dict[str, Job]) -> dict[str, tuple[Job, dict]]:
    """Title -> (training, plan) of the comparison."""
    task, planner = TASKS[key], jobs["planner"]
    plans = {name: {**plan, **({} if plan.get("kind") else task.base)}
             for name, plan in load_config(planner.config).val_cfg.plans.items()}  # fmt: skip
    found = {
        "plans as written": (planner, plans["generator"]),
        "improved, level by the rule": (planner, plans["refined"]),
        "improved": (planner, plans[task.improved]),
        "improved, best of 8": (planner, plans["chosen"]),
        **{f"from noise, {n}": (planner, {**plans["decision_diffuser"], "steps": n}) for n in task.from_noise},
        "warm start": (planner, plans["warm"]),
        "cloning": (planner, plans["cloning"]),
    }
    for name in list(task.trainings)[1:]:
        own = load_config(jobs[name].config).val_cfg.plans
        title = {"student": "student, 1 evaluation", "habit": "habit", "diffuser": "Diffuser"}[name]
        first = dict(next(iter(own.values())))
        found[title] = (jobs[name], {**first, **(task.base if name == "student" else {})})
    return found


def more_ways(jobs: dict[str, Job]) -> dict[str, tuple[Job, dict]]:
    """Title "group: value: way" -> (training, plan) of the ablations."""
    task, planner = TASKS["umaze"], jobs["planner"]
    plans = load_config(planner.config).val_cfg.plans
    improved, written, noise = plans[task.improved], plans["generator"], plans["decision_diffuser"]
    found = {}
    for level in (1, 2, 5, 10, 20, 50):
        found[f"level: {level}: as written"] = (planner, {**improved, "level": level})
        found[f"level: {level}: noised to it"] = (planner, {**improved, "level": level, "forward_noise": True})
    for count in (1, 4, 8):
        found[f"candidates: {count}: improved"] = (planner, {**plans["chosen"], "candidates": count})
    for share in (0.5, 0.75, 1.0, 1.25):
        for name, plan in (("plans as written", written), ("improved", improved), ("from noise, 20", noise)):
            found[f"target: {share:g} of the data's largest: {name}"] = (planner, {**plan, "share": share})
    for execute in (1, 4, 8, 16):
        for name, plan in (("plans as written", written), ("improved", improved)):
            found[f"steps per plan: {execute}: {name}"] = (planner, {**plan, "execute": execute})
    further = {**improved, "level": 50}
    for variant in task.variants:
        for name, plan in (("plans as written", written), ("improved", improved), ("improved from 50", further),
                           ("from noise, 20", noise)):  # fmt: skip
            found[f"training: {variant}: {name}"] = (jobs[variant], dict(plan))
    own = load_config(jobs["as released"].config).val_cfg.plans["released"]
    found["training: as released: its own choice"] = (jobs["as released"], dict(own))
    return found


def recipe(key: str, args) -> dict:
    """All that decides a record, whatever the seed and the folders."""
    task, jobs = TASKS[key], jobs_of(key, SEEDS[0], args)
    names = {job.name: name for name, job in jobs.items()}
    return {
        "trainings": {name: decided(one, args) for name, one in {**task.trainings, **task.variants}.items()},
        "ways": {title: [names[job.name], plan] for title, (job, plan) in every_way(key, jobs).items()},
        "collect": [task.collect, FEW, args.agents and str(args.agents)],
        "version": VERSION,
        "starts": min(task.starts, args.starts),
        "plans": [PLANS, CHECKED, TIMED],
        "scale": args.scale,
    }


def every_way(key: str, jobs: dict[str, Job]) -> dict[str, tuple[Job, dict]]:
    """Title -> (training, plan) of comparison and ablations."""
    found = {**ways(key, jobs), **(more_ways(jobs) if TASKS[key].variants else {})}
    return {title: (job, dict(plan)) for title, (job, plan) in found.items()}


def cost(title: str) -> int:
    """How dear a way is, roughly: its network evaluations."""
    if title == "Diffuser":
        return 1000
    steps = [int(part) for part in title.replace(":", "").replace(",", "").split() if part.isdigit()]
    return max([10, *steps, *([80] if "best of 8" in title or "candidates: 8" in title else [])])


def path_of(key: str, seed: int, args) -> Path:
    return args.results / "trajectory_diffuser" / f"{key}_seed{seed}.json"


def measure(key: str, seed: int, args) -> None:
    """Train, roll out, and leave a record."""
    for part in ("whole", "held out", *(["small"] if TASKS[key].variants else [])):
        if not data_of(key, args, part).is_dir():
            (args.work_dir / "data").mkdir(parents=True, exist_ok=True)
            tutelage("collect", TASKS[key].name, str(data_of(key, args, part)), *collection(key, args, part))
    held_out = data_of(key, args, "held out")
    jobs = jobs_of(key, seed, args)
    run(list(jobs.values()), parallel=args.parallel)
    every = every_way(key, jobs)
    starts = min(TASKS[key].starts, args.starts)
    folder = args.work_dir / key / f"seed{seed}" / "measured"
    dearest = sorted(every, key=cost, reverse=True)  # first, so that no core waits for it at the end
    cells = [(Cell(title, *every[title], starts, jobs["planner"], held_out), folder) for title in dearest]
    found = dict(in_parallel(kept, cells, args.parallel, f"{key}, seed {seed}"))
    record = {
        "recipe": recipe(key, args),
        "device": describe_device(),
        "trainings": training_cost(jobs.values()),
        "ways": {title: found[title] for title in every},
        "data": of_data(jobs["planner"], held_out),
    }
    keep(path_of(key, seed, args), rounded(record, 5))
    print(f"{key}, seed {seed} measured: {path_of(key, seed, args)}")


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="of the report, and to measure")
    parse.add_argument(
        "--now", nargs="*", metavar="TASK/SEED", help="to measure now, nothing if none is named; default: all that lack"
    )
    parse.add_argument("--starts", type=int, default=20, help="of every way at most: 20 in mazes, 16 of runners")
    parse.add_argument(
        "--scale", type=float, default=1.0, help="share of data and iterations (for a try); not of agents"
    )
    parse.add_argument("--parallel", type=int, default=2, help="trainings and rollouts side by side; agents: one")
    parse.add_argument("--agents", type=Path, help="folder of Hopper's agents; default: trained in the work folder")
    parse.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V", help="of every training (for a try)")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/trajectory_diffuser"))
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.options = parse_options(args.cfg_options)
    tried = [*(["--cfg-options"] if args.options else []), *(["--scale"] if args.scale != 1 else [])]
    keep_records(parser(), ", ".join(tried), args.results, RESULTS)
    cells = [(key, seed) for key in args.tasks for seed in SEEDS]
    asked = parts_asked(parser(), args.now, cells, dict.fromkeys(TASKS, SEEDS))
    torch.set_num_threads(1)  # as where the ways are measured

    def known(cell: tuple[str, int]) -> dict | None:
        return load(path_of(*cell, args), recipe(cell[0], args))

    for cell in asked:
        if known(cell) is None:
            measure(*cell, args)
    found = {key: [known((key, seed)) for seed in SEEDS] for key in args.tasks}
    absent = [f"{key}/{seed}" for key, records in found.items()
              for seed, one in zip(SEEDS, records, strict=True) if one is None]  # fmt: skip
    whole = {key: records for key, records in found.items() if None not in records}
    parts = [f"### {TASKS[key].title}\n\n{result_table(records, TASKS[key].name)}\n\n"
             f"{claims(records, TASKS[key].name)}" for key, records in whole.items()]  # fmt: skip
    if "umaze" in whole:
        parts.append(f"### Ablations, {TASKS['umaze'].title}\n\n{ablations(whole['umaze'], TASKS['umaze'].name)}")
    if absent:
        print("\n\n".join(parts))
        print(f"no report yet: {', '.join(absent)} not measured")
        return 0
    picture = plot({TASKS[key].title: (TASKS[key].name, records) for key, records in found.items()},
                   args.results / "trajectory_diffuser.png")  # fmt: skip
    parts.insert(0, f"![score against the time of a decision]({picture.name})")
    parts += [one["trainings"] for records in found.values() for one in records]
    device = "; ".join(sorted({one["device"] for records in found.values() for one in records}))
    path = write_report("trajectory_diffuser", "Plans that are written, then improved", "\n\n".join(parts), seeds=SEEDS,
                        device=device, folder=args.results)  # fmt: skip
    print(path.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
