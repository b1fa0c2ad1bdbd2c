"""Novelty bonuses for AGV path planning: gates G1 to G5, inputs and variants, the hard scene, unseen warehouses.

Every study trains its variants in the same configuration with the same seeds, and leaves a record of its own,
benchmarks/results/agv_rnd/STUDY.json, so that the studies may be measured one by one; one whose record stands is not
trained again. Drivers that know the map are the references. Writes benchmarks/results/agv_rnd.md and its curves once
all studies are there, and says which are missing until then.
"""

import argparse
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _agv import curves, gates, held_out_table, plot, result_table
from _policies import in_parallel
from _records import keep, load, rounded
from _report import RESULTS, describe_device, training_cost, write_report

from common.engine.config import load_config
from common.engine.experiments import Job, run
from control.envs.warehouse.env import AGVWarehouse
from control.envs.warehouse.layout import Layout
from control.envs.warehouse.levels import level
from control.envs.warehouse.options import FIELD
from control.planning.drivers import DRIVERS, drive
from control.rl.rnd.warehouses import EVALUATION_SEED, episodes

CONFIG = "configs/control/agv/{}.py"
ROLLOUT = 4096  # steps
KEPT = ("is_success", "is_collision", "spl")

RND: dict = {}
PPO = {"algorithm.int_coef": 0.0}
PAPER = {**PPO, "+paper": {"beta": 1.0}}
FULL = {"algorithm.features": "full"}


@dataclass(frozen=True)
class Study:
    """Trainings in one layout. variants: name -> options of the config; steps: rounded down to whole rollouts;
    drivers: references."""

    title: str
    layout: str
    steps: int
    backend: str
    variants: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    config: str = "rnd_simple"
    drivers: tuple[str, ...] = ("pure_pursuit",)


STUDIES = {
    "simple": Study("Simple, MuJoCo (G1)", "Simple", 249_856, "mujoco", {"RND": RND, "PPO": PPO}),
    "simple_twin": Study(
        "Simple, kinematic twin: inputs and variants (G4)", "Simple", 249_856, "kinematic",
        {
            "RND": RND,
            "PPO": PPO,
            "PPO, gSDE": {**PPO, "+algorithm.use_sde": True},
            "paper's sum": PAPER,
            "paper's sum, raw pose": {**PAPER, "algorithm.features": "raw"},
            "raw pose": {"algorithm.features": "raw"},
            "full observation": FULL,
            "Fourier and heading": {"algorithm.features": "fourier_heading"},
            "count": {"algorithm.bonus": "count"},
            "DRND": {"algorithm.bonus": "drnd"},
            "predictor on all samples (p = 1)": {"+algorithm.bonus_kwargs.proportion": 1.0},
            "episodic bonus": {"+algorithm.int_episodic": True},
            "c_I = 0.3": {"algorithm.int_coef": 0.3},
        },
    ),
    "complex10": Study("Complex10, kinematic twin (G2)", "Complex10", 999_424, "kinematic",
                       {"RND": RND, "PPO": PPO}),
    "simple_dynamic": Study("SimpleDynamic, MuJoCo (G3)", "SimpleDynamic", 798_720, "mujoco",
                            {"RND": RND, "full observation": FULL}, drivers=("pure_pursuit", "dynamic_window")),
    "complex": Study("Complex, kinematic twin", "Complex", 1_998_848, "kinematic",
                     {"RND": RND}),
    "random": Study("Unseen random warehouses", "Random", 999_424, "kinematic", {"RND": RND, "PPO": PPO},
                    (0, 1, 2), "rnd_random", drivers=()),
    "distilled": Study("Unseen random warehouses: the distilled planner", "Random", 1_998_848, "kinematic",
                       {"distilled planner": {}}, (0, 1, 2), "distilled_random", drivers=()),
}  # fmt: skip
HELD_OUT = 200
CONDITIONS = {  # what an unseen warehouse is like: options of the environment
    "as in training": {},
    "noise, gains, latency": {"randomisation": True},
    "3 movers": {"movers": 3},
    "3 movers, half as fast again, and noise": {
        "movers": 3,
        "randomisation": {**asdict(FIELD), "mover_scale": 1.5},
    },
}
REFERENCES = ("pure_pursuit", "dynamic_window")  # in unseen warehouses


