"""Trajectory-based distillation (VCD, arXiv 2310.15670): imitate the expert's BEV map along the paths of the objects.

A fused history leaves one ghost of a moving object per past frame. Past centres carried into the current frame by
instance mark those ghosts, while the copies of a static object coincide. The released code leaves the past centres in
their own past frames; give `trajectories_unaligned` instead of `trajectories` to reproduce that.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.detection.gaussian import cell_radius, draw_gaussians
from perception.detection.grid import GridSpec
from perception.detection.losses import imitation_loss


def _to_bev(centers: Tensor, bev_aug: Tensor) -> Tensor:
    """lidar -> bev: (..., 3) float32 points; bev_aug (4, 4)."""
    bev_aug = bev_aug.to(centers)
    with torch.autocast(centers.device.type, enabled=False):
        return centers @ bev_aug[:3, :3].mT + bev_aug[:3, 3]


def trajectory_masks(
    centers: Sequence[Tensor],
    sizes: Sequence[Tensor],
    bev_aug: Tensor,
    grid: GridSpec,
    *,
    sizes_in: str,
    overlap: float = 0.1,
    min_radius: int = 2,
) -> Tensor:
    """M(y, x): maximum over objects and times of CenterPoint's Gaussians at the objects' cells.

    Args (one list entry per sample): centers (Q, T, 3) in the current `lidar` frame, NaN where not annotated, T = 1 for
        a mask of the current boxes alone; sizes (Q, 3) l, w, h in metres; bev_aug (B, 4, 4).
        sizes_in: the frame of the sizes. "bev": already scaled by the BEV augmentation, as `gt_instances_3d.bboxes_3d`
        of a batch; "lidar": as annotated, scaled here.
    Returns: (B, 1, Y, X) float32 in [0, 1]. Centres outside the grid draw nothing (floor, not truncation), nor do boxes
        without extent. One pass over all objects of the batch, one synchronisation (the largest radius).
    """
    if sizes_in not in ("bev", "lidar"):
        raise ValueError(f"sizes_in={sizes_in!r}: choose 'bev' or 'lidar'")
    _, rows, columns = grid.shape
    cell = bev_aug.new_tensor([grid.x[2], grid.y[2]], dtype=torch.float32)
    low = bev_aug.new_tensor([grid.x[0], grid.y[0]], dtype=torch.float32)
    scale = torch.linalg.det(bev_aug[:, :2, :2].float()).abs().sqrt() if sizes_in == "lidar" else None
    cells, radii, samples = [], [], []
    for b, (path, size) in enumerate(zip(centers, sizes, strict=True)):
        if path.ndim != 3 or path.shape[-1] != 3 or size.shape != (len(path), 3):
            raise ValueError(
                f"sample {b}: centers {tuple(path.shape)} and sizes {tuple(size.shape)}, wanted (Q, T, 3) and (Q, 3)"
            )
        size = size[:, :2].float() if scale is None else size[:, :2].float() * scale[b]
        place = torch.floor((_to_bev(path.float(), bev_aug[b])[..., :2] - low) / cell)
        place = torch.where((size > 0).all(-1)[:, None, None], place, torch.nan)
        cells.append(place.flatten(0, 1))
        radii.append(cell_radius(size, cell, overlap, min_radius).repeat_interleave(path.shape[1]))
        samples.append(torch.full((len(cells[-1]),), b, device=bev_aug.device))
    return draw_gaussians(torch.cat(cells), torch.cat(radii), torch.cat(samples), (len(cells), rows, columns))[:, None]


def trajectory_mask(centers: Tensor, sizes: Tensor, bev_aug: Tensor, grid: GridSpec, *, sizes_in: str, **kw) -> Tensor:
    """One sample of `trajectory_masks`: centers (Q, T, 3), sizes (Q, 3), bev_aug (4, 4) -> (Y, X)."""
    return trajectory_masks([centers], [sizes], bev_aug[None], grid, sizes_in=sizes_in, **kw)[0, 0]


def standardise(feature: Tensor, eps: float = 1e-5) -> Tensor:
    """Every channel to zero mean and unit variance over batch and cells, no parameters, no running statistics.

    (B, C, Y, X) -> (B, C, Y, X) float32 (float64 stays). The statistics are this batch's own, of this process.
    """
    with torch.autocast(feature.device.type, enabled=False):
        feature = feature if feature.dtype == torch.float64 else feature.float()
        variance, mean = torch.var_mean(feature, dim=(0, 2, 3), correction=0, keepdim=True)
        return (feature - mean) * torch.rsqrt(variance + eps)


def trajectory_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """sum M^2 (F_A - N(F_E))^2 / sum M: imitation of the standardised teacher inside the mask.

    Args: student, teacher (B, C, Y, X), the maps before the head; mask (B, 1, Y, X) of `trajectory_masks`.
    Returns: float32 scalar (the released weight of 0.4 is the caller's), 0 for an empty mask. The teacher gets no
    gradient. Only the teacher is standardised: the student learns to be so where the mask is.
    """
    return imitation_loss(student, standardise(teacher.detach()), mask)


def point_loss(student: Tensor, teacher: Tensor, centers: Sequence[Tensor], bev_aug: Tensor, grid: GridSpec) -> Tensor:
    """The same imitation at the objects' centres: squared difference at every q, mean over times, mean over objects.

    Args: student, teacher (B, C, Y, X); centers: per sample (Q, T, 3) in the current `lidar` frame, NaN where not
        annotated; bev_aug (B, 4, 4).
    Returns: float32 scalar, 0 without objects. Sampled bilinearly between cell centres, summed over channels as the
        mask form. Centres outside the grid and NaN count nowhere. Objects weigh the same whatever their size.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"teacher is {tuple(teacher.shape)}, student is {tuple(student.shape)}: give both the same grid"
        )
    times = {path.shape[1] for path in centers}
    if len(times) > 1:
        raise ValueError(f"trajectories have {sorted(times)} times; every sample of a batch needs the same number")
    with torch.autocast(student.device.type, enabled=False):
        dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
        difference = student.to(dtype) - standardise(teacher.detach()).to(dtype)
        low, high = (bev_aug.new_tensor([grid.x[k], grid.y[k]], dtype=dtype) for k in (0, 1))
        longest = max((len(path) for path in centers), default=0)
        if longest == 0:
            return difference.sum() * 0
        paths = [F.pad(path.to(dtype), (0, 0, 0, 0, 0, longest - len(path)), value=torch.nan) for path in centers]
        q = torch.stack([_to_bev(path, aug)[..., :2] for path, aug in zip(paths, bev_aug, strict=True)])  # (B, Q, T, 2)
        valid = ((q >= low) & (q < high)).all(-1)
        where = torch.where(valid[..., None], 2 * (q - low) / (high - low) - 1, 0)
        sampled = F.grid_sample(difference, where, mode="bilinear", padding_mode="border", align_corners=False)
        squared = torch.where(valid, sampled.square().sum(1), 0)
        per_object = squared.sum(-1) / valid.sum(-1).clamp_min(1)
        return per_object.sum() / valid.any(-1).sum().clamp_min(1)
