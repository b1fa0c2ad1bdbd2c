"""From head outputs to boxes in numpy: peaks per task, thresholds, scale-NMS on exact rotated overlaps.

The counterpart of perception.detection.decode for a machine without torch. Box codes of one cell: reg dx, dy (cell
fractions), height z of the centre (m), dim log l, w, h, rot sin, cos of the yaw, vel vx, vy (m/s).
"""

from typing import NamedTuple

import numpy as np

from .manifest import Manifest, TaskNMS


class Boxes(NamedTuple):
    """boxes (n, 9) float32 x, y, z of the bottom face, l, w, h, yaw, vx, vy in the `bev` frame; scores (n,) float32;
    labels (n,) int64, indices into the manifest's classes. Best first within each task."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def decode(outputs: dict[str, np.ndarray], manifest: Manifest, score_threshold: float | None = None) -> Boxes:
    """Boxes of one frame.

    Args: outputs, the head's tensors of batch size 1 by name; score_threshold overrides the manifest's.
    """
    threshold = manifest.score_threshold if score_threshold is None else score_threshold
    limit = np.asarray(manifest.center_range, np.float32)
    parts, first = [], 0
    for task, (names, nms) in enumerate(zip(manifest.tasks, manifest.nms, strict=True)):
        boxes, scores, local = peaks(outputs, task, first, len(names), manifest, threshold)
        keep = (boxes[:, :3] >= limit[:3]).all(1) & (boxes[:, :3] <= limit[3:]).all(1)
        boxes, scores, local = boxes[keep], scores[keep], local[keep]
        keep = suppress(boxes, scores, local, nms)[: nms.post]
        parts.append((boxes[keep], scores[keep], local[keep] + first))
        first += len(names)
    boxes, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    boxes[:, 2] -= boxes[:, 5] / 2
    return Boxes(boxes, scores, labels)


def peaks(
    outputs: dict[str, np.ndarray], task: int, first: int, count: int, manifest: Manifest, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The strongest cells of one task, best first: boxes (k, 9) with z of the centre, scores (k,), class in the
    task (k,).

    The threshold is applied to the logits, so only the cells that pass it are decoded.
    """
    heat = outputs["heatmap"][0, first : first + count]
    rows, columns = heat.shape[1:]
    heat = heat.reshape(-1)
    if 0 < threshold < 1:
        found = np.flatnonzero(heat > np.log(threshold / (1 - threshold)) - 1e-3)
    else:
        found = np.arange(heat.size)
    if len(found) > manifest.max_per_task:
        found = found[np.argpartition(-heat[found], manifest.max_per_task)[: manifest.max_per_task]]
    found = found[np.argsort(-heat[found], kind="stable")]
    scores = (1 / (1 + np.exp(-heat[found].astype(np.float64)))).astype(np.float32)
    found, scores = found[scores > threshold], scores[scores > threshold]
    local, cell = np.divmod(found, rows * columns)
    row, column = np.divmod(cell, columns)
    reg, height, dim, rot, vel = (
        outputs[name][0, task][:, row, column] for name in ("reg", "height", "dim", "rot", "vel")
    )
    (x_low, _, dx), (y_low, _, dy) = manifest.grid["x"], manifest.grid["y"]
    boxes = np.empty((len(found), 9), np.float32)
    boxes[:, 0] = (column + reg[0]) * dx + x_low
    boxes[:, 1] = (row + reg[1]) * dy + y_low
    boxes[:, 2] = height[0]
    boxes[:, 3:6] = np.exp(dim).T
    boxes[:, 6] = np.arctan2(rot[0], rot[1])
    boxes[:, 7:9] = vel.T
    return boxes, scores, local


def suppress(boxes: np.ndarray, scores: np.ndarray, local: np.ndarray, nms: TaskNMS) -> np.ndarray:
    """Indices kept, best first. boxes (n, 9); local (n,) class within the task, which picks the scale factor."""
    order = np.argsort(-scores, kind="stable")
    if nms.type == "circle":
        centres = boxes[order, :2].astype(np.float64)
        close = np.square(centres[:, None] - centres[None]).sum(-1) <= nms.radius**2
    else:
        flat = boxes[order][:, (0, 1, 3, 4, 6)].astype(np.float64)
        flat[:, 2:4] *= np.asarray(nms.scale, np.float64)[local[order], None]
        close = overlaps(flat, nms.iou)
    return order[greedy(close)]


