"""What a planner's rollouts are worth: returns with intervals, normalised scores, calls and time per decision."""

import json
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from common.statistics import paired_difference
from control.envs.scores import kinds, normalised_score
from control.policies.evaluation import GAIN
from control.rollout import as_records


@METRICS.register_module()
class ReturnMetric(BaseMetric):
    """Per plan: mean return with its 95 % bootstrap interval, normalised score by D4RL's references and by our own, and
    `gain`: its score less the first plan's, paired by start and noise, with an interval. out_dir: keep every episode as
    JSON there."""

    def __init__(self, task: str, out_dir: str | None = None, **kwargs):
        super().__init__(collect_device="cpu", **kwargs)
        self.task, self.out_dir = task, Path(out_dir) if out_dir else None

    def process(self, data_batch, data_samples) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics, kept, first = {}, {}, None
        for name in dict.fromkeys(name for name, _ in results):
            outcomes = [outcome for other, outcome in results if other == name]
            returns = np.array([one.info["return"] for one in outcomes], float)
            mean, low, high = paired_difference(np.zeros_like(returns), returns)
            found = {"return": mean, "return_low": low, "return_high": high,
                     "steps": float(np.mean([one.steps for one in outcomes]))}  # fmt: skip
            for kind in kinds(self.task):
                found[f"score_{kind}"] = float(np.mean(normalised_score(self.task, returns, kind)))
            if first is None:
                first = returns
            else:
                found |= dict(zip(GAIN, paired_difference(first, returns), strict=True))
            metrics |= {f"{name}/{key}": value for key, value in found.items()}
            kept[name] = as_records(outcomes)
        if self.out_dir:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            (self.out_dir / "episodes.json").write_text(json.dumps(kept, default=float) + "\n")
        return metrics
