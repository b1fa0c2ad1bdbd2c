"""Lift: from feature pixels and depth bins to points in the `bev` frame, and from points to BEV cells.

Frames, pixel centres and layouts are those of docs/conventions.md. Source: VCD, arXiv 2310.15670, and released code.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from perception.detection.grid import DepthBins, GridSpec

ROUNDING = {"floor": torch.floor, "truncate": torch.trunc}


def frustum(
    image_hw: tuple[int, int],
    stride: int,
    bins: DepthBins,
    sampling: str = "block_centre",
    lift_at: str = "edge",
    device=None,
) -> Tensor:
    """(D, h, w, 3) float32: u, v in pixels of the network image and depth d in metres of every frustum point.

    Args:
        image_hw: (H, W) of the network image, whole multiples of `stride`.
        sampling: "block_centre" puts a feature pixel at the middle of its block of stride x stride image pixels;
            "stretched" spreads the pixels from border to border, as the released code does.
        lift_at: "edge" lifts a bin at its lower edge (released code), "middle" at its middle.

    Raises:
        ValueError: unknown `sampling` or `lift_at`, or an image that is no whole number of feature pixels.
    """
    H, W = image_hw
    if H % stride or W % stride:
        raise ValueError(f"image_hw is {(H, W)}, stride {stride}: make both sides whole multiples of the stride")
    h, w = H // stride, W // stride
    if sampling == "block_centre":
        v = (torch.arange(h, device=device) + 0.5) * stride - 0.5
        u = (torch.arange(w, device=device) + 0.5) * stride - 0.5
    elif sampling == "stretched":
        v = torch.linspace(0, H - 1, h, device=device)
        u = torch.linspace(0, W - 1, w, device=device)
    else:
        raise ValueError(f"sampling is {sampling!r}: choose 'block_centre' or 'stretched'")
    if lift_at not in ("edge", "middle"):
        raise ValueError(f"lift_at is {lift_at!r}: choose 'edge' or 'middle'")
    d = bins.edges(device) + (bins.step / 2 if lift_at == "middle" else 0.0)
    d, v, u = torch.meshgrid(d, v, u, indexing="ij")
    return torch.stack([u, v, d], -1)


def lift_points(frustum: Tensor, cam2img: Tensor, cam2lidar: Tensor, img_aug: Tensor, bev_aug: Tensor) -> Tensor:
    """Frustum points in the `bev` frame: bev_aug @ cam2lidar @ [d * inv(cam2img) @ inv(img_aug) @ (u, v, 1)].

    The matrices of a camera are composed in float64 into one affine map of (u d, v d, d), which is applied in float32.

    Args: frustum (D, h, w, 3); cam2img, img_aug (B, N, 3, 3); cam2lidar (B, N, 4, 4); bev_aug (B, 4, 4).
    Returns: (B, N, D, h, w, 3) float32 in metres; in memory the three coordinates are three planes.
    """
    B, N = cam2img.shape[:2]
    wanted = {"cam2img": (B, N, 3, 3), "cam2lidar": (B, N, 4, 4), "img_aug": (B, N, 3, 3), "bev_aug": (B, 4, 4)}
    for (name, shape), given in zip(wanted.items(), (cam2img, cam2lidar, img_aug, bev_aug), strict=True):
        if given.shape != shape:
            raise ValueError(f"{name} is {tuple(given.shape)}, wanted {shape}: see docs/conventions.md, 'The batch'")
    cam2bev = bev_aug.double()[:, None] @ cam2lidar.double()
    img2bev = cam2bev[..., :3, :3] @ torch.linalg.inv(img_aug.double() @ cam2img.double())
    pixel, d = frustum[..., :2], frustum[..., 2:]
    scaled = torch.cat([pixel * d, d], -1).reshape(1, -1, 3).mT
    points = torch.baddbmm(
        cam2bev[..., :3, 3:].reshape(B * N, 3, 1).float(),
        img2bev.reshape(B * N, 3, 3).float(),
        scaled.expand(B * N, -1, -1),
    )
    return points.reshape(B, N, 3, *frustum.shape[:3]).permute(0, 1, 3, 4, 5, 2)


@dataclass(frozen=True, kw_only=True)
class PoolIndex:
    """Which frustum point adds which feature pixel to which cell: P triples, ascending in `cell`.

    BEV[cell[p]] += depth[depth[p]] * context[feature[p]] with everything flattened: depth (B, N, D, h, w), context rows
    (B, N, h, w) and cells (B, Z, Y, X). All three are (P,) int64. The exported network takes the same three.
    """

    depth: Tensor
    feature: Tensor
    cell: Tensor
    frustum_shape: tuple[int, int, int, int, int]  # (B, N, D, h, w)
    volume_shape: tuple[int, int, int, int]  # (B, Z, Y, X)

    @property
    def num_cells(self) -> int:
        B, Z, Y, X = self.volume_shape
        return B * Z * Y * X

    @property
    def num_features(self) -> int:
        B, N, _, h, w = self.frustum_shape
        return B * N * h * w

    @cached_property
    def cell_offsets(self) -> Tensor:
        """(num_cells + 1,): triples cell_offsets[c] to cell_offsets[c + 1] belong to cell c."""
        return _offsets(self.cell, self.num_cells)

    @cached_property
    def by_feature(self) -> Tensor:
        """(P,): the order that sorts the triples by feature pixel, for the gradient of the context."""
        return _argsort(self.feature, self.num_features)

    @cached_property
    def feature_offsets(self) -> Tensor:
        """(num_features + 1,): as `cell_offsets`, for the triples in the order `by_feature`."""
        return _offsets(self.feature, self.num_features)

    def to(self, device) -> "PoolIndex":
        return replace(self, **{name: getattr(self, name).to(device) for name in ("depth", "feature", "cell")})


def build_pool_index(points: Tensor, grid: GridSpec, rounding: str = "floor") -> PoolIndex:
    """The pooling index of lifted points (B, N, D, h, w, 3) in metres. Points outside the grid are left out.

    Args:
        rounding: "floor"; or "truncate" as the released code: it also takes the points up to one cell below the low
            edge of an axis, which for the single 8 m slab is everything down to z = -13 m. For parity only.
    """
    if rounding not in ROUNDING:
        raise ValueError(f"rounding is {rounding!r}: choose one of {sorted(ROUNDING)}")
    B, N, D, h, w, _ = points.shape
    Z, Y, X = grid.shape
    count = B * Z * Y * X
    whole = torch.int32 if count < 2**31 else torch.int64  # short keys halve the time of the radix sort
    # Horner over (b, z, y, x). The range is tested before the conversion, so no NaN or huge value wraps into the grid.
    cell = torch.arange(B, dtype=whole, device=points.device).view(B, 1, 1, 1, 1)
    inside = torch.ones((), dtype=torch.bool, device=points.device)
    for axis, coordinate, n in ((grid.z, points[..., 2], Z), (grid.y, points[..., 1], Y), (grid.x, points[..., 0], X)):
        low, size = points.new_tensor(axis[0]), points.new_tensor(axis[2])
        at = ROUNDING[rounding]((coordinate - low) / size)
        inside = inside & (at >= 0) & (at < n)
        cell = cell * n + at.to(whole)
    depth = inside.reshape(-1).nonzero().squeeze(1)
    cell, order = torch.sort(cell.reshape(-1).index_select(0, depth), stable=True)
    depth = depth.index_select(0, order)
    camera = torch.div(depth, D * h * w, rounding_mode="floor")
    return PoolIndex(
        depth=depth,
        feature=camera * (h * w) + depth % (h * w),
        cell=cell.long(),
        frustum_shape=(B, N, D, h, w),
        volume_shape=(B, Z, Y, X),
    )


def _argsort(key: Tensor, count: int) -> Tensor:
    """Stable order of keys in [0, count)."""
    return torch.argsort(key.int() if count < 2**31 else key, stable=True)


def _offsets(key: Tensor, count: int) -> Tensor:
    """(count + 1,) int64: how many keys are smaller than 0, 1, ... count."""
    return torch.nn.functional.pad(torch.bincount(key, minlength=count).cumsum(0), (1, 0))
