"""Where every object was at the past key frames, matched by instance (VCD, trajectory-based distillation)."""

from dataclasses import dataclass

import numpy as np

from common.geometry import invert, transform


@dataclass(frozen=True)
class FrameObjects:
    """All annotations of one key frame: `tokens` maps an instance to its row of `centers` (Q, 3), gravity centres in
    metres in the frame's own `lidar` frame; `lidar2global` (4, 4) float64; `previous` the key frame before, or None."""

    tokens: dict[str, int]
    centers: np.ndarray
    lidar2global: np.ndarray
    previous: int | None


def past_centers(frames: list[FrameObjects], index: int, tokens, past: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of `tokens` at t, t-1, ..., t-past, in the current `lidar` frame and in each past frame's own.

    Args:
        frames: all key frames of the data set. index: the current one. tokens: instance tokens (Q,), annotated now.
        past: K, number of past key frames; those before the scene's start stay unknown.
    Returns:
        aligned, unaligned: (Q, K+1, 3) float32, NaN where the object was not annotated. Aligned (the paper's intent):
        one rigid transform from the past `lidar` frame through `global` into the current one. Unaligned: as the
        released code, which leaves past boxes in their own past frames.
    """
    shape = (len(tokens), past + 1, 3)
    aligned, unaligned = np.full(shape, np.nan), np.full(shape, np.nan)
    global2lidar = invert(frames[index].lidar2global)
    step: int | None = index
    for k in range(past + 1):
        if step is None:
            break
        frame = frames[step]
        rows = np.array([frame.tokens.get(token, -1) for token in tokens], np.int64)
        seen = rows >= 0
        if seen.any():
            centers = frame.centers[rows[seen]]
            unaligned[seen, k] = centers
            aligned[seen, k] = transform(global2lidar @ frame.lidar2global, centers) if k else centers
        step = frame.previous
    return aligned.astype(np.float32), unaligned.astype(np.float32)
