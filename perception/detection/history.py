"""Temporal fusion with explicit state: raw past BEV maps, their poses, and one exact warp into the current frame.

Conventions as in docs/conventions.md: maps are (B, C, Y, X), history newest first, `bev2global` is the pose of the
augmented BEV frame. All warping runs in float32 (float64 for float64 maps), also under autocast; no gradient enters the
history. `fuse_history` and `shift_maps` work on tensors alone and are exported; poses stay on the host in float64.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import ConfigError
from perception.detection.grid import GridSpec


class History(NamedTuple):
    """maps (B, K, C, Y, X), newest first; bev2global (B, K, 4, 4) float64: the frame in which each map is stored."""

    maps: Tensor
    bev2global: Tensor


def cur2past(bev2global_past: Tensor, bev2global_cur: Tensor) -> Tensor:
    """Planar motion from the current BEV frame to each past one: inv(bev2global_past) @ bev2global_cur without z.

    Args: bev2global_past (B, K, 4, 4), bev2global_cur (B, 4, 4); both carry the frame's own BEV augmentation.
    Returns: (B, K, 3, 3) float64 on (x, y, 1) in metres; float64 because global coordinates are kilometres.
    """
    motion = torch.linalg.inv(bev2global_past.double()) @ bev2global_cur.double()[:, None]
    plane = torch.tensor([0, 1, 3], device=motion.device)
    return motion.index_select(-2, plane).index_select(-1, plane)


def sampling_grid(cur2past: Tensor, grid: GridSpec) -> Tensor:
    """Where every current cell's centre lies in the past map, for `grid_sample(..., align_corners=False)`.

    Args: cur2past (..., 3, 3) in metres. Returns: (..., Y, X, 2) x, y, in cur2past's dtype.
    Index (x, y) stands for the metres of the cell's centre; the released code takes its lower corner, which puts a
    flipped past frame one cell off. With align_corners=False the normalised centre (2i + 1) / n - 1 is exact in float32
    for n a power of two, so no motion reproduces the stored map bit for bit.
    """
    _, rows, columns = grid.shape
    (left, right, _), (bottom, top, _) = grid.x, grid.y
    index2metre = grid.index2metre()
    index2norm = torch.tensor(
        [[2 / columns, 0, 1 / columns - 1], [0, 2 / rows, 1 / rows - 1], [0, 0, 1]], dtype=torch.float64
    )
    scale_x, scale_y = 2 / (right - left), 2 / (top - bottom)
    metre2norm = torch.tensor(
        [[scale_x, 0, -scale_x * left - 1], [0, scale_y, -scale_y * bottom - 1], [0, 0, 1]], dtype=torch.float64
    )
    with torch.autocast(cur2past.device.type, enabled=False):
        # metre2norm @ cur2past @ index2metre, with the part that no motion leaves (index2norm) kept exact
        change = cur2past - torch.eye(3, device=cur2past.device, dtype=cur2past.dtype)
        motion = index2norm.to(cur2past) + metre2norm.to(cur2past) @ change @ index2metre.to(cur2past)
        x = torch.arange(columns, device=cur2past.device, dtype=cur2past.dtype)[:, None]
        y = torch.arange(rows, device=cur2past.device, dtype=cur2past.dtype)[:, None, None]
        slope_x, slope_y, offset = (motion[..., None, None, :2, k] for k in range(3))
        return slope_x * x + slope_y * y + offset


def warp(maps: Tensor, cur2past: Tensor, grid: GridSpec) -> Tensor:
    """Past maps seen from the current frame: bilinear, zeros outside, one `grid_sample` over all B * K maps.

    Args: maps (B, K, C, Y, X); cur2past (B, K, 3, 3) in metres. Returns: (B, K, C, Y, X), float32 (or float64).
    """
    with torch.autocast(maps.device.type, enabled=False):
        dtype = maps.dtype if maps.dtype == torch.float64 else torch.float32
        where = sampling_grid(cur2past if cur2past.dtype == torch.float64 else cur2past.float(), grid).to(dtype)
        flat = F.grid_sample(
            maps.to(dtype).flatten(0, 1),
            where.flatten(0, 1),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        return flat.reshape(maps.shape)


def _check(current: Tensor, maps: Tensor, grid: GridSpec) -> None:
    if torch.jit.is_tracing():
        return
    batch, channels, rows, columns = current.shape
    if (rows, columns) != grid.shape[1:]:
        raise ConfigError(f"BEV map of {rows}x{columns} cells (Y x X) on a grid of {grid.shape[1]}x{grid.shape[2]}")
    wanted = (batch, maps.shape[1], channels, rows, columns)
    if maps.shape != wanted:
        raise ValueError(
            f"history is {tuple(maps.shape)}, wanted {wanted} (B, K, C, Y, X) for the current map: reset it when the "
            "batch size or the network changes"
        )


def _flag(start: Tensor) -> Tensor:
    return start.reshape(-1, 1, 1, 1, 1)


def fuse_history(current: Tensor, maps: Tensor, cur2past: Tensor, start: Tensor, grid: GridSpec) -> Tensor:
    """Current map, then the K past maps warped into the current frame, along the channels.

    Args: current (B, C, Y, X); maps (B, K, C, Y, X); cur2past (B, K, 3, 3); start (B,) bool: this entry's history is
        the current map K times, unwarped (first frame of a sequence; all True while the history is switched off).
    Returns: (B, (K + 1) * C, Y, X). Gradient flows through the first C channels alone.
    """
    _check(current, maps, grid)
    if maps.shape[1] == 0:
        return current
    past = warp(maps.detach(), cur2past.detach(), grid)
    past = torch.where(_flag(start), current.detach().to(past.dtype)[:, None], past)
    return torch.cat([current, past.flatten(1, 2).to(current.dtype)], 1)


def shift_maps(current: Tensor, maps: Tensor, start: Tensor) -> Tensor:
    """The next frame's raw maps: current first, the oldest dropped; at a start, current K times. (B, K, C, Y, X)."""
    current = current.detach()[:, None].to(maps.dtype)
    maps = torch.where(_flag(start), current, maps.detach())
    return torch.cat([current, maps[:, :-1]], 1)


def next_history(
    current: Tensor,
    history: History,
    bev2global_cur: Tensor,
    start: Tensor,
    grid: GridSpec,
    *,
    resample: str = "exact",
) -> History:
    """State for the next frame, without gradient.

    Args: current (B, C, Y, X); history as it came in; bev2global_cur (B, 4, 4); start (B,) bool as for `fuse_history`.
        resample: "exact" keeps every raw map with its own pose, so each is resampled once however old it is; "repeated"
        stores the maps warped into the current frame, as released: a map K frames old has been resampled K times.
    """
    _check(current, history.maps, grid)
    maps, poses = history.maps, history.bev2global.double()
    here = bev2global_cur.double()[:, None].expand_as(poses)
    if resample == "repeated":
        # maps move into the current frame first, so one pose holds for all of them
        maps, poses = warp(maps.detach(), cur2past(poses, bev2global_cur), grid).to(maps.dtype), here
    elif resample != "exact":
        raise ConfigError(f"history resample={resample!r}: choose 'exact' or 'repeated'")
    poses = torch.where(start.reshape(-1, 1, 1, 1), here, poses)
    return History(shift_maps(current, maps, start), torch.cat([here[:, :1], poses[:, :-1]], 1).detach())
