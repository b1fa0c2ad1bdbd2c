"""VCD on the simulated driving world: does the prior help, does distillation, and which region should be imitated?

Baseline, expert, apprentices and the negative control, several training seeds each, on held-out scenes. Finished
trainings are kept, killed ones resumed. Writes benchmarks/results/vcd_simulated.md.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _nds import paired_interval, records, score
from _report import describe_device, table, training_cost, write_report

from common.engine.experiments import Job, run, tutelage
from perception.datasets.converter import create_infos
from perception.datasets.metric import EVAL_SETS
from perception.demo import warm_up
from perception.simulation.generate import generate
from perception.simulation.profiles import profile

FAMILY = "configs/perception/vcd/{}_sim.py"
OCCUPANCY = {"model.distiller.occupancy_weight": 4.0}
SHUFFLE = {f"{part}_dataloader.dataset.lidar_shuffle_seed": 7 for part in ("+train", "+val")}
VARIANTS = {  # name: (config, options, needs the expert)
    "baseline": ("baseline", {}, False),
    "expert": ("expert", {}, False),
    "expert, LiDAR shuffled": ("expert", SHUFFLE, False),
    "apprentice, trajectory": ("apprentice", {}, True),
    "apprentice, occupancy": ("apprentice", {**OCCUPANCY, "model.distiller.trajectory_weight": 0.0}, True),
    "apprentice, both": ("apprentice", OCCUPANCY, True),
    "apprentice, as released": ("apprentice", {"model.distiller.region": "as_released"}, True),
    "apprentice, current boxes": ("apprentice", {"model.distiller.region": "current"}, True),
}
COMPARISONS = [
    ("baseline", "expert"),
    ("baseline", "expert, LiDAR shuffled"),
    ("expert", "expert, LiDAR shuffled"),
    *(("baseline", name) for name in VARIANTS if name.startswith("apprentice")),
    ("apprentice, as released", "apprentice, trajectory"),
    ("apprentice, current boxes", "apprentice, trajectory"),
]
LIDAR, NO_LIDAR = {"+model.lidar_prior": True}, {"model.lidar_prior": False}
PROBES = {  # trained networks tested with the other input: name: (network, options of the test)
    "baseline, given LiDAR in the test": ("baseline", LIDAR),
    "apprentice, trajectory, given LiDAR in the test": ("apprentice, trajectory", LIDAR),
    "expert, LiDAR taken away in the test": ("expert", NO_LIDAR),
}
COLUMNS = ("NDS", "mAP", "mATE", "mASE", "mAOE", "mAVE", "mAAE")


def slug(name: str) -> str:
    """Folder of a variant."""
    return name.replace(", ", "_").replace(" ", "_")


def trainings(
    data: Path, version: str, work_dir: Path, start: int, iterations: int, seeds: list[int]
) -> tuple[Job, list[Job]]:
    """The common start and all jobs; seed s of an apprentice learns from seed s of the expert."""
    common = {"data_root": str(data), "version": version}
    first = warm_up(common, work_dir, start)
    jobs = []
    for seed in seeds:
        for name, (config, options, distilled) in VARIANTS.items():
            folder = work_dir / slug(name) / f"seed{seed}"
            options = {
                **common,
                "load_from": str(first.checkpoint),
                "val_evaluator.out_dir": str(folder / "evaluation"),
                **options,
            }
            needs = (first.name,)
            if distilled:
                needs += (f"expert/{seed}",)
                checkpoint = work_dir / "expert" / f"seed{seed}" / f"iter_{iterations}.pth"
                options["model.distiller.checkpoint"] = str(checkpoint)
            jobs.append(Job(f"{name}/{seed}", FAMILY.format(config), folder, iterations, options, seed, needs))
    # baselines and experts first: the apprentices wait for the experts anyway
    return first, sorted(jobs, key=lambda job: (len(job.needs), job.seed))


def fast_scenes(nusc, names: list[str]) -> list[int]:
    """Positions of the scenes whose ego drives faster than the median of them: where unaligned masks err most."""
    speeds = []
    for scene in (s for name in names for s in nusc.scene if s["name"] == name):
        ends = [nusc.get("sample", scene[f"{end}_sample_token"]) for end in ("first", "last")]
        keys = [nusc.get("sample_data", sample["data"]["LIDAR_TOP"]) for sample in ends]
        places = [np.array(nusc.get("ego_pose", key["ego_pose_token"])["translation"]) for key in keys]
        speeds.append(np.linalg.norm(places[1] - places[0]) / max(1, ends[1]["timestamp"] - ends[0]["timestamp"]))
    return np.flatnonzero(np.array(speeds) > np.median(speeds)).tolist()


def evaluate(jobs: list[Job], data: Path, version: str) -> tuple[dict[str, list], list[int]]:
    """Per variant the detection records of every seed, from the kept submissions; the positions of the fast scenes."""
    from nuscenes import NuScenes

    nusc = NuScenes(version=version, dataroot=str(data), verbose=False)
    found: dict[str, list] = {}
    for job in sorted(jobs, key=lambda job: job.seed):
        folder = job.work_dir / "evaluation"
        classes, scenes = records(nusc, folder / "results_nusc.json", EVAL_SETS[version], folder)
        devkit, ours = job.result()["NDS"], score(classes)["NDS"]
        if abs(devkit - ours) > 1e-6:
            raise RuntimeError(f"{folder}: NDS {ours} from records, {devkit} by the devkit")
        found.setdefault(job.name.rsplit("/", 1)[0], []).append(classes)
    return found, fast_scenes(nusc, scenes)


def summarise(jobs: list[Job], found: dict[str, list], fast: list[int], draws: int) -> str:
    """The two tables."""
    metrics: dict[str, list[dict]] = {}
    for job in jobs:
        metrics.setdefault(job.name.rsplit("/", 1)[0], []).append(job.result())
    rows = []
    for name in VARIANTS:
        values = {key: [m[key] for m in metrics[name]] for key in COLUMNS}
        spread = " ".join(f"{value:.3f}" for value in values["NDS"])
        rows.append([name, *(f"{np.mean(values[key]):.3f}" for key in COLUMNS), spread])
    differences, memory = [], {}
    for first, second, scenes, where in (
        *((first, second, None, "") for first, second in COMPARISONS),
        ("apprentice, as released", "apprentice, trajectory", fast, f", the {len(fast)} faster scenes"),
    ):
        cells = []
        for key in ("NDS", "mAP"):
            interval = paired_interval(found[first], found[second], key, draws=draws, scenes=scenes, memory=memory)
            cells.append(f"{interval['mean']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]")
            if key == "NDS":
                cells.append(f"[{interval['t_low']:+.3f}, {interval['t_high']:+.3f}]")
                cells.append(" ".join(f"{value:+.3f}" for value in interval["per_seed"]))
        differences.append([f"{second} - {first}{where}", *cells])
    return (
        "Mean over the seeds, scores by the nuScenes devkit on the held-out scenes:\n\n"
        + table(["network", *COLUMNS, "NDS per seed"], rows)
        + "\n\nPaired differences. Brackets behind a mean: 95 % bootstrap over seeds (as pairs) and held-out scenes. "
        "NDS, t: Student's t over the seeds alone, on these scenes. Both hold for this common start and this simulated "
        "set, and no correction is made for reading several rows.\n\n"
        + table(["difference", "NDS", "NDS, t", "NDS per seed", "mAP"], differences)
        + "\n"
    )


def tested(folder: Path, job: Job) -> bool:
    """Whether `tutelage test` has left the metrics of this job's checkpoint, and of no earlier one, in a folder."""
    found = folder / "metrics.json"
    if not found.is_file() or found.stat().st_mtime < job.checkpoint.stat().st_mtime:
        return False
    return Path(json.loads(found.read_text())["checkpoint"]).resolve() == job.checkpoint.resolve()


