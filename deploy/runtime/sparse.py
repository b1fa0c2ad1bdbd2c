"""Tables of occupied voxels for one cloud, in numpy: what the exported completion graphs take beside their features.

The same order and numbers as the training code's tables: voxels round(xyz / voxel) sorted by a packed key, cells of two
voxels a side from level to level, 27 neighbours in the order of x, then y, then z from -1 to 1, V where there is none.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from .errors import InputError

BITS = 16
HALF = 1 << (BITS - 1)
OFFSETS = tuple(product((-1, 0, 1), repeat=3))
CENTRE = OFFSETS.index((0, 0, 0))
CHUNK = 2048  # rows of a distance matrix


@dataclass(frozen=True)
class VoxelLevel:
    """coords (V, 3); neighbours (V, 27); child (8 V of the next level,) and place (V,), both flat; none on the last."""

    coords: np.ndarray
    neighbours: np.ndarray
    child: np.ndarray | None = None
    place: np.ndarray | None = None


@dataclass(frozen=True)
class VoxelTables:
    """levels of stride 1, 2, 4, ...; point2voxel (P,)."""

    levels: list[VoxelLevel]
    point2voxel: np.ndarray


def pack(coords: np.ndarray) -> np.ndarray:
    """(V,) int64 keys of voxels (V, 3). Raises InputError when the cloud is too wide for its voxels."""
    if len(coords) and (coords.min() <= -HALF or coords.max() >= HALF - 1):
        raise InputError(f"voxels from {coords.min()} to {coords.max()}, wanted within +-{HALF - 2}: crop the points")
    x, y, z = (coords + HALF).T
    return ((x << BITS) | y) << BITS | z


def unpack(keys: np.ndarray) -> np.ndarray:
    """(V, 3)."""
    mask = (1 << BITS) - 1
    return np.stack([keys >> 2 * BITS & mask, keys >> BITS & mask, keys & mask], -1) - HALF


def neighbours(keys: np.ndarray) -> np.ndarray:
    """(V, 27) of sorted keys (V,)."""
    V = len(keys)
    found = np.full((len(OFFSETS), V), V, np.int64)
    own = found[CENTRE] = np.arange(V)
    steps = np.array([((x << BITS) + y << BITS) + z for x, y, z in OFFSETS[CENTRE + 1 :]])
    wanted = keys + steps[:, None]
    at = np.searchsorted(keys, wanted).clip(max=V - 1)
    hit = keys[at] == wanted
    for k in range(len(steps)):
        here, there = own[hit[k]], at[k][hit[k]]
        found[CENTRE + 1 + k, here] = there
        found[CENTRE - 1 - k, there] = here
    return np.ascontiguousarray(found.T)


def build_tables(points: np.ndarray, voxel: float, levels: int) -> VoxelTables:
    """Tables of points (P, 3) in metres. Raises InputError for an empty cloud, and for points that are not finite."""
    if not len(points):
        raise InputError("the cloud has no points")
    if not np.isfinite(points).all():
        raise InputError(f"{int((~np.isfinite(points)).any(1).sum())} points are not finite: remove them first")
    # float32, and halves to even, as the training code rounds
    cells = np.round(points.astype(np.float32) / np.float32(voxel)).astype(np.int64)
    keys, point2voxel = np.unique(pack(cells), return_inverse=True)
    made = []
    for l in range(levels):
        coords, near = unpack(keys), neighbours(keys)
        if l + 1 == levels:
            made.append(VoxelLevel(coords, near))
            break
        upper, parent = np.unique(pack(coords >> 1), return_inverse=True)
        place = parent.reshape(-1) * 8 + (coords & 1) @ np.array([4, 2, 1])
        child = np.full(8 * len(upper), len(keys), np.int64)
        child[place] = np.arange(len(keys))
        made.append(VoxelLevel(coords, near, child, place))
        keys = upper
    return VoxelTables(made, point2voxel.reshape(-1))


def voxel_mean(features: np.ndarray, point2voxel: np.ndarray, voxels: int) -> np.ndarray:
    """(P, C) -> (V, C) float32: mean of the points of every voxel."""
    total = np.stack([np.bincount(point2voxel, column, voxels) for column in features.T], -1)
    return (total / np.bincount(point2voxel, minlength=voxels)[:, None]).astype(np.float32)


def match(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(V,) row of the nearest of reference (R, 3) to each of query (V, 3), both in voxels (integers or halves)."""
    found = np.empty(len(query), np.int64)
    for first in range(0, len(query), CHUNK):
        part = query[first : first + CHUNK].astype(np.float32)
        distance = ((part[:, None] - reference[None].astype(np.float32)) ** 2).sum(-1)
        found[first : first + CHUNK] = distance.argmin(1)
    return found
