"""Which voxels are occupied, and who their neighbours are: integers only, built outside the network.

Level 0 holds the voxels round(xyz / voxel); level l + 1 the cells of 2 x 2 x 2 voxels of level l (stride 2). Voxels are
sorted by a packed key (sample, x, y, z), so those of a sample are contiguous. Letters: P points of all samples, V
voxels of a level; the 27 kernel offsets are in the order of x, then y, then z from -1 to 1.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor

BITS = 16  # per axis of a packed key
HALF = 1 << (BITS - 1)
CHUNK = 8192  # rows of a distance matrix
OFFSETS = tuple(product((-1, 0, 1), repeat=3))
CENTRE = OFFSETS.index((0, 0, 0))


def pack(coords: Tensor, sample: Tensor) -> Tensor:
    """(V,) int64 keys of integer voxels (V, 3) of samples (V,), in the order (sample, x, y, z).

    Raises: ValueError when a coordinate does not fit 16 bits: the cloud is too wide for its voxels, or not finite.
    """
    if len(coords) and (coords.min() <= -HALF or coords.max() >= HALF - 1):
        raise ValueError(
            f"voxel coordinates from {coords.min().item()} to {coords.max().item()}, wanted within +-{HALF - 2}: crop "
            "the points, or take larger voxels"
        )
    x, y, z = (coords + HALF).unbind(-1)
    return ((sample << BITS | x) << BITS | y) << BITS | z


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates (V, 3) and samples (V,) of keys."""
    mask = (1 << BITS) - 1
    coords = torch.stack([keys >> 2 * BITS & mask, keys >> BITS & mask, keys & mask], -1) - HALF
    return coords, keys >> 3 * BITS


@dataclass(frozen=True)
class Rows:
    """Rows to gather, and the way back: index (M,) of count rows; order[start[i] : start[i + 1]] are the positions of
    index that name row i."""

    index: Tensor
    order: Tensor
    start: Tensor


def rows(index: Tensor, count: int) -> Rows:
    """`Rows` of an index (M,) into count rows."""
    start = torch.zeros(count + 1, dtype=torch.long, device=index.device)
    torch.cumsum(torch.bincount(index, minlength=count), 0, out=start[1:])
    return Rows(index, index.argsort(stable=True), start)


@dataclass(frozen=True)
class Pairs:
    """The occupied part of a neighbour table as lists, offset by offset, without the centre, whose product needs no
    gather. source, target: rows that a product reads and adds to; sizes: how many of the pairs each offset has."""

    source: Rows
    target: Rows
    sizes: list[int]


@dataclass(frozen=True)
class Level:
    """Occupied voxels of one stride.

    keys (V,); samples: number of samples; neighbours (V, 27) rows of the same level, V where there is none; parent (V,)
    rows of the next level, octant (V,) 0..7 within it, child (V of the next level, 8) rows of this one, V where there
    is none; the last level has no parents.
    """

    keys: Tensor
    samples: int
    neighbours: Tensor
    parent: Tensor | None = None
    octant: Tensor | None = None
    child: Tensor | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def coords(self) -> Tensor:
        """(V, 3) integer coordinates."""
        return unpack(self.keys)[0]

    @cached_property
    def sizes(self) -> list[int]:
        """Voxels of every sample; they are contiguous."""
        return torch.bincount(self.keys >> 3 * BITS, minlength=self.samples).tolist()

    @cached_property
    def sample(self) -> Tensor:
        """(V,) index of the sample."""
        return self.keys >> 3 * BITS

    @cached_property
    def pairs(self) -> Pairs:
        """Neighbours as lists."""
        others = self.neighbours.T.clone()
        others[CENTRE] = len(self)
        offset, target = (others < len(self)).nonzero(as_tuple=True)
        sizes = torch.bincount(offset, minlength=len(OFFSETS)).tolist()
        return Pairs(rows(others[offset, target], len(self)), rows(target, len(self)), sizes)

    @cached_property
    def place(self) -> Tensor:
        """(V,) of every voxel in the next level's 8 V children."""
        return self.parent * 8 + self.octant


