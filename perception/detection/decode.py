"""From head outputs to boxes: top-k peaks per task, thresholds, scale-NMS (boxes scaled before the overlap test)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from perception.detection.grid import GridSpec

# Released factors and overlaps: small objects are enlarged so that two peaks of one object overlap at all.
SCALE_FACTORS = {
    "car": 1.0,
    "truck": 0.7,
    "construction_vehicle": 0.7,
    "bus": 0.4,
    "trailer": 0.55,
    "barrier": 1.1,
    "motorcycle": 1.0,
    "bicycle": 1.0,
    "pedestrian": 4.5,
    "traffic_cone": 9.0,
}
IOU_LIMITS = {"pedestrian": 0.5, "traffic_cone": 0.5}


@dataclass(frozen=True, kw_only=True)
class DecodeSpec:
    """Thresholds of the box decoder.

    `circle_radius`: classes suppressed by centre distance in metres instead of rotated IoU (the stock coder compares
    the squared distance with its `min_radius`; here it is a distance). `factors`, `iou`: per class name, 1.0 and 0.2
    where absent.
    """

    score_threshold: float = 0.1
    peaks_per_task: int = 500
    max_per_task: int = 83
    centre_range: tuple[float, ...] = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
    factors: dict[str, float] = field(default_factory=lambda: dict(SCALE_FACTORS))
    iou: dict[str, float] = field(default_factory=lambda: dict(IOU_LIMITS))
    circle_radius: dict[str, float] = field(default_factory=lambda: {"barrier": 1.0})


@torch.no_grad()
def decode(
    out: dict[str, Tensor], tasks: list[list[str]], grid: GridSpec, spec: DecodeSpec
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes of every sample.

    Args: out, the head's outputs (docs/conventions.md). Returns per sample boxes (n, 9) x, y, z of the bottom face, l,
    w, h, yaw, vx, vy in the `bev` frame, scores (n,), labels (n,) int64, sorted by score within each task.
    """
    found = [peaks(out, t, first, tasks, grid, spec) for t, first in enumerate(_first_labels(tasks))]
    samples = []
    for b in range(out["heatmap"].shape[0]):
        parts = []
        for t, names in enumerate(tasks):
            boxes, scores, labels = (column[b] for column in found[t])
            limit = boxes.new_tensor(spec.centre_range)
            keep = (
                (scores > spec.score_threshold)
                & (boxes[:, :3] >= limit[:3]).all(1)
                & (boxes[:, :3] <= limit[3:]).all(1)
            )
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
            keep = scale_nms(boxes, scores, labels - _first_labels(tasks)[t], names, spec)[: spec.max_per_task]
            parts.append((boxes[keep], scores[keep], labels[keep]))
        boxes, scores, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        boxes[:, 2] -= boxes[:, 5] / 2
        samples.append((boxes, scores, labels))
    return samples


def _first_labels(tasks: list[list[str]]) -> list[int]:
    return [sum(len(names) for names in tasks[:t]) for t in range(len(tasks))]


def peaks(out, task: int, first: int, tasks, grid: GridSpec, spec: DecodeSpec) -> tuple[Tensor, Tensor, Tensor]:
    """The strongest cells of one task: boxes (B, k, 9) with z of the centre, scores (B, k), labels (B, k)."""
    _, rows, columns = grid.shape
    count = len(tasks[task])
    heat = out["heatmap"][:, first : first + count].float().sigmoid().flatten(1)
    scores, index = heat.topk(min(spec.peaks_per_task, heat.shape[1]))
    labels, cell = index // (rows * columns) + first, index % (rows * columns)
    maps = torch.cat([out[name][:, task] for name in ("reg", "height", "dim", "rot", "vel")], 1).float().flatten(2)
    code = maps.gather(2, cell[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)
    x = (cell % columns + code[..., 0]) * grid.x[2] + grid.x[0]
    y = (cell // columns + code[..., 1]) * grid.y[2] + grid.y[0]
    yaw = torch.atan2(code[..., 6], code[..., 7])
    boxes = torch.cat(
        [torch.stack([x, y, code[..., 2]], -1), code[..., 3:6].exp(), yaw[..., None], code[..., 8:10]], -1
    )
    return boxes, scores, labels


def scale_nms(boxes: Tensor, scores: Tensor, local: Tensor, names: list[str], spec: DecodeSpec) -> Tensor:
    """Indices kept, best first. local (n,) is the class within the task; suppression runs across the task's classes,
    with the limit of the task's first class, after scaling each box by its own class's factor."""
    from mmcv.ops import nms_rotated

    if len(boxes) == 0:
        return local
    if names[0] in spec.circle_radius:
        return circle_nms(boxes[:, :2], scores, spec.circle_radius[names[0]])
    factors = boxes.new_tensor([spec.factors.get(name, 1.0) for name in names])[local][:, None]
    flat = torch.cat([boxes[:, :2], boxes[:, 3:5] * factors, boxes[:, 6:7]], 1)
    # on the CPU: a few hundred boxes, and mmcv is often built without CUDA
    kept = nms_rotated(flat.cpu(), scores.cpu(), spec.iou.get(names[0], 0.2))[1]
    return kept.to(boxes.device)


def circle_nms(centres: Tensor, scores: Tensor, radius: float) -> Tensor:
    """Greedy suppression of centres (n, 2) closer than radius (m) to a better one. Returns kept indices, best first."""
    order = scores.argsort(descending=True, stable=True)
    near = (torch.cdist(centres[order], centres[order]) <= radius).cpu()
    alive = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~near[i, i + 1 :]
    return order[alive.to(order.device)]