def jobs_of(name: str, args) -> dict[tuple[str, int], Job]:
    """(variant, seed) -> training of a study."""
    study, made = STUDIES[name], {}
    for variant, options in study.variants.items():
        folder = args.work_dir / name / variant.replace(" ", "_").replace(",", "").replace("'", "")
        given = {"environment.layout": study.layout, "environment.backend": study.backend, **options}
        for seed in study.seeds[: args.most_seeds]:
            steps = max(ROLLOUT, int(study.steps * args.scale) // ROLLOUT * ROLLOUT)
            if args.scale < 1 and "cloning" in load_config(CONFIG.format(study.config)):
                given["cloning.episodes"] = max(20, int(2000 * args.scale))
            made[variant, seed] = Job(
                f"{name}/{variant}/{seed}", CONFIG.format(study.config), folder / f"seed{seed}", steps,
                {**given, "checkpoint_every": steps}, seed, counter="total_steps",
            )  # fmt: skip
    return made


def driven(driver: str, count: int, environment: dict) -> dict[str, list]:
    """Episodes of a driver on the seeds that a policy is evaluated on."""
    env = AGVWarehouse(**environment)
    options = [None if isinstance(env.layouts, Layout) else env.layouts.option(i) for i in range(count)]
    return columns([drive(DRIVERS[driver](), env, EVALUATION_SEED + i, options[i])[0] for i in range(count)])


def columns(found: list[dict]) -> dict[str, list]:
    """What is kept of episodes."""
    return {key: [1 * one[key] for one in found] for key in KEPT}


def tested(job: Job, count: int, environment: dict) -> dict[str, list]:
    """Episodes of a training's mean policy."""
    from deploy.reactive_export_command import load_actor

    torch.set_num_threads(1)
    config = load_config(job.config, job.options)
    actor = load_actor(config, str(job.checkpoint))
    given = {**{k: v for k, v in config.environment.items() if k != "count"}, **environment}
    return columns(episodes(actor.act, count, **given))


def measured(kind: str, key: tuple, *arguments) -> tuple[str, tuple, dict]:
    """(kind, key, episodes) of a driver, or of a training."""
    return kind, key, {"driven": driven, "tested": tested}[kind](*arguments)


def recipe(name: str, args) -> dict:
    """All that decides the numbers of a study."""
    held_out = {"count": args.held_out, "conditions": CONDITIONS, "references": REFERENCES}
    return {**asdict(STUDIES[name]), "scale": args.scale, "most_seeds": args.most_seeds, "episodes": args.episodes,
            **({"held_out": held_out} if STUDIES[name].layout == "Random" else {})}  # fmt: skip


def measure(name: str, args) -> dict:
    """Train and test a study, and leave its record."""
    study, jobs = STUDIES[name], jobs_of(name, args)
    run(list(jobs.values()), parallel=args.parallel)
    cells: list[tuple] = []
    if study.layout == "Random":
        base = {"layout": "Random", "pool": (1000, args.held_out), "backend": "mujoco"}
        for condition, environment in CONDITIONS.items():
            cells += [("tested", (variant, condition, seed), job, args.held_out, {**base, **environment})
                      for (variant, seed), job in jobs.items()]  # fmt: skip
            if name == "random":
                cells += [("driven", (driver, condition, 0), driver, args.held_out, {**base, **environment})
                          for driver in REFERENCES]  # fmt: skip
    else:
        cells = [("tested", (variant, "", seed), job, args.episodes, {}) for (variant, seed), job in jobs.items()]
        where = {"layout": level(study.layout), "backend": study.backend}
        cells += [("driven", (driver, "", 0), driver, args.episodes, where) for driver in study.drivers]
    tests = [{"name": key[0], "condition": key[1], "seed": key[2], "episodes": found}
             for _, key, found in in_parallel(measured, cells, args.parallel, f"episodes of {name}")]  # fmt: skip
    order = [key for _, key, *_ in cells]
    tests.sort(key=lambda one: order.index((one["name"], one["condition"], one["seed"])))
    record = {
        "recipe": recipe(name, args),
        "device": describe_device(),
        "trainings": training_cost(jobs.values()),
        "curves": {variant: [curves(jobs[v, seed]) for v, seed in jobs if v == variant] for variant in study.variants},
        "tests": tests,
    }
    path = args.results / "agv_rnd" / f"{name}.json"
    keep(path, rounded(record, 4))
    print(f"{name} measured: {path}")
    return record


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--studies", nargs="+", choices=STUDIES, help="to measure now; default all without a record")
    parse.add_argument("--episodes", type=int, default=100, help="of every training's mean policy, and of a driver")
    parse.add_argument("--held-out", type=int, default=HELD_OUT, help="unseen random warehouses")
    parse.add_argument("--scale", type=float, default=1.0, help="share of every training's steps (for a try)")
    parse.add_argument("--most-seeds", type=int, default=5, help="of every variant (for a try)")
    parse.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/agv_rnd"))
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)

    def known(name: str) -> dict | None:
        return load(args.results / "agv_rnd" / f"{name}.json", recipe(name, args))

    records = {name: known(name) for name in STUDIES}
    for name in args.studies or STUDIES:
        if records[name] is None:
            measure(name, args)
            records[name] = known(name)
    missing = [name for name in STUDIES if records[name] is None]
    if missing:
        for name, study in STUDIES.items():
            if records[name] and study.layout != "Random":
                print(f"{study.title}\n\n{result_table(records[name], study)}\n")
        print(f"no report yet: {', '.join(missing)} not measured")
        return 0
    picture = plot(records, STUDIES, args.results / "agv_rnd.png")
    parts = [gates(records), f"![curves of the trainings]({picture.name})"]
    for name, study in STUDIES.items():
        if study.layout != "Random":
            parts.append(f"### {study.title}\n\n" + result_table(records[name], study))
    parts.append("### Unseen warehouses\n\n" + held_out_table(records, CONDITIONS))
    parts += [f"{name}: {one['trainings']} Tested on {one['device']}." for name, one in records.items()]
    device = "; ".join(sorted({one["device"] for one in records.values()}))
    seeds = range(max(len(study.seeds) for study in STUDIES.values()))
    path = write_report("agv_rnd", "Novelty bonuses for AGV path planning", "\n\n".join(parts), seeds=seeds,
                        device=device, folder=args.results)  # fmt: skip
    print(path.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
