"""What the benchmarks of policies share: paired scores of finished jobs."""

import json
from collections.abc import Iterable

import numpy as np

from common.engine.experiments import RESULT, Job
from common.engine.workdir import read_record


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


def training_cost(jobs: Iterable[Job]) -> str:
    """A line: commits that the trainings ran at (from their run.json), and hours of job time."""
    found, seconds = set(), 0.0
    for job in jobs:
        source = read_record(job.work_dir)["starts"][-1]["source"] or {"commit": "unknown", "clean": True}
        found.add(source["commit"][:12] + ("" if source["clean"] else " (dirty)"))
        seconds += json.loads((job.work_dir / RESULT).read_text())["seconds"]
    hours = f"{seconds / 3600:.2f} hours of job time (each job's last start)"
    return f"Trainings at commit {', '.join(sorted(found))}; {hours}."
