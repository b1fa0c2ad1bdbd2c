"""Clouds in, noise out: the sparse networks of `common/nn/sparse` behind the tables that they need."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.nn.sparse.conv import voxel_mean
from common.nn.sparse.tables import Rows, Tables, match, rows, stacked_tables
from common.nn.sparse.unet3d import DOWN, UP, Refinement, ScanDenoiser, ScanEncoder
from perception.completion.sampling import STEPS

MATCHES = ("centres", "corners")


@dataclass(frozen=True)
class VoxelSpec:
    """How points become voxels and features.

    voxel in metres; levels of the tables; radius: None for the published features, the points' mean in metres; a length
    R for x / R and the points' mean place within their voxel, in voxels (6 numbers). match: voxels find their nearest
    encoder voxel by centres, or by the corners of cells, as released weights were trained.
    """

    voxel: float = 0.05
    levels: int = 5
    radius: float | None = None
    match: str = "centres"

    def __post_init__(self):
        if self.match not in MATCHES:
            raise ConfigError(f"match={self.match!r}: choose one of {', '.join(MATCHES)}")

    @property
    def inputs(self) -> int:
        return 3 if self.radius is None else 6

    def features(self, points: Tensor, tables: Tables) -> Tensor:
        """(V, inputs) of points (B, N, 3)."""
        flat = points.reshape(-1, 3)
        if self.radius is not None:
            cells = flat / self.voxel
            flat = torch.cat([flat / self.radius, cells - cells.round()], 1)
        return voxel_mean(flat, tables.of_points)

    def places(self, tables: Tables, level: int) -> Tensor:
        """(V, 3) what a level's voxels are matched by, in voxels of level 0."""
        if self.match == "centres":
            return tables.centres(level)
        return (tables.levels[level].coords * 2**level).float()


@dataclass(frozen=True)
class Scan:
    """What the encoder says of a batch of scans: features (R, E) of samples (R,), at places (R, 3) in voxels;
    sizes: R by sample."""

    features: Tensor
    sample: Tensor
    places: Tensor
    sizes: list[int]


@dataclass(frozen=True)
class Cloud:
    """Points (B, N, 3) with their tables and voxel features, for as many evaluations as one likes. Gradients do not
    flow to the points: where voxels lie is no differentiable function of them."""

    points: Tensor
    tables: Tables
    features: Tensor
    spec: VoxelSpec
    _matched: list = field(default_factory=list)

    def matches(self, scan: Scan) -> list[Rows]:
        """For every level the row of scan.features nearest to each voxel."""
        for known, found in self._matched:
            if known is scan.places:
                return found
        found = []
        for level, voxels in enumerate(self.tables.levels):
            near = match(self.spec.places(self.tables, level), voxels.sample, scan.places, scan.sizes)
            found.append(rows(near, len(scan.places)))
        self._matched.append((scan.places, found))
        return found


@torch.no_grad()
def cloud(points: Tensor, spec: VoxelSpec) -> Cloud:
    """A `Cloud` of points (B, N, 3). Raises ValueError for points that are not finite or too far away."""
    tables = stacked_tables(points, spec.voxel, spec.levels)
    return Cloud(points, tables, spec.features(points, tables), spec)


class Encoder(nn.Module):
    """Scans (B, n, 3) -> `Scan`."""

    def __init__(self, spec: VoxelSpec, down: Sequence[int] = DOWN, norm: str = "instance"):
        super().__init__()
        if spec.levels != len(down):
            raise ConfigError(f"{spec.levels} levels and {len(down)} widths on the way down: make them the same")
        self.spec, self.net = spec, ScanEncoder(spec.inputs, down, norm)

    def forward(self, points: Tensor) -> Scan:
        seen = cloud(points, self.spec)
        coarse = seen.tables.levels[-1]
        places = self.spec.places(seen.tables, len(seen.tables.levels) - 1)
        return Scan(self.net(seen.features, seen.tables.levels), coarse.sample, places, coarse.sizes)

    def empty(self, samples: int) -> Scan:
        """What is known without a scan: one voxel at the origin for every sample."""
        return self(next(self.parameters()).new_zeros(samples, 1, 3))


class NoisePredictor(nn.Module):
    """Points (B, N, 3) at a level, under a scan -> predicted noise (B, N, 3)."""

    def __init__(
        self, spec: VoxelSpec, down: Sequence[int] = DOWN, up: Sequence[int] = UP, norm: str = "instance",
    ):  # fmt: skip
        super().__init__()
        self.spec, self.net = spec, ScanDenoiser(spec.inputs, down, up, norm)

    def forward(self, x: Tensor | Cloud, t: Tensor, scan: Scan) -> Tensor:
        """t: level (B, 1, 1) or a scalar."""
        x = x if isinstance(x, Cloud) else cloud(x, self.spec)
        B = len(x.points)
        index = (t * STEPS - 1).round().reshape(-1).expand(B)
        tables = x.tables
        noise = self.net(
            x.features, index, scan.features, scan.sample, x.matches(scan), tables.levels, tables.of_points
        )
        return noise.reshape(x.points.shape)


class Refiner(nn.Module):
    """Points (B, N, 3) -> (B, 6 N, 3): six around each, at most 1 m away per axis."""

    def __init__(
        self, spec: VoxelSpec, down: Sequence[int] = DOWN, up: Sequence[int] = UP, norm: str = "instance",
    ):  # fmt: skip
        super().__init__()
        self.spec, self.net = spec, Refinement(spec.inputs, down, up, norm)

    def forward(self, points: Tensor) -> Tensor:
        x = cloud(points, self.spec)
        offsets = self.net(x.features, x.tables.levels, x.tables.of_points)
        return (points.reshape(-1, 1, 3) + offsets).reshape(len(points), -1, 3)
