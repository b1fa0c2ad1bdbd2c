"""Key frames per second of the simulated driving world. Writes benchmarks/results/simulation.md."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _report import describe_device, table, write_report

from perception.simulation.generate import generate
from perception.simulation.profiles import profile

SIZES = {"tiny": (4, 8), "small": (4, 10), "full": (2, 2)}  # profile: scenes, key frames a scene


def main() -> int:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parse.add_argument("--profiles", nargs="+", choices=SIZES, default=["tiny", "small"])
    parse.add_argument("--seed", type=int, default=0)
    args = parse.parse_args()
    rows = []
    for name in args.profiles:
        scenes, keyframes = SIZES[name]
        used = profile(name, keyframes=keyframes)
        with tempfile.TemporaryDirectory() as folder:
            done = generate(folder, profile=used, train=scenes - 1, val=1, seed=args.seed, workers=args.workers)
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        sweeps = f"{used.camera_sweeps} / {used.lidar_sweeps}"
        rate = done.simulated_keyframes / done.seconds
        rows.append([name, f"{used.width}x{used.height}", sweeps, done.keyframes, f"{rate:.2f}",
                     f"{size / done.keyframes / 2**20:.2f}"])  # fmt: skip
    header = [
        "profile",
        "six images",
        "camera / LiDAR sweeps between key frames",
        "key frames",
        "key frames / s",
        "MiB each",
    ]
    body = (
        f"{args.workers} worker processes with one thread each, world building and process start included. A key frame "
        "is six images, one LiDAR sweep, its annotations, and the sweeps before it.\n\n" + table(header, rows)
    )
    device = f"{describe_device()}, {args.workers} workers"
    path = write_report("simulation", "Speed of the simulated driving world", body, seeds=[args.seed], device=device)
    print(f"{body}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
