"""mmengine's evaluation of a completion model: the released output filter, then the metrics."""

import json
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from perception.completion.metrics import CompletionMetric
from perception.completion.samples import kept_output


@METRICS.register_module()
class SceneMetric(BaseMetric):
    """`CompletionMetric` over all scenes. radius of the scenes in metres; transport: also the earth mover's distances;
    out_dir: keep every scene's numbers as JSON there."""

    default_prefix = "completion"

    def __init__(self, radius: float, transport: bool = False, out_dir: str | None = None, **kwargs):
        super().__init__(collect_device="cpu", **kwargs)
        self.radius, self.transport = radius, transport
        self.out_dir = Path(out_dir) if out_dir else None

    def process(self, data_batch, data_samples) -> None:
        for one in data_samples:
            points, truth, scan = (one[name].cpu().numpy() for name in ("prediction", "truth", "scan"))
            kept = points[kept_output(points, scan, self.radius)]
            self.results.append((one["seed"], kept if len(kept) else points, truth))

    def compute_metrics(self, results: list) -> dict[str, float]:
        metric = CompletionMetric(self.radius, self.transport)
        rows = {int(seed): metric.add(points.astype(np.float64), truth) for seed, points, truth in results}
        if self.out_dir:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            (self.out_dir / "scenes.json").write_text(json.dumps(rows) + "\n")
        return metric.compute()
