"""Occupancy reconstruction: the depth distributions of expert and apprentice, compared as volumes around the objects.

O = sum of the bin probabilities of all frustum points in a cell, S = sigmoid(O) - 0.5,
loss = sum M |S_apprentice - S_expert| / sum M, with M the maximum of 3-D Gaussians at the objects' centres.
Source: VCD, arXiv 2310.15670; released code for the radii.
"""

import torch
from torch import Tensor

from perception.detection.gaussian import gaussian_radius
from perception.detection.grid import GridSpec
from perception.detection.view_transform import PoolIndex

MIN_RADIUS = 2  # cells


def occupancy_volume(depth: Tensor, index: PoolIndex, grid: GridSpec) -> Tensor:
    """O: the depth probability that falls into every cell.

    Args: depth (B, N, D, h, w); index of the lifted points in `grid`, the volume's own (for example 0.4 x 0.4 x 1 m).
    Returns: (B, Z, Y, X) float32 or wider. Raises: ValueError if depth or grid is not the index's.
    """
    if depth.shape != index.frustum_shape or grid.shape != index.volume_shape[1:]:
        raise ValueError(
            f"depth is {tuple(depth.shape)} and the grid {grid.shape} (Z, Y, X); the index wants {index.frustum_shape} "
            f"and {index.volume_shape[1:]}: build it with build_pool_index(points, grid) from the same frustum and grid"
        )
    depth = depth.reshape(-1).to(torch.promote_types(depth.dtype, torch.float32))
    volume = depth.new_zeros(index.num_cells).index_add(0, index.cell, depth.index_select(0, index.depth))
    return volume.view(index.volume_shape)


def squash(occupancy: Tensor) -> Tensor:
    """S = sigmoid(O) - 0.5, in [0, 0.5) for O >= 0."""
    return occupancy.sigmoid() - 0.5


def occupancy_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """sum M |S_A - S_E| / sum M with S = squash(O); 0 where the mask is empty.

    Args: student, teacher: the volumes O (B, Z, Y, X) of `occupancy_volume`; mask: the same shape, non-negative.
    Returns: scalar. The teacher gets no gradient. Raises: ValueError if the shapes differ.
    """
    if not student.shape == teacher.shape == mask.shape:
        raise ValueError(
            f"student is {tuple(student.shape)}, teacher {tuple(teacher.shape)}, mask {tuple(mask.shape)} "
            "(B, Z, Y, X): compute all three on the same grid"
        )
    return (mask * (squash(student) - squash(teacher.detach())).abs()).sum() / mask.sum().clamp_min(1e-6)


def occupancy_mask(boxes: list[Tensor], grid: GridSpec) -> Tensor:
    """M: the maximum over objects of 3-D Gaussians, 1 at the cell of an object's centre.

    The radius in cells is CenterHead's on (l, w) for x and y and the larger one of (l, h) and (w, h) for z, at least 2;
    sigma is a sixth of the diameter, and a Gaussian ends at its radius. Objects centred outside the grid draw nothing.

    Args: boxes, one (Q, 6+) tensor per sample: x, y, z of the centre, l, w, h, ... in metres, `bev` frame.
    Returns: (B, Z, Y, X) float32.
    """
    Z, Y, X = grid.shape
    mask = boxes[0].new_zeros(len(boxes) * Z * Y * X, dtype=torch.float32)
    sample = torch.cat([torch.full((len(b),), i, device=mask.device) for i, b in enumerate(boxes)])
    flat = torch.cat([b[:, :6] for b in boxes]).float()
    l, w, h = flat[:, 3:].unbind(1)
    centre, inside = grid.cells(flat[:, :3])
    flat_radius = gaussian_radius(l, w)
    metres = torch.stack([torch.maximum(gaussian_radius(l, h), gaussian_radius(w, h)), flat_radius, flat_radius], 1)
    cell = metres.new_tensor([grid.z[2], grid.y[2], grid.x[2]])
    radius = (metres / cell).long().clamp_min(MIN_RADIUS)[inside]
    centre, sample = centre[inside], sample[inside]
    if len(centre):
        _draw(mask, sample, centre, radius, grid.shape)
    return mask.view(len(boxes), Z, Y, X)


def _draw(mask: Tensor, sample: Tensor, centre: Tensor, radius: Tensor, shape: tuple[int, int, int]) -> None:
    """Maximum of `mask` (B*Z*Y*X,), in place, with Gaussians; centre and radius are (Q, 3) cells, z y x.

    One window, as large as the largest radius, is laid around every centre; what lies outside adds 0.
    """
    reach = [torch.arange(-r, r + 1, device=mask.device) for r in radius.amax(0).tolist()]
    offset = torch.cartesian_prod(*reach)
    size = centre.new_tensor(shape)
    at = centre[:, None] + offset  # (Q, window, 3)
    drawn = ((at >= 0) & (at < size) & (offset.abs() <= radius[:, None])).all(-1)
    sigma = (2 * radius + 1)[:, None] / 6
    value = torch.exp(-0.5 * (offset / sigma).square().sum(-1)) * drawn
    at = at.clamp_min(0).minimum(size - 1)
    index = ((sample[:, None] * size[0] + at[..., 0]) * size[1] + at[..., 1]) * size[2] + at[..., 2]
    mask.scatter_reduce_(0, index.flatten(), value.flatten(), "amax")
