"""Evaluation of a completion model, by mmengine or over given scenes: the released output filter, then the metrics."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

from perception.completion.metrics import CompletionMetric
from perception.completion.samples import kept_output
from perception.completion.transport import emd_thinned


def filtered(points: np.ndarray, scan: np.ndarray, radius: float) -> np.ndarray:
    """(N', 3) the points that the released output filter keeps; all of them where it keeps none."""
    kept = points[kept_output(points, scan, radius)]
    return kept if len(kept) else points


def evaluate(complete: Callable[[Tensor, Tensor], Tensor], scenes: Iterable[dict], radius: float) -> dict:
    """A way of completing over scenes: {"scenes": {seed: its metrics and seconds}, "means": of all of them}.

    Args: complete (scan (1, n, 3), seed (1,)) -> (1, N, 3); scenes as `TownScenes` gives them,
    dense truths where they have one. `emd_thinned` stands for the earth mover's distance.
    """
    metric, rows = CompletionMetric(radius, transport=False), {}
    for one in scenes:
        begin = time.perf_counter()
        found = complete(one["scan"][None], torch.tensor([one["seed"]]))[0]
        seconds = time.perf_counter() - begin
        points, truth = (
            filtered(found.numpy(), one["scan"].numpy(), radius).astype(np.float64),
            one.get("dense", one["scene"]).numpy(),
        )
        rows[one["seed"]] = {**metric.add(points, truth), "emd": emd_thinned(points, truth), "seconds": seconds}
    means = {key: float(np.mean([row[key] for row in rows.values()])) for key in ("emd", "seconds")}
    return {"scenes": rows, "means": {**metric.compute(), **means}}


@METRICS.register_module()
class SceneMetric(BaseMetric):
    """`CompletionMetric` over all scenes, each as it comes: no clouds are kept. radius of the scenes in metres;
    transport: also the earth mover's distances; out_dir: keep every scene's numbers as JSON there."""

    default_prefix = "completion"

    def __init__(self, radius: float, transport: bool = False, out_dir: str | None = None, **kwargs):
        super().__init__(collect_device="cpu", **kwargs)
        self.radius, self.transport = radius, transport
        self.out_dir = Path(out_dir) if out_dir else None

    def process(self, data_batch, data_samples) -> None:
        for one in data_samples:
            points, truth, scan = (one[name].cpu().numpy() for name in ("prediction", "truth", "scan"))
            metric = CompletionMetric(self.radius, self.transport)
            metric.add(filtered(points, scan, self.radius).astype(np.float64), truth)
            self.results.append((int(one["seed"]), metric))

    def compute_metrics(self, results: list) -> dict[str, float]:
        metric = CompletionMetric.of([one for _, one in results])
        rows = dict(zip((seed for seed, _ in results), metric.rows, strict=True))
        if self.out_dir:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            (self.out_dir / "scenes.json").write_text(json.dumps(rows) + "\n")
        return metric.compute()
