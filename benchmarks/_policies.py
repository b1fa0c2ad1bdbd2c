"""What the benchmarks of policies share: paired scores of finished jobs."""

import json

import numpy as np

from common.engine.experiments import Job


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
