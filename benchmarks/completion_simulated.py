"""LiDAR scene completion on simulated towns: teacher, few-step students, preferences, and what each must show.

Per training seed one teacher, one network of a single pass (trained on Chamfer distance), and from the teacher one
student for each way of distilling; all complete the same held-out scenes from the same noise. The guidance is chosen on
other towns with the first seed's teacher. Finished trainings and measured rows are kept, killed trainings resumed; a
finished seed leaves a record, benchmarks/results/completion_simulated/seedN.json, so that the seeds may be measured one
by one: a seed whose record stands is not trained again. Writes benchmarks/results/completion_simulated.md once all
seeds are there, and says which are missing until then.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _completion import gates, result_table
from _policies import in_parallel
from _records import keep, load, rounded
from _report import RESULTS, describe_device, table, training_cost, write_report

from common.engine.experiments import Job, run
from perception.completion.dataset import TownScenes
from perception.completion.evaluation import evaluate
from perception.completion.model import seeded_noise
from perception.completion.profiles import profile_of
from perception.completion.sampling import lidiff_local, start

CONFIG = "configs/perception/completion/{}.py"
RATE = {1: 4e-4, 4: 1e-4}  # of a student, by its steps
STUDENTS = {  # name: options of the distillation
    "vsd, 1 step": {"preset": "vsd", "steps": 1},
    "anchored, 1 step": {"preset": "anchored", "steps": 1},
    "vsd, 4 steps": {"preset": "vsd", "steps": 4},
    "anchored, 4 steps": {"preset": "anchored", "steps": 4},
    "anchored, random preference, 1 step": {"preset": "anchored", "steps": 1, "metric": "random"},
    "paper's sign, 1 step": {"preset": "paper", "steps": 1},
    "first release's sign, 1 step": {"preset": "first_release", "steps": 1},
    "contrast by regions, 1 step": {"preset": "contrast", "kappa": 2.0, "region": 2.0, "steps": 1},
}
TEACHER_STEPS = {"local": (50, 20, 8, 4, 2, 1), "vp_offset": (50, 20, 8, 4, 2, 1)}
GUIDANCE = (1.0, 2.0, 3.5, 6.0)
DENSE = 8  # points of the truth for each of the completion
CHOICE = 16  # towns behind the held-out ones, on which the guidance is chosen


@dataclass(frozen=True)
class Row:
    """One way of completing. kind: "copy", "noise", or the key of a training; network evaluations are per scan."""

    name: str
    kind: str
    steps: int = 0
    sampler: str = "local"
    guidance: float = 1.0

    @property
    def evaluations(self) -> int:
        return self.steps * (2 if self.guidance != 1 else 1)


def rows(guidance: float) -> list[Row]:
    """All ways of completing, in the order of the table."""
    teacher = [
        Row(f"teacher, {sampler}, {n} step{'s' if n > 1 else ''}", "teacher", n, sampler, guidance)
        for sampler, steps in TEACHER_STEPS.items()
        for n in steps
    ]
    students = [Row(name, name, options["steps"]) for name, options in STUDENTS.items()]
    alone = [Row("scan, copied", "copy"), Row("scan, copied, and noise", "noise"), Row("one pass", "one pass", 1)]
    return [*alone, *teacher, *students]


def slug(name: str) -> str:
    """Folder of a training."""
    return name.replace(", ", "_").replace(" ", "_").replace("'", "")


def teachers(args) -> dict[tuple[str, int], Job]:
    """(key, seed) -> the trainings that need no other."""
    shared = {"profile": args.profile, "radius": profile_of(args.profile).radius, "towns": str(args.towns)}
    jobs = {}
    for seed in args.seeds:
        for key, config, iterations in (
            ("teacher", "teacher_town", args.teacher),
            ("one pass", "one_pass_town", args.one_pass),
        ):
            folder = args.work_dir / slug(key) / f"seed{seed}"
            jobs[key, seed] = Job(f"{key}/{seed}", CONFIG.format(config), folder, iterations, shared, seed)
    return jobs


def students(args, jobs: dict) -> dict[tuple[str, int], Job]:
    """(name, seed) -> distillations of that seed's teacher."""
    made = {}
    for seed in args.seeds:
        for name, options in STUDENTS.items():
            teacher = jobs["teacher", seed]
            given = {
                **teacher.options,
                "batch_size": args.student_batch,
                "model.checkpoint": str(teacher.checkpoint),
                "optim_wrapper.student.optimizer.lr": RATE[options["steps"]],
                **{f"model.{key}": value for key, value in options.items()},
            }
            folder = args.work_dir / slug(name) / f"seed{seed}"
            iterations = 4 * args.updates  # three of the assistants to one of the student
            made[name, seed] = Job(f"{name}/{seed}", CONFIG.format("student_town"), folder, iterations, given, seed,
                                   (teacher.name,))  # fmt: skip
    return made


