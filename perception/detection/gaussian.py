"""CenterPoint's Gaussians: radius rule and drawing, vectorised over objects (arXiv 2006.11275; CornerNet's radius)."""

import torch
from torch import Tensor


def gaussian_radius(length: Tensor, width: Tensor, overlap: float = 0.1) -> Tensor:
    """Radius in cells within which a shifted box still overlaps by `overlap`. Sizes (Q,) in cells -> (Q,) float.

    The smallest of the three cases of CornerNet, with the roots as every public CenterPoint takes them.
    """
    total, area = length + width, length * width
    inside = (total + (total**2 - 4 * area * (1 - overlap) / (1 + overlap)).sqrt()) / 2
    outside = (2 * total + (4 * total**2 - 16 * (1 - overlap) * area).sqrt()) / 2
    crossing = (-2 * overlap * total + (4 * overlap**2 * total**2 + 16 * overlap * (1 - overlap) * area).sqrt()) / 2
    return torch.minimum(torch.minimum(inside, outside), crossing)


def cell_radius(sizes: Tensor, cell: Tensor, overlap: float = 0.1, minimum: int = 2) -> Tensor:
    """Integer radius (Q,) of boxes of size (Q, 2) l, w in metres on cells (2,) dx, dy in metres."""
    radius = gaussian_radius(sizes[:, 0] / cell[0], sizes[:, 1] / cell[1], overlap)
    return radius.long().clamp_min(minimum)


def draw_gaussians(cells: Tensor, radius: Tensor, shape: tuple[int, int]) -> Tensor:
    """One map per object: exp(-r^2 / (2 sigma^2)) on the square of side 2*radius+1, 1 at the cell, 0 outside.

    Args: cells (Q, 2) int64 x, y; radius (Q,) int64; shape (Y, X). Objects outside the grid are drawn where their
    square reaches into it, so callers drop them first if they must not. Returns (Q, Y, X) float32.
    """
    y = torch.arange(shape[0], device=cells.device) - cells[:, 1:2]
    x = torch.arange(shape[1], device=cells.device) - cells[:, 0:1]
    sigma = (2 * radius + 1)[:, None].float() / 6
    gy = torch.exp(-(y**2) / (2 * sigma**2)) * (y.abs() <= radius[:, None])
    gx = torch.exp(-(x**2) / (2 * sigma**2)) * (x.abs() <= radius[:, None])
    maps = gy[:, :, None] * gx[:, None, :]
    return maps.masked_fill(maps < torch.finfo(maps.dtype).eps, 0)
