"""A given number of points of a scan, drawn as the training code draws them, in numpy."""

import numpy as np

BITS = 21  # of a key, per axis
GRIDS = 14  # that `spread` tries


def _keys(of: np.ndarray) -> np.ndarray:
    return (of[:, 0] << 2 * BITS) | (of[:, 1] << BITS) | of[:, 2]


def thinned(points: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(count, 3): random points without repetition; where there are too few, all of them as often as needed."""
    whole, rest = divmod(count, len(points))
    order = [random.permutation(len(points)) for _ in range(whole)] + [random.permutation(len(points))[:rest]]
    return points[np.concatenate(order)]


def spread(points: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(count, 3): random points, evenly over the space that points (P, 3) take: one from each cell of the coarsest grid
    that has at least `count` of them. As even as the farthest-point sampling of released code, at the cost of a sort.
    Where there are too few points, all of them as often as needed."""
    if len(points) <= count:
        return thinned(points, count, random)
    points = points[random.permutation(len(points))]
    origin = points.min(0) - random.random(3)

    def firsts(edge: float) -> np.ndarray:
        cells = np.floor((points - origin) / edge).astype(np.int64)
        return np.unique(_keys(cells), return_index=True)[1]

    fine, coarse = 1e-3, float(np.ptp(points, axis=0).max()) + 1.0
    chosen = np.arange(len(points))
    for _ in range(GRIDS):
        edge = (fine * coarse) ** 0.5
        found = firsts(edge)
        if len(found) >= count:
            fine, chosen = edge, found
        else:
            coarse = edge
    return points[random.permutation(chosen)[:count]]
