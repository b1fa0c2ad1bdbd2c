"""What the benchmarks of policies share: paired scores of finished jobs."""

import json

import numpy as np

from common.engine.experiments import Job
from control.rollout import paired_difference, wilson


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