def probe(jobs: list[Job], common: dict, parallel: int) -> dict[str, list[dict]]:
    """Metrics of every probe and seed, by `tutelage test`; finished ones are kept."""
    by_name = {job.name: job for job in jobs}
    seeds = sorted({job.seed for job in jobs})

    def test(task: tuple[str, int]) -> dict:
        name, seed = task
        network, options = PROBES[name]
        job = by_name[f"{network}/{seed}"]
        out = job.work_dir.parents[1] / "probes" / slug(name) / f"seed{seed}"
        if not tested(out, job):
            pairs = [f"{key}={value}" for key, value in {**common, **options}.items()]
            arguments = [job.config, str(job.checkpoint), "--out", str(out), "--cfg-options", *pairs]
            tutelage("test", *arguments, echo=False, threads=1)
        return json.loads((out / "metrics.json").read_text())["metrics"]

    tasks = [(name, seed) for name in PROBES for seed in seeds]
    with ThreadPoolExecutor(parallel) as pool:
        found = list(tqdm(pool.map(test, tasks), total=len(tasks), desc="probes"))
    return {name: [f for (n, _), f in zip(tasks, found, strict=True) if n == name] for name in PROBES}


def probe_table(jobs: list[Job], probes: dict[str, list[dict]]) -> str:
    """How much of the expert's gain is the input at test time, and how much the learnt weights."""
    trained: dict[str, list[dict]] = {}
    for job in sorted(jobs, key=lambda job: job.seed):
        trained.setdefault(job.name.rsplit("/", 1)[0], []).append(job.result())
    rows = []
    for name, found in probes.items():
        network = PROBES[name][0]
        for label, values in ((f"{network}, as trained", trained[network]), (name, found)):
            means = [f"{np.mean([value[key] for value in values]):.3f}" for key in COLUMNS]
            rows.append([label, *means, " ".join(f"{value['mAP']:.3f}" for value in values)])
    return (
        "\nWhere the expert's gain lies: trained networks tested with the other input, a LiDAR prior or none.\n\n"
        + table(["network", *COLUMNS, "mAP per seed"], rows)
        + "\n"
    )


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parse.add_argument("--warm-up", type=int, default=2000, help="iterations of the common start, 8 samples each")
    parse.add_argument("--iterations", type=int, default=400, help="iterations of each network, 4 samples each")
    parse.add_argument("--scenes", type=int, default=100, help="training scenes")
    parse.add_argument("--val-scenes", type=int, default=20, help="held-out scenes")
    parse.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    parse.add_argument("--draws", type=int, default=500, help="bootstrap samples")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/vcd_simulated"))
    return parse


