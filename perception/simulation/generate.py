"""`tutelage simulate-driving`: simulate scenes in a pool of processes and write them as one nuScenes data set.

The bytes depend on profile, seed and the scenes asked for, never on the number of workers. Every finished scene leaves
a plain JSON record under OUT/.scenes, so that an interrupted or extended run simulates only what is missing.
"""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import queue
import shutil
import sys
import time
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from perception.simulation.profiles import Profile

FORMAT = "tutelage-simulation-1"  # raise the number when the world changes: older folders are then refused
MINI, TRAINVAL = "v1.0-mini", "v1.0-trainval"
SPLITS = {MINI: ("mini_train", "mini_val"), TRAINVAL: ("train", "val")}
RECORDS = ".scenes"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `generate` did. `simulated` of `scenes` scenes were new; `seconds` is the wall time of those alone."""

    root: Path
    version: str
    scenes: int
    keyframes: int
    simulated: int
    simulated_keyframes: int
    seconds: float
    workers: int


def default_val(train: int) -> int:
    """One validation scene per four training scenes, at least one, at most the 150 names there are."""
    return min(150, max(1, train // 4))


def scene_names(train: int, val: int, version: str | None = None) -> tuple[str, list[str]]:
    """The version and the first `train` + `val` scene names of the devkit's splits.

    `version` None is v1.0-mini for at most 8 and 2 scenes, else v1.0-trainval.
    Raises: ConfigError if the version is unknown or its splits have fewer names than asked for.
    """
    from nuscenes.utils.splits import create_splits_scenes

    splits = create_splits_scenes()
    if version is None:
        fits_mini = train <= len(splits["mini_train"]) and val <= len(splits["mini_val"])
        version = MINI if fits_mini else TRAINVAL
    if version not in SPLITS:
        raise ConfigError(f"version {version!r}: choose one of {', '.join(SPLITS)}")
    if train < 0 or val < 0 or train + val == 0:
        raise ConfigError(f"{train} training and {val} validation scenes: ask for at least one scene")
    names = []
    for count, split in zip((train, val), SPLITS[version], strict=True):
        if count > len(splits[split]):
            raise ConfigError(
                f"{count} scenes for {split} of {version}: the split has {len(splits[split])} names; "
                + ("ask for fewer" if version == TRAINVAL else f"ask for fewer or for version {TRAINVAL}")
            )
        names += splits[split][:count]
    return version, names


def generate(
    out: str | Path,
    *,
    profile: "str | Profile" = "small",
    train: int = 8,
    val: int = 2,
    seed: int = 0,
    version: str | None = None,
    workers: int | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Summary:
    """Simulate `train` + `val` scenes into OUT as nuScenes `version`, reusing the scenes already finished there.

    Args:
        out: new or empty folder, or one that this function filled with the same profile and seed before.
        profile: name in perception.simulation.profiles.PROFILES, or a Profile.
        version: see `scene_names`.
        workers: processes, one thread each; default one per core. One worker runs in this process.
        force: empty a folder that this function filled with other settings, and start over.
    Raises: ConfigError for settings that cannot be met, DataError for a folder of another origin or other settings.
    """
    from tqdm import tqdm

    from perception.simulation.profiles import PROFILES

    if isinstance(profile, str):
        if profile not in PROFILES:
            raise ConfigError(f"profile {profile!r}: choose one of {', '.join(PROFILES)}")
        profile = PROFILES[profile]
    workers = _cores() if workers is None else workers
    if workers < 1:
        raise ConfigError(f"workers {workers}: give at least 1")
    version, names = scene_names(train, val, version)
    out = Path(out)
    _claim(out, {"format": FORMAT, "seed": seed, "profile": dataclasses.asdict(profile)}, force)

    missing = [name for name in names if _finished(out, name) is None]
    workers = max(1, min(workers, len(missing)))
    start = time.perf_counter()
    silent = quiet or not missing
    with tqdm(total=len(missing) * profile.keyframes, unit="key frame", desc=str(out), disable=silent) as bar:
        jobs = [(str(out), name, seed, profile) for name in missing]
        if workers == 1:
            for job in jobs:
                _simulate(*job, progress=bar.update)
        else:
            _pool(jobs, workers, bar)
    seconds = time.perf_counter() - start

    from perception.simulation.writer import write_tables

    scenes = [_load(out, name) for name in names]
    write_tables(out, scenes, version)
    return Summary(
        root=out,
        version=version,
        scenes=len(scenes),
        keyframes=sum(len(s.keyframe_times) for s in scenes),
        simulated=len(missing),
        simulated_keyframes=sum(len(s.keyframe_times) for s in scenes if s.name in missing),
        seconds=seconds,
        workers=workers,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _claim(out: Path, settings: dict, force: bool):
    """Make OUT ours: new, empty, or filled with the same settings; DataError otherwise."""
    marker = out / RECORDS / "settings.json"
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: give a folder")
    if marker.exists():
        try:
            found = json.loads(marker.read_text())
        except json.JSONDecodeError as error:
            raise DataError(f"{marker} is not valid JSON ({error}): remove {out}, or give another folder") from error
        if found == settings:
            return
        differ = sorted(k for k in {*found, *settings} if found.get(k) != settings.get(k))
        told = "; ".join(f"{k}: {_short(found.get(k))} there, {_short(settings.get(k))} asked for" for k in differ)
        if not force:
            raise DataError(f"{out} was simulated with other settings ({told}): pass --force, or give another folder")
        ours = [out / n for n in ("samples", "sweeps", "maps", RECORDS, *SPLITS)]
        for folder in ours:
            shutil.rmtree(folder, ignore_errors=True)
    elif out.exists() and any(out.iterdir()):
        first = min(out.iterdir()).name
        raise DataError(f"{out} holds files of another origin ({first}): give a new or an empty folder")
    _write_atomically(marker, json.dumps(settings, indent=1).encode())


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _write_atomically(file: Path, data: bytes):
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_bytes(data)
    os.replace(part, file)


def scene_seed(seed: int, name: str) -> int:
    """Seed (64 bits) of one scene: independent of which other scenes are asked for, and of their order."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "big")


