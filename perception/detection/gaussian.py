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


def draw_gaussians(cells: Tensor, radius: Tensor, plane: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The maximum, per plane, of exp(-r^2 / (2 sigma^2)) on squares of side 2*radius+1 around the cells.

    Args: cells (M, 2) x, y as floats, those outside the map or NaN draw nothing; radius (M,) int64; plane (M,) int64;
        shape (planes, Y, X). Returns: (planes, Y, X) float32, 1 at every cell. One device synchronisation.
    """
    planes, rows, columns = shape
    mask = torch.zeros(planes * rows * columns, device=cells.device)
    if len(cells) == 0:
        return mask.view(shape)
    x, y = cells.unbind(-1)
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    reach = int(torch.where(inside, radius, 0).max())
    offset = torch.arange(-reach, reach + 1, device=cells.device)
    dy, dx = offset[:, None], offset[None, :]
    radius, inside = radius[:, None, None], inside[:, None, None]
    x = torch.where(inside, x[:, None, None], 0).long() + dx
    y = torch.where(inside, y[:, None, None], 0).long() + dy
    drawn = inside & (torch.maximum(dx.abs(), dy.abs()) <= radius)
    drawn = drawn & (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    sigma = (2 * radius + 1) / 6
    height = torch.where(drawn, torch.exp(-(dx**2 + dy**2) / (2 * sigma**2)), 0)
    index = (plane[:, None, None] * rows + y.clamp(0, rows - 1)) * columns + x.clamp(0, columns - 1)
    return mask.scatter_reduce(0, index.flatten(), height.flatten(), reduce="amax").view(shape)