@dataclass(frozen=True)
class Tables:
    """levels[l] of stride 2^l; point2voxel (P,) row of level 0 of every point; sample (P,) of the points."""

    levels: list[Level]
    point2voxel: Tensor
    sample: Tensor
    voxel: float

    @cached_property
    def of_points(self) -> Rows:
        """Level 0's row of every point."""
        return rows(self.point2voxel, len(self.levels[0]))

    def centres(self, level: int) -> Tensor:
        """(V, 3) centres of a level's voxels, in voxels of level 0, whose own are at whole numbers."""
        return (self.levels[level].coords + 0.5) * 2**level - 0.5


def search(keys: Tensor, wanted: Tensor) -> Tensor:
    """Where each of wanted would stand among the sorted keys. On a CPU by numpy, which is four times as quick where
    what is wanted is sorted too."""
    if keys.device.type == "cpu":
        return torch.from_numpy(np.searchsorted(keys.numpy(), wanted.numpy()))
    return torch.searchsorted(keys, wanted)


def neighbours(keys: Tensor) -> Tensor:
    """(V, 27) rows of the neighbours of sorted keys (V,), V where there is none: 13 look-ups, the others mirrored."""
    V = len(keys)
    found = torch.full((len(OFFSETS), V), V, dtype=torch.long, device=keys.device)
    own = torch.arange(V, device=keys.device)
    found[CENTRE] = own
    steps = torch.tensor([((x << BITS) + y << BITS) + z for x, y, z in OFFSETS[CENTRE + 1 :]], device=keys.device)
    wanted = keys + steps[:, None]
    at = search(keys, wanted).clamp_max_(V - 1)
    hit = keys[at] == wanted
    for k in range(len(steps)):
        here, there = own[hit[k]], at[k][hit[k]]
        found[CENTRE + 1 + k, here] = there
        found[CENTRE - 1 - k, there] = here
    return found.T.contiguous()


def build_tables(points: Tensor, sample: Tensor, samples: int, voxel: float, levels: int) -> Tables:
    """Tables of points (P, 3) in metres that belong to samples (P,) of 0..samples-1.

    Raises: ValueError for points that are not finite or too far away, and for a sample without points.
    """
    if not torch.isfinite(points).all():
        raise ValueError(f"{int((~torch.isfinite(points)).any(-1).sum())} points are not finite: remove them first")
    counts = torch.bincount(sample, minlength=samples)
    if len(counts) > samples or (counts == 0).any():
        raise ValueError(f"points per sample are {counts.tolist()}, wanted at least one in each of {samples} samples")
    keys, point2voxel = torch.unique(pack((points / voxel).round().long(), sample), return_inverse=True)
    made = []
    for l in range(levels):
        parent = octant = child = upper = None
        if l + 1 < levels:
            coords, of = unpack(keys)
            upper, parent = torch.unique(pack(coords >> 1, of), return_inverse=True)
            octant = ((coords & 1) * torch.tensor([4, 2, 1], device=keys.device)).sum(-1)
            child = torch.full((len(upper), 8), len(keys), dtype=torch.long, device=keys.device)
            child[parent, octant] = torch.arange(len(keys), device=keys.device)
        made.append(Level(keys, samples, neighbours(keys), parent, octant, child))
        keys = upper
    return Tables(made, point2voxel, sample, voxel)


def stacked_tables(points: Tensor, voxel: float, levels: int) -> Tables:
    """Tables of clouds of equal size (B, N, 3); the points are taken sample by sample."""
    B, N, _ = points.shape
    sample = torch.arange(B, device=points.device).repeat_interleave(N)
    return build_tables(points.reshape(-1, 3), sample, B, voxel, levels)


def match(query: Tensor, query_sample: Tensor, reference: Tensor, reference_sizes: list[int]) -> Tensor:
    """(V,) row of the nearest of reference (R, 3) within the same sample, for query (V, 3) of samples (V,), both sorted
    by sample; the first of several that are equally near. Give both in voxels: whole and half numbers are exact."""
    found, first = [], 0
    counts = torch.bincount(query_sample, minlength=len(reference_sizes)).tolist()
    for part, size in zip(query.split(counts), reference_sizes, strict=True):
        own = reference[first : first + size]
        rows = [
            torch.cdist(some, own, compute_mode="donot_use_mm_for_euclid_dist").argmin(1) for some in part.split(8192)
        ]
        found.append(torch.cat(rows) + first if rows else part.new_zeros(0, dtype=torch.long))
        first += size
    return torch.cat(found)