def main() -> int:
    args = parser().parse_args()
    data = args.work_dir / "data"
    summary = generate(data, profile=profile("tiny", keyframes=8), train=args.scenes, val=args.val_scenes, seed=1)
    if summary.simulated or not (data / "tutelage_infos_val.pkl").is_file():
        create_infos(data, summary.version)
    first, jobs = trainings(data, summary.version, args.work_dir, args.warm_up, args.iterations, args.seeds)
    results = run([first, *jobs], parallel=args.parallel)
    body = (
        f"{args.scenes} training and {args.val_scenes} held-out scenes of 8 key frames, the `sim` family of "
        f"configs/perception/vcd. All networks start from the weights of one camera network ({args.warm_up} iterations "
        f"of 8 samples; NDS {results[first.name]['NDS']:.3f}, mAP {results[first.name]['mAP']:.3f}), where the paper's "
        f"start from ImageNet, and train {args.iterations} iterations of 4 samples. Negative control: the expert whose "
        "depth maps come from other samples, in training and in testing.\n\n"
    )
    body += summarise([*jobs], *evaluate(jobs, data, summary.version), args.draws)
    common = {"data_root": str(data), "version": summary.version}
    body += probe_table(jobs, probe(jobs, common, args.parallel))
    body += f"\n{training_cost([first, *jobs])}\n"
    path = write_report("vcd_simulated", "VCD on the simulated driving world", body, seeds=args.seeds,
                        device=describe_device())  # fmt: skip
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