def greedy(close: np.ndarray) -> np.ndarray:
    """Positions kept when each kept one removes those after it that are close to it. close (n, n) bool."""
    alive, kept = np.ones(len(close), bool), []
    for i in range(len(close)):
        if alive[i]:
            kept.append(i)
            alive[i + 1 :] &= ~close[i, i + 1 :]
    return np.asarray(kept, np.int64)


def overlaps(flat: np.ndarray, iou: float) -> np.ndarray:
    """(n, n) bool, upper triangle: the rotated IoU of boxes (n, 5) x, y, l, w, yaw is above `iou`.

    Only pairs whose circumscribed circles meet, and whose areas could reach the IoU at all, are clipped.
    """
    close = np.zeros((len(flat), len(flat)), bool)
    radius, area = np.hypot(flat[:, 2], flat[:, 3]) / 2, flat[:, 2] * flat[:, 3]
    distance2 = np.square(flat[:, None, :2] - flat[None, :, :2]).sum(-1)
    possible = distance2 < np.square(radius[:, None] + radius[None])
    possible &= np.minimum(area[:, None], area[None]) > iou * np.maximum(area[:, None], area[None])
    i, j = np.nonzero(np.triu(possible, 1))
    close[i, j] = rotated_iou(flat[i], flat[j]) > iou
    return close


def rotated_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of rectangle pairs, exact. a, b (P, 5) x, y, l, w, yaw -> (P,); 0 where a rectangle has no area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    shared = _intersection(a, b)
    union = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area shared by rectangle pairs (P, 5).

    In b's own frame b is |x| <= l/2, |y| <= w/2, and by Green's theorem the shared area is the contour integral of
    clamp(y, -w/2, w/2) dx along the part of a's outline with |x| <= l/2. Along an edge y is linear, so each edge has a
    closed form; the result is continuous in the boxes, also where edges coincide.
    """
    cos, sin = np.cos(b[:, 4]), np.sin(b[:, 4])
    dx, dy, turn = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1], a[:, 4] - b[:, 4]
    centre = np.stack([cos * dx + sin * dy, cos * dy - sin * dx], 1)
    along = np.stack([np.cos(turn), np.sin(turn)], 1) * a[:, 2:3] / 2
    across = np.stack([-np.sin(turn), np.cos(turn)], 1) * a[:, 3:4] / 2
    corners = np.stack([centre + along + across, centre - along + across, centre - along - across,
                        centre + along - across], 1)  # fmt: skip
    start, step = corners, np.roll(corners, -1, 1) - corners
    half_x, half_y = b[:, 2:3] / 2, b[:, 3:4] / 2
    x0, x1 = np.clip(start[..., 0], -half_x, half_x), np.clip(start[..., 0] + step[..., 0], -half_x, half_x)
    run = step[..., 0]
    slope = np.divide(step[..., 1], run, out=np.zeros_like(run), where=np.abs(run) > 1e-12)
    y0 = start[..., 1] + slope * (x0 - start[..., 0])
    y1 = start[..., 1] + slope * (x1 - start[..., 0])
    rise = y1 - y0
    steep = np.abs(rise) > 1e-7 * (1 + half_y)
    level = np.clip((y0 + y1) / 2, -half_y, half_y)
    mean = np.divide(_clamp_integral(y1, half_y) - _clamp_integral(y0, half_y), rise, out=level, where=steep)
    return np.abs(((x1 - x0) * mean).sum(1))


def _clamp_integral(y: np.ndarray, half: np.ndarray) -> np.ndarray:
    """The antiderivative of clamp(y, -half, half) that is 0 at 0."""
    return np.where(np.abs(y) <= half, y * y / 2, half * np.abs(y) - half * half / 2)
