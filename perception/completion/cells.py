"""Cells of regular grids."""

import numpy as np

BITS = 21  # of a key, per axis


def keys(of: np.ndarray) -> np.ndarray:
    """(K,) one integer per cell (K, 3), whose coordinates lie in 0 .. 2^21 - 1."""
    return (of[:, 0] << 2 * BITS) | (of[:, 1] << BITS) | of[:, 2]


def occupied(points: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells (V, 3) that hold a point, the cell of every point (N,), and how many each holds (V,)."""
    found, inverse, counts = np.unique(
        np.floor(points / edge).astype(np.int64), axis=0, return_inverse=True, return_counts=True
    )
    return found, inverse.reshape(-1), counts
