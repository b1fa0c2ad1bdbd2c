"""Host-side geometry in numpy float64: where the pixels of a rig fall in the BEV grid, and how past maps are aligned.

Frames and letters are those of docs/conventions.md; every transform is named a2b.
"""

import json
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import InputError, PoseError
from .manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Rig:
    """The cameras of one vehicle.

    cameras: N names; cam2img (N, 3, 3) intrinsics of the calibrated (raw) image, pixels; cam2lidar (N, 4, 4); img_aug
    (N, 3, 3), raw pixels to network pixels; raw_size (H, W): the images arrive raw, and are resized by img_aug, which
    must then be a scale and an offset; None: they arrive at the network's size. Raises InputError.
    """

    cameras: tuple[str, ...]
    cam2img: np.ndarray
    cam2lidar: np.ndarray
    img_aug: np.ndarray
    raw_size: tuple[int, int] | None = None

    def __post_init__(self):
        object.__setattr__(self, "cameras", tuple(self.cameras))
        if self.raw_size is not None:
            object.__setattr__(self, "raw_size", tuple(int(side) for side in self.raw_size))
        n = len(self.cameras)
        if n == 0 or len(set(self.cameras)) != n:
            raise InputError(f"rig.cameras {self.cameras}: give every camera a name of its own, at least one")
        for name, side in (("cam2img", 3), ("cam2lidar", 4), ("img_aug", 3)):
            value = np.array(getattr(self, name), np.float64)
            if value.shape != (n, side, side) or not np.isfinite(value).all():
                raise InputError(f"rig.{name} wants ({n}, {side}, {side}) finite numbers, got {value.shape}")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        for name, mend in (("cam2img", "fx and fy must not be 0"), ("img_aug", "its scales must not be 0")):
            if (np.abs(np.linalg.det(getattr(self, name))) < 1e-9).any():
                raise InputError(f"rig.{name} is singular: {mend}")
        for camera, pose in zip(self.cameras, self.cam2lidar, strict=True):
            check_pose(pose, f"rig.cam2lidar of {camera}")

    @classmethod
    def load(cls, path: str | Path) -> "Rig":
        """Read a JSON file with the keys cameras, cam2img, cam2lidar, img_aug, raw_size (nested lists)."""
        try:
            raw = json.loads(Path(path).read_text())
            return cls(**raw)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist: write the rig there with Rig.save") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (TypeError, ValueError) as error:  # no JSON, other keys, ragged or non-numeric lists
            raise InputError(f"{path}: {error}; wanted the keys {tuple(cls.__dataclass_fields__)}") from None

    def save(self, path: str | Path) -> None:
        """Write the JSON that `load` reads."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        lists = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        Path(path).write_text(json.dumps(lists, indent=1) + "\n")


class PoolIndex(NamedTuple):
    """Which depth element and which feature element fall into which cell: three (P,) int64 arrays, sorted by cell."""

    depth: np.ndarray
    feature: np.ndarray
    cell: np.ndarray


@dataclass(frozen=True)
class Lift:
    """The frustum of a network: image size, stride, bins and grid, as the manifest states them."""

    manifest: Manifest

    @cached_property
    def frustum(self) -> np.ndarray:
        """(D, h, w, 3) float32: u, v, depth of every frustum point in network pixels and metres."""
        m = self.manifest
        (height, width), (h, w), stride = m.image_size, m.feature_size, m.stride
        low, _, step = m.depth_bins
        depth = low + step * (np.arange(m.num_bins) + (0.5 if m.lift_at == "middle" else 0.0))
        if m.frustum == "block_centre":
            u, v = (np.arange(w) + 0.5) * stride - 0.5, (np.arange(h) + 0.5) * stride - 0.5
        else:
            u, v = np.linspace(0, width - 1, w), np.linspace(0, height - 1, h)
        grid = np.meshgrid(depth, v, u, indexing="ij")
        return np.stack(grid[::-1], -1).astype(np.float32)

    @cached_property
    def _scaled(self) -> np.ndarray:
        """(3, D*h*w) float32: u*d, v*d, d."""
        pixel = self.frustum.reshape(-1, 3).T
        return np.stack([pixel[0] * pixel[2], pixel[1] * pixel[2], pixel[2]])

    def points(self, rig: Rig) -> np.ndarray:
        """(N, 3, D*h*w) float32: the frustum points in the `bev` frame (which is `lidar` at run time), in metres.

        A camera's matrices are composed in float64 and applied in float32, as in training.
        """
        img2lidar = rig.cam2lidar[:, :3, :3] @ np.linalg.inv(rig.img_aug @ rig.cam2img)
        return img2lidar.astype(np.float32) @ self._scaled + rig.cam2lidar[:, :3, 3:].astype(np.float32)

    def index(self, rig: Rig) -> PoolIndex:
        """The pool index of a rig.

        depth counts (N, D, h, w) elements, feature (N, h, w) elements, cell (Z, Y, X) cells, each in that order.
        """
        m = self.manifest
        points = self.points(rig)
        whole = np.floor if m.rounding == "floor" else np.trunc
        inside, places = True, []
        for axis, count in zip("zyx", m.bev_shape, strict=True):
            low, _, size = m.grid[axis]
            at = whole((points[:, "xyz".index(axis)] - np.float32(low)) / np.float32(size)).reshape(-1)
            inside = inside & (at >= 0) & (at < count)
            places.append(at)
        depth = np.flatnonzero(inside)
        cell = np.zeros(len(depth), np.int64)
        for at, count in zip(places, m.bev_shape, strict=True):
            cell = cell * count + at[depth].astype(np.int64)
        key = cell.astype(np.uint16) if np.prod(m.bev_shape) <= 1 << 16 else cell  # 16 bits: a radix sort
        order = np.argsort(key, kind="stable")
        depth, cell = depth[order], cell[order]
        pixels = int(np.prod(m.feature_size))
        feature = depth // (m.num_bins * pixels) * pixels + depth % pixels
        return PoolIndex(depth, feature, cell)

    def without(self, index: PoolIndex, cameras: list[int]) -> PoolIndex:
        """The index with every point of the given cameras (positions in the rig) dropped."""
        seen = ~np.isin(index.feature // np.prod(self.manifest.feature_size), cameras)
        return PoolIndex(*(np.ascontiguousarray(column[seen]) for column in index))


def camera_vector(rig: Rig) -> np.ndarray:
    """(1, N, 27) float32: fx, fy, cx, cy; a00, a01, tx, a10, a11, ty of img_aug; b00, b01, b10, b11, b22 of the
    identity BEV augmentation; cam2lidar 3x4 row by row."""
    k, a = rig.cam2img, rig.img_aug
    n = len(rig.cameras)
    parts = [
        np.stack([k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2]], 1),
        a[:, :2].reshape(n, 6),
        np.tile([1.0, 0.0, 0.0, 1.0, 1.0], (n, 1)),
        rig.cam2lidar[:, :3].reshape(n, 12),
    ]
    return np.concatenate(parts, 1)[None].astype(np.float32)


def check_pose(a2b: np.ndarray, name: str, tolerance: float = 1e-3) -> np.ndarray:
    """The pose as float64 (4, 4). Raises PoseError unless it is a finite rigid transform."""
    try:
        pose = np.array(a2b, np.float64)
    except (TypeError, ValueError):
        raise PoseError(f"{name} is not an array of numbers: give a 4x4 rigid transform in metres") from None
    if pose.shape != (4, 4):
        raise PoseError(f"{name} wants (4, 4), got {pose.shape}: give a rigid transform in metres")
    if not np.isfinite(pose).all():
        raise PoseError(
            f"{name} holds NaN or infinity: hold the frame back until localisation is valid, or call reset()"
        )
    rotation = pose[:3, :3]
    error = max(np.abs(rotation @ rotation.T - np.eye(3)).max(), np.abs(pose[3] - (0, 0, 0, 1)).max())
    if error > tolerance or np.linalg.det(rotation) < 0:
        raise PoseError(
            f"{name} is no rigid transform (off by {error:.2g}): the rotation must be orthonormal, last row 0 0 0 1"
        )
    return pose


def cur2past(current2global: np.ndarray, past2global: np.ndarray) -> np.ndarray:
    """(3, 3) float64 planar transform from the current `bev` frame to a past one, in metres: the x, y, 1 part of
    inv(past2global) @ current2global, composed in float64 because global coordinates are kilometres."""
    rotation, shift = past2global[:3, :3], past2global[:3, 3]
    relative = np.eye(4)
    relative[:3, :3] = rotation.T @ current2global[:3, :3]
    relative[:3, 3] = rotation.T @ (current2global[:3, 3] - shift)
    return relative[np.ix_((0, 1, 3), (0, 1, 3))]


class PoseHistory:
    """The poses of the K maps that the network's history holds, newest first.

    After a reset the network fills its history with copies of the current map, so all K poses are the current one.
    """

    def __init__(self, length: int):
        self.length = length
        self._poses: deque[np.ndarray] = deque(maxlen=length)

    def reset(self) -> None:
        self._poses.clear()

    @property
    def empty(self) -> bool:
        """True where the next frame starts a sequence."""
        return not self._poses

    def transforms(self, bev2global: np.ndarray) -> np.ndarray:
        """(1, K, 3, 3) float32 cur2past for the frame at bev2global; the identity at a sequence start."""
        if self.empty:
            return np.tile(np.eye(3, dtype=np.float32), (1, self.length, 1, 1))
        return np.stack([cur2past(bev2global, past) for past in self._poses])[None].astype(np.float32)

    def push(self, bev2global: np.ndarray) -> None:
        """Record a frame that went through the network."""
        for _ in range(self.length if self.empty else 1):
            self._poses.appendleft(np.array(bev2global, np.float64))


def cam2lidar_at(cam2ego: np.ndarray, ego2global_camera: np.ndarray, lidar2global: np.ndarray) -> np.ndarray:
    """cam2lidar (4, 4) with the ego's motion between a camera's exposure and the frame: the ego pose of the exposure,
    the LiDAR pose of the frame."""
    return np.linalg.inv(lidar2global) @ ego2global_camera @ cam2ego
