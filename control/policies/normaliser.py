"""Data ranges as part of the model: every dimension to [-1, 1] and back."""

import torch
from torch import Tensor, nn

from common.errors import DataError

FLAT = 1e-4  # a dimension with a smaller range is only shifted to 0


class MinMaxNormaliser(nn.Module):
    """x -> 2 (x - low) / (high - low) - 1 per dimension of the last axis; constant dimensions become 0 and come back.

    Diffusion Policy's choice for what a clipped sampler produces: with mean and spread a part of the action range could
    not be reached. The ranges are buffers, so they are in every checkpoint.
    """

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("low", torch.full((width,), torch.nan))
        self.register_buffer("high", torch.full((width,), torch.nan))

    def fit(self, values: Tensor) -> None:
        """Take the ranges of (..., width). Raises DataError if there are none or they are not finite."""
        values = values.reshape(-1, len(self.low)).to(self.low)
        if not len(values) or not torch.isfinite(values).all():
            raise DataError("normaliser: the data are empty or not finite; collect or export them again")
        self.low.copy_(values.amin(0))
        self.high.copy_(values.amax(0))

    def check(self) -> None:
        """Raises DataError while the ranges are missing: a model without them would act on NaN."""
        if torch.isnan(self.low).any():
            raise DataError("normaliser without statistics: train the model, or load a checkpoint that holds them")

    def scale(self) -> tuple[Tensor, Tensor]:
        """Half range and centre; the half range of a flat dimension is 1."""
        half = (self.high - self.low) / 2
        return torch.where(half < FLAT / 2, torch.ones_like(half), half), (self.high + self.low) / 2

    def forward(self, x: Tensor) -> Tensor:
        half, centre = self.scale()
        return (x - centre) / half

    def inverse(self, x: Tensor) -> Tensor:
        half, centre = self.scale()
        flat = (self.high - self.low) < FLAT
        return torch.where(flat, centre, x * half + centre)


class MeanStdNormaliser(nn.Module):
    """x -> (x - mean) / deviation per dimension of the last axis, cut at `most`; a deviation below `floor` counts as
    that: what hardly varies in the data may vary later, and must not be blown up."""

    def __init__(self, width: int, floor: float = 1e-3, most: float = 6.0):
        super().__init__()
        self.floor, self.most = floor, most
        self.register_buffer("mean", torch.full((width,), torch.nan))
        self.register_buffer("spread", torch.full((width,), torch.nan))

    def fit(self, values: Tensor) -> None:
        """Take mean and deviation of (..., width). Raises DataError if there are none or they are not finite."""
        values = values.reshape(-1, len(self.mean)).to(self.mean)
        if not len(values) or not torch.isfinite(values).all():
            raise DataError("normaliser: the data are empty or not finite; collect or export them again")
        self.mean.copy_(values.mean(0))
        self.spread.copy_(values.std(0, unbiased=False).clamp_min(self.floor))

    def check(self) -> None:
        """Raises DataError while the statistics are missing."""
        if torch.isnan(self.mean).any():
            raise DataError("normaliser without statistics: train the model, or load a checkpoint that holds them")

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.spread).clamp(-self.most, self.most)

    def inverse(self, x: Tensor) -> Tensor:
        return x * self.spread + self.mean
