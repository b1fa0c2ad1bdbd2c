"""Sizes of a completion experiment, from a test's to the published one."""

from dataclasses import dataclass

from common.errors import ConfigError
from perception.completion.network import VoxelSpec


@dataclass(frozen=True, kw_only=True)
class Profile:
    """radius, near: points farther and nearer than these metres are dropped; scan_points: of a thinned scan, each
    `copies` times where sampling starts; cube: edge of the cubes that a scan makes visible; voxel of the network and
    its widths; scenes for training and validation; raw: the networks see metres, as published, and not shares of the
    radius, and voxels find the encoder's by their corners."""

    radius: float
    near: float
    scan_points: int
    copies: int
    cube: float
    voxel: float
    down: tuple[int, ...]
    up: tuple[int, ...]
    train_scenes: int
    val_scenes: int
    raw: bool = False

    def __post_init__(self):
        if not 0 <= self.near < self.radius:
            raise ConfigError(f"profile: near={self.near} and radius={self.radius}: wanted 0 <= near < radius")
        if len(self.down) != len(self.up) + 1:
            raise ConfigError(f"profile: widths down={self.down}, up={self.up}: wanted one more on the way down")

    @property
    def scene_points(self) -> int:
        """Points of a complete scene."""
        return self.scan_points * self.copies

    @property
    def spec(self) -> VoxelSpec:
        """Voxels and features of the networks."""
        return VoxelSpec(self.voxel, len(self.down), *((None, "corners") if self.raw else (self.radius,)))


PROFILES = {
    "ci": Profile(radius=8.0, near=1.0, scan_points=200, copies=10, cube=2.0, voxel=0.4, down=(16, 16, 24), up=(24, 16),
                  train_scenes=32, val_scenes=8),
    "cpu_hour": Profile(radius=16.0, near=1.5, scan_points=400, copies=10, cube=3.0, voxel=0.2,
                        down=(16, 16, 24, 32, 48), up=(48, 32, 24, 24), train_scenes=400, val_scenes=64),
    "gpu": Profile(radius=25.0, near=2.0, scan_points=3000, copies=10, cube=5.0, voxel=0.1,
                   down=(16, 16, 32, 64, 128), up=(128, 64, 48, 48), train_scenes=1000, val_scenes=100),
    "published": Profile(radius=50.0, near=3.5, scan_points=18_000, copies=10, cube=10.0, voxel=0.05,
                         down=(32, 32, 64, 128, 256), up=(256, 128, 96, 96), train_scenes=19_130, val_scenes=4071,
                         raw=True),
}  # fmt: skip


def profile_of(name: str | Profile) -> Profile:
    """A profile by its name. Raises ConfigError."""
    if isinstance(name, str) and name not in PROFILES:
        raise ConfigError(f"profile={name!r}: choose one of {', '.join(PROFILES)}")
    return PROFILES[name] if isinstance(name, str) else name
