"""Raw camera images to network images in numpy, as perception's test pipeline makes them with OpenCV.

The pipeline first averages the image down (area filter) to the network's scale plus `resize_headroom`, then looks every
network pixel up bilinearly where `img_aug` puts it; pixels from outside the raw image are black. Here both steps are
one sum per axis, so grey values differ by rounding alone. It costs some ten milliseconds per camera: a camera driver
that delivers the network's size spares it.
"""

from dataclasses import dataclass

import numpy as np

from .errors import InputError


def network_view(raw_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """`img_aug` (3, 3) of the test pipeline: raw (H, W) to the network's width, cropped or padded at the top."""
    scale = size[1] / raw_size[1]
    height, width = (max(1, round(side * scale)) for side in raw_size)
    x, y = width / raw_size[1], height / raw_size[0]
    offset = max(0, width - size[1]) // 2
    return np.array([[x, 0, x / 2 - 0.5 - offset], [0, y, y / 2 - 0.5 + size[0] - height], [0, 0, 1]])


@dataclass(frozen=True)
class _Taps:
    """One axis: output pixel i is the sum of raw pixels index[i] (taps,) with weight[i] (taps,)."""

    index: np.ndarray
    weight: np.ndarray


def _area(raw: int, count: int) -> np.ndarray:
    """(count, raw): averages of a raw axis over count equal stretches."""
    edges = np.arange(count + 1) * (raw / count)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(raw)
    return np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None) * (count / raw)


def _lookup(count: int, source: int, scale: float, offset: float) -> np.ndarray:
    """(count, source): linear interpolation of a source axis at (i - offset) / scale, nothing outside of it."""
    at = (np.arange(count) - offset) / scale
    return np.clip(1 - np.abs(at[:, None] - np.arange(source)), 0, None)


def _taps(raw: int, count: int, scale: float, offset: float, shrunken: int) -> _Taps:
    if shrunken < raw:
        change = shrunken / raw  # raw to shrunken pixels: u' = (u + 1/2) change - 1/2
        matrix = _lookup(count, shrunken, scale / change, offset - scale / change * (change / 2 - 0.5)) @ _area(
            raw, shrunken
        )
    else:
        matrix = _lookup(count, raw, scale, offset)
    taps = max(1, int((matrix > 0).sum(1).max()))
    first = np.where(matrix.any(1), (matrix > 0).argmax(1), 0)
    index = np.minimum(first[:, None] + np.arange(taps), raw - 1)
    weight = np.take_along_axis(matrix, index, 1) * (first[:, None] + np.arange(taps) < raw)
    return _Taps(index, weight.astype(np.float32))


class Resampler:
    """Resizes and crops one camera's images; the weights are worked out once.

    Args: raw_size, size (H, W); img_aug (3, 3), raw to network pixels; headroom, the manifest's resize_headroom.
    Raises: InputError if img_aug rotates or mirrors.
    """

    def __init__(self, raw_size: tuple[int, int], size: tuple[int, int], img_aug: np.ndarray, headroom: float = 0.0):
        a = np.asarray(img_aug, np.float64)
        if abs(a[0, 1]) + abs(a[1, 0]) + np.abs(a[2] - (0, 0, 1)).sum() > 1e-9 or min(a[0, 0], a[1, 1]) <= 0:
            raise InputError(
                f"rig.img_aug {a.tolist()} is more than a scale and an offset: resize the image before step()"
            )
        shrink = min(1.0, size[1] / raw_size[1] + headroom)
        height, width = (max(1, round(side * shrink)) for side in raw_size)
        self._rows = _taps(raw_size[0], size[0], a[1, 1], a[1, 2], height)
        self._columns = _taps(raw_size[1], size[1], a[0, 0], a[0, 2], width)

    def __call__(self, image: np.ndarray, out: np.ndarray) -> None:
        """Write the network image (H, W, 3) uint8 of a raw image (H, W, 3) uint8 into `out`."""
        rows, columns = self._rows, self._columns
        band = np.zeros((len(rows.index), *image.shape[1:]), np.float32)
        for k in range(rows.index.shape[1]):
            band += rows.weight[:, k, None, None] * image[rows.index[:, k]]
        band = np.ascontiguousarray(band.transpose(1, 0, 2))
        total = np.zeros((len(columns.index), *band.shape[1:]), np.float32)
        for k in range(columns.index.shape[1]):
            total += columns.weight[:, k, None, None] * band[columns.index[:, k]]
        np.clip(np.floor(total.transpose(1, 0, 2) + 0.5), 0, 255, out=total.transpose(1, 0, 2))
        out[...] = total.transpose(1, 0, 2)
