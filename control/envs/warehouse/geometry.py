"""Discs, rays and segments against axis-aligned boxes: exact, in numpy, for many rows at once.

A box is (x low, y low, x high, y high); boxes come as (B, 4) for all rows or as (N, B, 4), discs as (N, M, 3): x, y,
radius. Metres.
"""

import numpy as np

FAR = 1e9  # where boxes and discs stand that only fill an array


def boxes_to_points(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Distance (N, B) of points (N, 2) to boxes; 0 inside."""
    gap = np.maximum(boxes[..., :2] - points[:, None], points[:, None] - boxes[..., 2:])
    np.maximum(gap, 0.0, out=gap)
    return np.sqrt(np.einsum("nbi,nbi->nb", gap, gap))


def clearance(points: np.ndarray, boxes: np.ndarray, discs: np.ndarray) -> np.ndarray:
    """Distance (N,) of points (N, 2) to the nearest box or disc; negative inside a disc."""
    nearest = boxes_to_points(points, boxes).min(1)
    if discs.shape[1]:
        to_discs = np.sqrt(((discs[..., :2] - points[:, None]) ** 2).sum(-1)) - discs[..., 2]
        nearest = np.minimum(nearest, to_discs.min(1))
    return nearest


def cast_rays(origins: np.ndarray, directions: np.ndarray, boxes: np.ndarray, discs: np.ndarray, limit: float):
    """Range (N, R) along unit `directions` (N, R, 2) from `origins` (N, 2); `limit` where nothing is nearer.

    Boxes by slabs, discs by their quadratic. An origin inside an obstacle sees out of it.
    """
    with np.errstate(divide="ignore"):
        inverse = 1.0 / directions
    # (N, R, B, 2) would be one array; two of (N, R, B) are faster
    near = np.full((*directions.shape[:2], boxes.shape[-2]), -np.inf)
    far = np.full_like(near, np.inf)
    for axis in (0, 1):
        start, slope = origins[:, None, None, axis], inverse[..., axis, None]
        with np.errstate(invalid="ignore"):
            first = (boxes[..., None, :, axis] - start) * slope
            second = (boxes[..., None, :, axis + 2] - start) * slope
        # a ray along a face, inside the slab's edge: 0 * inf. It passes between, so the slab does not bound it
        np.maximum(near, np.fmin(first, second), out=near, where=~np.isnan(first) | ~np.isnan(second))
        np.minimum(far, np.fmax(first, second), out=far, where=~np.isnan(first) | ~np.isnan(second))
    hit = np.where((near <= far) & (near >= 0), near, limit)
    found = hit.min(-1)
    if discs.shape[1]:
        offset = discs[..., :2] - origins[:, None]  # (N, M, 2)
        along = np.einsum("nri,nmi->nrm", directions, offset)
        discriminant = along**2 - ((offset**2).sum(-1) - discs[..., 2] ** 2)[:, None]
        with np.errstate(invalid="ignore"):
            distance = along - np.sqrt(discriminant)
        distance = np.where((discriminant >= 0) & (distance >= 0), distance, limit)
        found = np.minimum(found, distance.min(-1))
    return np.minimum(found, limit)


def segments_blocked(begin: np.ndarray, end: np.ndarray, boxes: np.ndarray, radius: float) -> np.ndarray:
    """(S,) whether a disc that moves begin -> end, both (S, 2), comes nearer than `radius` to one of the boxes (B, 4).

    Most pairs are told apart by the box grown by the radius; the rest is measured.
    """
    grown = boxes + radius * np.array([-1, -1, 1, 1])
    segment, box = np.nonzero(_segments_meet(begin, end - begin, grown))
    blocked = np.zeros(len(begin), bool)
    near = _distance(begin[segment], end[segment], boxes[box]) < radius
    blocked[segment[near]] = True
    return blocked


def _distance(begin: np.ndarray, end: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(P,) between segment and box (P, 4) pair by pair; 0 where they meet. Of two convex shapes that do not meet, a
    corner of one is nearest: an end of the segment or one of the box's four corners."""
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (P, 4, 2)
    along = end - begin
    length = np.maximum((along**2).sum(-1), 1e-18)[:, None]
    offset = corners - begin[:, None]
    share = (np.einsum("pci,pi->pc", offset, along) / length).clip(0, 1)
    gap = offset - share[..., None] * along[:, None]
    nearest = np.sqrt((gap**2).sum(-1).min(-1))
    for point in (begin, end):
        outside = np.maximum(np.maximum(boxes[:, :2] - point, point - boxes[:, 2:]), 0)
        nearest = np.minimum(nearest, np.sqrt((outside**2).sum(-1)))
    return np.where(_meet(begin, along, boxes), 0.0, nearest)


def _segments_meet(begin: np.ndarray, along: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(S, B) whether the segments touch the boxes."""
    return _meet(begin[:, None], along[:, None], boxes[None])


def _meet(begin: np.ndarray, along: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Slabs, axis by axis; shapes broadcast to (...,)."""
    enter, leave = np.zeros(1), np.ones(1)
    for axis in (0, 1):
        start, slope = begin[..., axis], along[..., axis]
        safe = np.where(slope == 0, 1.0, slope)
        first, second = (boxes[..., axis] - start) / safe, (boxes[..., axis + 2] - start) / safe
        beside = (slope == 0) & ((start < boxes[..., axis]) | (start > boxes[..., axis + 2]))
        still = (slope == 0) & ~beside
        enter = np.maximum(enter, np.where(still, -np.inf, np.where(beside, np.inf, np.minimum(first, second))))
        leave = np.minimum(leave, np.where(still, np.inf, np.where(beside, -np.inf, np.maximum(first, second))))
    return enter <= leave


def with_row(rows: np.ndarray, row: int, new: np.ndarray, filler: np.ndarray | float) -> np.ndarray:
    """rows (N, K, d) with `new` (k, d) in place of a row; grown and filled with `filler` where k and K differ."""
    if len(new) > rows.shape[1]:
        grown = np.broadcast_to(filler, (len(rows), len(new), rows.shape[2])).copy()
        grown[:, : rows.shape[1]] = rows
        rows = grown
    rows[row] = filler
    rows[row, : len(new)] = new
    return rows
