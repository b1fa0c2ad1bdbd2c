"""What the benchmarks of policies share: paired scores of finished jobs, and latency per control step."""

import json
from pathlib import Path

import numpy as np

from common.engine.experiments import Job


def episodes(job: Job, plan: str) -> list[dict]:
    """Every held-out episode of a job's final evaluation under a plan, in the order of the layouts."""
    found = json.loads((job.work_dir / "evaluation" / "episodes.json").read_text())[plan]
    return sorted(found, key=lambda one: one["seed"])


def scores(jobs: list[Job], plan: str, key: str = "success") -> np.ndarray:
    """(trainings, layouts): `success` as 0 and 1, or `score`, of one plan, in the order of jobs."""
    return np.array([[float(one[key]) for one in episodes(job, plan)] for job in jobs])


def evaluation_folder(work_dir: Path) -> dict:
    """The option that makes a training keep its episodes."""
    return {"val_evaluator.out_dir": str(work_dir / "evaluation")}