def completer(row: Row, profile, job: Job | None):
    """(scan (1, n, 3), seed (1,)) -> (1, N, 3) of a row."""
    if job is None:

        def alone(scan, seed):
            anchor = scan.repeat(1, profile.copies, 1)
            noise = seeded_noise(seed, anchor.shape[1:], anchor)
            return anchor if row.kind == "copy" else start(anchor, lidiff_local(), noise)

        return alone
    from common.engine.config import load_config
    from deploy.completion_export_command import load_completion

    model = load_completion(load_config(job.config, job.options), str(job.checkpoint))
    return lambda scan, seed: model.complete(scan, seed, row.steps, row.sampler, row.guidance)


def measured(row: Row, job: Job | None, seed: int, args, first: int, count: int) -> tuple[str, int, dict]:
    """(name, seed, what `evaluate` returns) over towns first, first + 1, ..; kept under all that decides it."""
    torch.set_num_threads(1)
    weights = hashlib.sha256(job.checkpoint.read_bytes()).hexdigest() if job else ""
    key = {**vars(row), "weights": weights, "profile": args.profile, "towns": [first, count], "dense": DENSE}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = args.work_dir / "rows" / f"{slug(row.name)}_{digest}.json"
    if not path.is_file():
        profile = profile_of(args.profile)
        scenes = TownScenes(str(args.towns), profile, train=False, count=first + count, dense=DENSE)
        found = evaluate(completer(row, profile, job), (scenes[i] for i in range(first, first + count)), profile.radius)
        keep(path, {"of": key, **found})
    return row.name, seed, json.loads(path.read_text())


def measure_all(cells: list[tuple], args, title: str) -> dict[str, list[dict]]:
    """name -> what was measured, in the order of the seeds."""
    found: dict[str, dict[int, dict]] = {}
    for name, seed, one in in_parallel(measured, cells, args.parallel, title):
        found.setdefault(name, {})[seed] = one
    return {name: [by_seed[seed] for seed in sorted(by_seed)] for name, by_seed in found.items()}


def choose_guidance(args, jobs: dict, seed: int) -> tuple[float, str]:
    """The guidance of the smallest Chamfer distance in 20 steps on the towns of the choice, and the table of all."""
    teacher = Row("teacher", "teacher", 20)
    ways = [replace(teacher, name=f"guidance {w:g}", guidance=w) for w in GUIDANCE]
    first = args.scenes
    cells = [(way, jobs["teacher", seed], seed, args, first, CHOICE) for way in ways]
    found = measure_all(cells, args, "guidance")
    distance = {way.guidance: found[way.name][0]["means"]["cd"] for way in ways}
    lines = [[f"{w:g}", f"{cd:.4f}"] for w, cd in distance.items()]
    text = f"CD in m of seed {seed}'s teacher in 20 steps on {CHOICE} other towns:\n\n" + table(
        ["guidance", "CD"], lines
    )
    return min(distance, key=distance.get), text


def released_update(job: Job, args) -> bool:
    """Whether 20 updates by the loss as released leave the student bit-identical, and one by the loss with a gradient
    does not. The teacher is guided, so that its score is not that of the assistants, which begin as it."""
    from mmengine.registry import MODELS

    from common.engine.config import load_config

    def moved(released: bool, updates: int) -> bool:
        config = load_config(job.config, {**job.options, "model.guidance": 2.0, "+model.released": released})
        torch.manual_seed(0)
        model = MODELS.build(config.model).train()
        before = [p.detach().clone() for p in model.student.parameters()]
        adam = torch.optim.Adam(model.student.parameters(), lr=1e-4)
        scenes = TownScenes(str(args.towns), args.profile)
        for i in range(updates):
            loss = model.student_losses(scenes[i]["scan"][None], scenes[i]["scene"][None])["loss_student"]
            adam.zero_grad()
            loss.backward()
            adam.step()
        return not all(torch.equal(a, b) for a, b in zip(before, model.student.parameters(), strict=True))

    return not moved(True, 20) and moved(False, 1)


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--profile", default="cpu_hour")
    parse.add_argument("--all-seeds", type=int, nargs="+", default=[0, 1, 2], help="of the report")
    parse.add_argument("--seeds", type=int, nargs="+", help="to train and measure now; default all without a record")
    parse.add_argument("--teacher", type=int, default=2500, help="iterations of the teacher, of 2 scenes")
    parse.add_argument("--one-pass", type=int, default=800, help="iterations of the one-pass network, of 2 scenes")
    parse.add_argument("--updates", type=int, default=150, help="of a student; its assistants make three times as many")
    parse.add_argument("--student-batch", type=int, default=2, help="scenes per iteration of a distillation")
    parse.add_argument("--scenes", type=int, default=48, help="held-out scenes")
    parse.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/completion_simulated"))
    parse.add_argument("--towns", type=Path, default=None, help="default WORK_DIR/towns")
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    return parse


