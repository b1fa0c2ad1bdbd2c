"""What the benchmarks of policies share: paired scores of finished jobs."""

import argparse
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _report import RESULTS
from tqdm import tqdm

from common.engine.experiments import Job
from common.statistics import paired_difference, wilson
from control.demonstrations.collect import EVALUATION_SEEDS
from control.rollout import rollout
from control.workers import local_pool


def episodes(job: Job, plan: str) -> list[dict]:
    """Every held-out episode of a job's final evaluation under a plan, in the order of the layouts."""
    found = json.loads((job.work_dir / "evaluation" / "episodes.json").read_text())[plan]
    return sorted(found, key=lambda one: one["seed"])


def scores(jobs: list[Job], plan: str, key: str = "success") -> np.ndarray:
    """(trainings, layouts): `success` as 0 and 1, or `score`, of one plan, in the order of jobs. Raises ValueError when
    the trainings were not evaluated on the same layouts: their differences would pair nothing."""
    found = [episodes(job, plan) for job in jobs]
    seeds = [[one["seed"] for one in row] for row in found]
    if any(row != seeds[0] for row in seeds):
        raise ValueError(f"{', '.join(job.name for job in jobs)}: the evaluations have different layouts; train anew")
    return np.array([[float(one[key]) for one in row] for row in found])


def interval(found: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of (trainings, layouts), by the bootstrap over both: layouts and trainings have rates
    of their own, so the episodes are not independent trials. Where all episodes agree, Wilson's."""
    found = np.asarray(found, float)
    if np.ptp(found):
        return paired_difference(np.zeros_like(found), found)[1:]
    return wilson(int(found.sum()), found.size)


def rate(found: np.ndarray) -> str:
    """Mean of (trainings, layouts) with its interval."""
    low, high = interval(found)
    return f"{found.mean():.2f} [{low:.2f}, {high:.2f}]"


def identity(job: Job, plan, task: str, layouts: int, **more) -> dict:
    """What decides the successes of a finished training's network: all of its plan, the weights, and the layouts."""
    plain = {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in vars(plan).items()}
    with job.checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    seeds = [EVALUATION_SEEDS, EVALUATION_SEEDS + layouts - 1]
    return {**more, "plan": plain, "task": task, "weights": weights, "layouts": seeds}


def kept_successes(folder: Path, name: str, key: dict, policy, task: str, layouts: int) -> list[float]:
    """Successes of a policy on the first held-out layouts; kept in folder under `name` and all that decides them, `key`
    of `identity`."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}_{digest}.json"
    if path.is_file():
        return json.loads(path.read_text())["successes"]
    seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + layouts)
    found = [float(one.success) for one in rollout(policy, task, seeds, parallel=layouts)]
    folder.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps({"of": key, "successes": found}) + "\n")
    beside.rename(path)
    return found


def network_parser(description: str, tasks: list[str]) -> argparse.ArgumentParser:
    """Options of a script that plays the networks of benchmarks/metaworld_streaming.py in other ways."""
    parse = argparse.ArgumentParser(description=description)
    parse.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parse.add_argument("--tasks", nargs="+", default=tasks, metavar="TASK")
    parse.add_argument("--demonstrations", type=int, default=50)
    parse.add_argument("--iterations", type=int, default=1500, help="as in benchmarks/metaworld_streaming.py")
    parse.add_argument("--layouts", type=int, default=50)
    parse.add_argument("--parallel", type=int, default=2, help="processes side by side")
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/metaworld_streaming"))
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    parse.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V", help="overrides of the config")
    return parse


def in_parallel(function: Callable, cells: list[tuple], workers: int, title: str) -> list:
    """What function returns for every cell of arguments, in any order, several at a time."""
    with local_pool(workers) as pool:
        for cell in cells:
            pool.submit(function, *cell)
        return [pool.next() for _ in tqdm(cells, desc=title, unit="cell", dynamic_ncols=True)]
