"""Metrics of completed scenes, as LiDiff, ScoreLiDAR and Distillation-DPO define them, and proper forms beside them.

Clouds are (N, 3) arrays in metres around the sensor; distances are Euclidean, not squared. `radius` is half the edge of
the cube that histograms cover: 50 m in the published protocol.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.integrate import simpson
from scipy.spatial import cKDTree
from scipy.spatial.distance import jensenshannon

from perception.completion.cells import keys
from perception.completion.transport import emd, emd_released

CELL = 0.5  # of the histograms
IOU_VOXELS = (0.5, 0.2, 0.1)
THRESHOLDS = np.linspace(0.05, 0.10, 100)  # of precision and recall


def nearest_distance(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N,) distance of each of points (N, 3) to the nearest of reference (M, 3)."""
    return cKDTree(reference).query(points)[0]


def cells(points: np.ndarray, edge: float, radius: float) -> np.ndarray:
    """Integer cells (K, 3) of the points within the cube; the others are dropped."""
    inside = points[(np.abs(points) < radius).all(1)]
    return np.floor((inside + radius) / edge).astype(np.int64)


def divergence(first: np.ndarray, second: np.ndarray) -> float:
    """Square root of the Jensen-Shannon divergence, in nats, of two lists of cells (K,) counted with repetition: 0 to
    sqrt(log 2). Two empty lists have 0."""
    if not len(first) or not len(second):
        return 0.0 if len(first) == len(second) else float(np.sqrt(np.log(2)))
    every, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    counts = [np.bincount(part, minlength=len(every)) for part in np.split(inverse.reshape(-1), [len(first)])]
    return float(jensenshannon(*counts))


def jsd_3d(prediction: np.ndarray, truth: np.ndarray, radius: float = 50.0) -> float:
    """Of points per cell of 0.5 m."""
    return divergence(*(keys(cells(one, CELL, radius)) for one in (prediction, truth)))


def jsd_bev(prediction: np.ndarray, truth: np.ndarray, radius: float = 50.0) -> float:
    """Of occupied cells per column: the "JSD" of published tables."""
    columns = []
    for one in (prediction, truth):
        occupied = np.unique(cells(one, CELL, radius), axis=0)
        occupied[:, 2] = 0
        columns.append(keys(occupied))
    return divergence(*columns)


def overlap(prediction: np.ndarray, truth: np.ndarray, voxel: float, radius: float = 50.0) -> np.ndarray:
    """(3,) true positive, false positive and false negative voxels."""
    ours, theirs = (np.unique(keys(cells(one, voxel, radius))) for one in (prediction, truth))
    both = len(np.intersect1d(ours, theirs, assume_unique=True))
    return np.array([both, len(ours) - both, len(theirs) - both])


def precision_recall_f(to_truth: np.ndarray, to_prediction: np.ndarray) -> np.ndarray:
    """(3, 100) in percent at the thresholds: predicted points near the truth, true points near the prediction, their
    harmonic mean."""
    rows = []
    for distance in (to_truth, to_prediction):
        rows.append(100 * np.searchsorted(np.sort(distance), THRESHOLDS) / len(distance))
    precision, recall = rows
    total = precision + recall
    harmonic = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return np.stack([precision, recall, harmonic])


@dataclass
class CompletionMetric:
    """Collects scenes: `add` each, then `compute`.

    radius: of the histograms and voxel sets; transport: also both forms of the earth mover's distance.
    """

    radius: float = 50.0
    transport: bool = True
    rows: list[dict[str, float]] = field(default_factory=list)
    _overlaps: list[np.ndarray] = field(default_factory=list)
    _curves: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, parts: list["CompletionMetric"]) -> "CompletionMetric":
        """All scenes of several, in their order."""
        whole = cls(parts[0].radius, parts[0].transport)
        for one in parts:
            whole.rows += one.rows
            whole._overlaps += one._overlaps
            whole._curves += one._curves
        return whole

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Metrics of one scene, kept and returned. Raises ValueError for an empty or non-finite cloud."""
        for name, one in (("prediction", prediction), ("truth", truth)):
            if one.ndim != 2 or one.shape[1] != 3 or not len(one) or not np.isfinite(one).all():
                raise ValueError(f"{name} is {one.shape}, wanted (N, 3) finite points, at least one")
        to_truth, to_prediction = nearest_distance(prediction, truth), nearest_distance(truth, prediction)
        row = {
            "cd": (to_truth.mean() + to_prediction.mean()) / 2,
            "cd_to_truth": to_truth.mean(),
            "cd_to_prediction": to_prediction.mean(),
            "jsd_3d": jsd_3d(prediction, truth, self.radius),
            "jsd_bev": jsd_bev(prediction, truth, self.radius),
        }
        if self.transport:
            row["emd"] = emd(prediction, truth)
            row["emd_released"] = emd_released(prediction, truth)
        self.rows.append({key: float(value) for key, value in row.items()})
        self._overlaps.append(np.stack([overlap(prediction, truth, v, self.radius) for v in IOU_VOXELS]))
        self._curves.append(precision_recall_f(to_truth, to_prediction))
        return self.rows[-1]

    def compute(self) -> dict[str, float]:
        """Means over the scenes, of emd_released over those that it is computed for (nan: none); IoU of the voxels of
        all scenes together; precision, recall and F as the mean of their curves over the thresholds."""
        known = {key: [row[key] for row in self.rows if not np.isnan(row[key])] for key in self.rows[0]}
        found = {key: float(np.mean(values)) if values else float("nan") for key, values in known.items()}
        for voxel, (both, ours, theirs) in zip(IOU_VOXELS, np.sum(self._overlaps, 0), strict=True):
            found[f"iou_{voxel}"] = float(both / max(1, both + ours + theirs))
        width = THRESHOLDS[-1] - THRESHOLDS[0]
        for name, curve in zip(("precision", "recall", "f"), np.mean(self._curves, 0), strict=True):
            found[name] = float(simpson(curve, x=THRESHOLDS) / width)
        return found