def _simulate(out: str, name: str, seed: int, profile: "Profile", progress=None):
    """Simulate one scene and leave its record; the record is the sign that every file of the scene is complete."""
    import cv2
    import numpy as np

    from perception.simulation.world import simulate_scene
    from perception.simulation.writer import scene_to_dict

    root = Path(out)
    scene = simulate_scene(name=name, seed=scene_seed(seed, name), profile=profile, root=root, progress=progress)
    png = cv2.imencode(".png", np.asarray(scene.drivable, np.uint8))[1]
    _write_atomically(root / RECORDS / f"{name}.png", png.tobytes())
    _write_atomically(root / RECORDS / f"{name}.json", json.dumps(scene_to_dict(scene)).encode())


def _finished(root: Path, name: str) -> dict | None:
    """The record of a finished scene, or None if it was never finished or one of its files is gone or empty."""
    file = root / RECORDS / f"{name}.json"
    if not file.exists() or not file.with_suffix(".png").exists():
        return None
    try:
        data = json.loads(file.read_text())
    except json.JSONDecodeError:
        return None
    present = all(_size(root / c["filename"]) for c in data["captures"])
    return data if present else None


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _load(root: Path, name: str):
    import cv2

    from perception.simulation.writer import scene_from_dict

    data = _finished(root, name)
    if data is None:
        raise DataError(f"{root / RECORDS / name}.json is missing or incomplete: run the same command again")
    return scene_from_dict(data, cv2.imread(str(root / RECORDS / f"{name}.png"), cv2.IMREAD_UNCHANGED))


_reports = None  # in a worker: the queue that carries finished key frames to the progress bar


def _start_worker(reports):
    global _reports
    _reports = reports
    import cv2

    cv2.setNumThreads(1)


def _work(job: tuple):
    _simulate(*job, progress=lambda n=1: _reports.put(n))


def _pool(jobs: list[tuple], workers: int, bar):
    """Run the jobs in spawned processes with one thread each; the first failure ends the run."""
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))  # read by the libraries when the workers import them
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (reports,)) as pool:
            waiting = {pool.submit(_work, job): job[1] for job in jobs}
            try:
                while waiting:
                    done, _ = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                    _drain(reports, bar)
                    for future in done:
                        name = waiting.pop(future)
                        try:
                            future.result()
                        except BrokenProcessPool as error:
                            raise DataError(
                                f"a worker died while {name} was unfinished (out of memory?): run the same command "
                                "again with fewer --workers; finished scenes are kept"
                            ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        _drain(reports, bar)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _drain(reports, bar):
    while True:
        try:
            bar.update(reports.get_nowait())
        except queue.Empty:
            return


def main(argv: list[str]) -> int:
    """The verb. Returns: the exit status."""
    parser = argparse.ArgumentParser(
        prog="tutelage simulate-driving",
        description="Simulate drives through a town and write them as a nuScenes data set.",
    )
    add = parser.add_argument
    add("out", metavar="OUT", help="root of the data set: new, empty, or of the same settings (then it resumes)")
    add("--profile", default="small", help="tiny, small or full: image size and length (default small)")
    add("--scenes", type=int, default=8, metavar="N", help="training scenes (default 8)")
    add("--val-scenes", type=int, metavar="M", help="validation scenes (default: one per four training scenes)")
    add("--seed", type=int, default=0, metavar="S", help="same seed, same bytes (default 0)")
    add("--workers", type=int, metavar="W", help="processes of one thread each (default: one per core)")
    add("--version", metavar="V", help="v1.0-mini or v1.0-trainval (default: mini for up to 8 + 2 scenes)")
    add("--force", action="store_true", help="empty an OUT that holds a simulation of other settings, start over")
    args = parser.parse_args(argv)
    try:
        summary = generate(
            args.out,
            profile=args.profile,
            train=args.scenes,
            val=default_val(args.scenes) if args.val_scenes is None else args.val_scenes,
            seed=args.seed,
            version=args.version,
            workers=args.workers,
            force=args.force,
        )
    except (ConfigError, DataError) as error:
        print(f"tutelage simulate-driving: {error}", file=sys.stderr)
        return 2
    told = f"{summary.root}: nuScenes {summary.version}, {summary.scenes} scenes, {summary.keyframes} key frames; "
    if summary.simulated:
        rate = summary.simulated_keyframes / summary.seconds
        told += (
            f"simulated {summary.simulated} scenes, {summary.simulated_keyframes} key frames in "
            f"{summary.seconds:.1f} s with {summary.workers} worker(s): {rate:.2f} key frames per second"
        )
    else:
        told += "all of them were there already"
    print(told)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
