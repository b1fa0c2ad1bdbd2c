"""The BEV grid and the depth bins: the only home of their ranges. Everything else asks these two objects."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from common.errors import ConfigError

Axis = tuple[float, float, float]


class _Buildable:
    @classmethod
    def build(cls, config):
        """The object of a config dictionary (its `type` is ignored); an object passes through."""
        if isinstance(config, cls):
            return config
        try:
            return cls(**{key: value for key, value in config.items() if key != "type"})
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from error


def _count(name: str, low: float, high: float, cell: float) -> int:
    n = (high - low) / cell
    if n < 0.5 or abs(n - round(n)) > 1e-6:
        raise ConfigError(
            f"{name}: {high - low:g} is {n:g} cells of {cell:g}; set high to {low + max(1, round(n)) * cell:g}"
        )
    return round(n)


@dataclass(frozen=True, kw_only=True)
class GridSpec(_Buildable):
    """BEV grid in the `bev` frame; each axis is (low, high, cell) in metres. By default z is one slab."""

    x: Axis
    y: Axis
    z: Axis = (-5.0, 3.0, 8.0)

    def __post_init__(self):
        for name in "xyz":
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
            _count(f"grid.{name}", *getattr(self, name))

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X), the layout of a volume."""
        return tuple(_count(f"grid.{name}", *getattr(self, name)) for name in "zyx")

    def cells(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Cell indices of points (..., 3): (..., 3) int64 in the order (z, y, x), and (...,) bool, True inside.

        Floor, not truncation: a point just below the low edge is outside.
        """
        low = points.new_tensor([self.x[0], self.y[0], self.z[0]])
        size = points.new_tensor([self.x[2], self.y[2], self.z[2]])
        index = torch.floor((points - low) / size).long().flip(-1)
        inside = ((index >= 0) & (index < index.new_tensor(self.shape))).all(-1)
        return index, inside

    def index2metre(self) -> Tensor:
        """(3, 3) float64: BEV index (x, y, 1) to metres of the cell's centre."""
        (x, _, dx), (y, _, dy) = self.x, self.y
        return torch.tensor([[dx, 0, x + dx / 2], [0, dy, y + dy / 2], [0, 0, 1]], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class DepthBins(_Buildable):
    """Depth bins along the camera's z axis, in metres: bin k covers [low + k*step, low + (k+1)*step)."""

    low: float = 1.0
    high: float = 60.0
    step: float = 0.5

    def __post_init__(self):
        _count("depth_bins", self.low, self.high, self.step)

    @cached_property
    def count(self) -> int:
        return _count("depth_bins", self.low, self.high, self.step)

    def edges(self, device=None, dtype=torch.float32) -> Tensor:
        """(D,) lower edge of every bin."""
        return self.low + self.step * torch.arange(self.count, device=device, dtype=dtype)
