"""Real input: complete one KITTI scan with the student that was trained on simulated towns, through ONNX.

The student is that of benchmarks/completion_simulated.py (trained here where it is missing); the scan is
$TUTELAGE_DATA/kitti_scan/000008.bin, which covers what its camera sees. The network is given a few hundred of its
points several times over, each time others; all of its points are the truth of what was visible. Writes
benchmarks/results/completion_kitti_scan.md and a picture.
"""

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import completion_simulated as simulated
from _report import table, write_report

from common.engine.experiments import run, tutelage
from common.errors import DataError
from deploy.runtime.completion import SceneCompleter
from perception.completion.metrics import cells, nearest_distance
from perception.completion.pictures import draw_clouds
from perception.completion.profiles import profile_of
from perception.completion.samples import in_range
from perception.completion.semantic_kitti import read_scan

STUDENT = "anchored, 4 steps"  # the best student of completion_simulated, in the mean of its trainings
CELL = 0.5  # m, of the coverage
NEAR = 0.2  # m: a point is met by one as near as that


def kitti_scan() -> np.ndarray:
    """(P, 3) of the real scan. Raises DataError that says how to point at it."""
    path = Path(os.environ.get("TUTELAGE_DATA", "")) / "kitti_scan" / "000008.bin"
    if not os.environ.get("TUTELAGE_DATA") or not path.is_file():
        raise DataError("set TUTELAGE_DATA to the folder that holds kitti_scan/000008.bin (one real KITTI scan)")
    return read_scan(path)[:, :3]


def exported(args) -> Path:
    """The ONNX files of the student of the first seed asked for, trained where it is missing."""
    jobs = simulated.teachers(args)
    needed = [jobs["teacher", args.seeds[0]], simulated.students(args, jobs)[STUDENT, args.seeds[0]]]
    run(needed)
    student, out = needed[-1], args.work_dir / "student.onnx"
    pairs = [f"{key}={value}" for key, value in student.options.items()]
    tutelage("export", student.config, str(student.checkpoint), str(out), "--cfg-options", *pairs)
    return out


def figures(cloud: np.ndarray, scan: np.ndarray, radius: float) -> list[str]:
    """Occupied columns and voxels of 0.5 m; mean distance of the scan's points to the cloud, the share of them that it
    meets, and mean distance of the cloud to the scan."""
    voxels = cells(cloud, CELL, radius)
    columns, solid = (len(np.unique(part, axis=0)) for part in (voxels[:, :2], voxels))
    distance, back = nearest_distance(scan, cloud), nearest_distance(cloud, scan)
    return [f"{len(cloud)}", f"{columns * CELL**2:.0f}", f"{solid}", f"{distance.mean():.3f}",
            f"{100 * (distance < NEAR).mean():.1f}", f"{back.mean():.3f}"]  # fmt: skip


def parser():
    parse = simulated.parser()
    parse.description = __doc__
    parse.add_argument("--passes", type=int, default=8, help="completions of other points of the scan, put together")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.towns, args.seeds = args.towns or args.work_dir / "towns", (args.seeds or args.all_seeds)[:1]
    profile = profile_of(args.profile)
    scan = kitti_scan()
    scan = scan[in_range(scan, profile.radius, profile.near)]
    completer = SceneCompleter(exported(args), threads=1)
    given, found, seconds = [], [], []
    for seed in range(args.passes):
        one = completer(scan, seed=seed)
        given.append(completer.prepare(scan, np.random.default_rng(seed)))
        found.append(one.points)
        seconds.append(sum(one.seconds.values()))
    clouds = {
        "given to one pass": given[0],
        "completed in one pass": found[0],
        f"given to {args.passes} passes": np.unique(np.concatenate(given), axis=0),
        f"completed in {args.passes} passes": np.concatenate(found),
        "all points of the scan": scan,
    }
    heads = ["", "points", "m^2 covered", f"voxels of {CELL} m", "scan to it, m", f"scan met within {NEAR} m, %",
             "it to scan, m"]  # fmt: skip
    body = (
        f"Points from {profile.near:g} to {profile.radius:g} m. {completer.steps} evaluations a pass, "
        f"{np.mean(seconds):.2f} s on one thread, tables included. What the scan could not see has no truth here: the "
        "last column counts true completions as distance.\n\n"
        + table(heads, [[name, *figures(cloud, scan, profile.radius)] for name, cloud in clouds.items()])
        + "\n\n![scan, what the network is given, completion](completion_kitti_scan.png)"
    )
    shown = {
        "the scan": scan,
        "given to one pass": clouds["given to one pass"],
        "completed in one pass": clouds["completed in one pass"],
        f"completed in {args.passes} passes": clouds[f"completed in {args.passes} passes"],
    }
    picture = draw_clouds(shown, profile.radius, args.results / "completion_kitti_scan.png")
    path = write_report("completion_kitti_scan", "One real KITTI scan, completed", body, seeds=args.seeds,
                        folder=args.results)  # fmt: skip
    print(f"{body}\nwritten to {path} and {picture}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