def recipe(args) -> dict:
    """All that decides the numbers of a seed."""
    given = {
        key: getattr(args, key) for key in ("profile", "teacher", "one_pass", "updates", "student_batch", "scenes")
    }
    return {
        **given,
        "students": STUDENTS,
        "rate": RATE,
        "teacher_steps": TEACHER_STEPS,
        "choice": CHOICE,
        "dense": DENSE,
    }


def record_path(args, seed: int) -> Path:
    return args.results / "completion_simulated" / f"seed{seed}.json"


def load_record(args, seed: int) -> dict | None:
    """What a finished seed left; None where it left nothing, or was made by another recipe."""
    return load(record_path(args, seed), recipe(args))


def measure_seeds(args, seeds: list[int], guidance: float | None, choice: str) -> None:
    """Train and measure seeds, and leave their records. guidance: None to choose it with the first one's teacher."""
    args = argparse.Namespace(**{**vars(args), "seeds": seeds})
    profile = profile_of(args.profile)
    TownScenes(str(args.towns), profile, workers=args.parallel)
    TownScenes(str(args.towns), profile, train=False, count=args.scenes + CHOICE, workers=args.parallel)
    jobs = teachers(args)
    run(list(jobs.values()), parallel=args.parallel)
    if guidance is None:
        guidance, choice = choose_guidance(args, jobs, seeds[0])
    jobs |= students(args, jobs)
    run(list(jobs.values()), parallel=args.parallel)
    for seed in seeds:
        cells = [(row, jobs.get((row.kind, seed)), seed, args, 0, args.scenes) for row in rows(guidance)]
        found = measure_all(cells, args, f"rows of seed {seed}")
        record = {
            "recipe": recipe(args), "guidance": guidance, "choice": choice, "device": describe_device(),
            "trainings": training_cost(job for (_, of), job in jobs.items() if of == seed),
            "released_identical": released_update(jobs["anchored, 1 step", seed], args),
            "rows": {name: rounded(one) for name, (one,) in found.items()},
        }  # fmt: skip
        path = record_path(args, seed)
        keep(path, record)
        print(f"seed {seed} measured: {path}")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    profile = profile_of(args.profile)
    args.towns = args.towns or args.work_dir / "towns"
    records = {seed: load_record(args, seed) for seed in args.all_seeds}
    known = next((one for one in records.values() if one), None)
    wanted = [seed for seed in (args.seeds or args.all_seeds) if records.get(seed) is None]
    if wanted:
        measure_seeds(args, wanted, known and known["guidance"], known["choice"] if known else "")
        records |= {seed: load_record(args, seed) for seed in wanted}
    missing = [seed for seed in args.all_seeds if records[seed] is None]
    if missing:
        print(f"no report yet: seeds {', '.join(map(str, missing))} are not measured")
        return 0
    records = [records[seed] for seed in args.all_seeds]
    if len(chosen := {one["guidance"] for one in records}) > 1:
        raise SystemExit(f"the seeds were measured with guidance {', '.join(map(str, sorted(chosen)))}: not one table; "
                         "measure again those that do not have the first one's")  # fmt: skip
    table_rows = rows(records[0]["guidance"])
    found = {row.name: [one["rows"][row.name] for one in records] for row in table_rows}
    costs = [f"Seed {seed}: {one['trainings']} Rows on {one['device']}."
             for seed, one in zip(args.all_seeds, records, strict=True)]  # fmt: skip
    body = "\n\n".join([
        f"Profile {args.profile}: {profile.train_scenes} towns to train on, {args.scenes} held-out ones, "
        f"{profile.scan_points} points of the scan, {profile.scene_points} of a completion, "
        f"{DENSE * profile.scene_points} of the truth, within {profile.radius:g} m. "
        f"Teacher {args.teacher} iterations of 2 scenes, one pass {args.one_pass}, students {args.updates} updates and "
        f"three times as many of their assistants, of {args.student_batch} scene{'s' if args.student_batch > 1 else ''}"
        f". Means over {len(records)} trainings.",
        records[0]["choice"],
        "## Results\n\nDistances in metres after the output filter; IoU of voxels of 0.5 m; EMD exact between 500 "
        "points of each cloud; seconds per scan on one core, PyTorch.",
        result_table(table_rows, found),
        "## Gates\n\nPaired by scene and training; intervals: 95 % bootstrap over both, or over the scenes of one "
        "training where the gate counts trainings.",
        gates(found, records[0]["guidance"], [one["released_identical"] for one in records]),
        *costs,
    ])  # fmt: skip
    path = write_report("completion_simulated", "Scene completion on simulated towns", body, seeds=args.all_seeds,
                        device="; ".join(sorted({one["device"] for one in records})), folder=args.results)  # fmt: skip
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
