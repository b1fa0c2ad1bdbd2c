"""Embeddings of noise levels."""

import math

import torch
from torch import Tensor, nn

from common.nn.mish import Mish


def sinusoid(value: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """(...,) -> (..., width): sines, then cosines, of value * longest^(-i / (width/2 - 1)) (Attention Is All You Need,
    as in Diffusion Policy's code)."""
    half = width // 2
    index = torch.arange(half, device=value.device, dtype=value.dtype)
    frequency = torch.exp(index * -(math.log(longest) / (half - 1)))
    angle = value[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)


class LevelEmbedding(nn.Module):
    """Noise level to feature, by sinusoid, linear (4x), Mish, linear: (B, T, 1) or (B, 1, 1) -> (B, T or 1, width).

    Args: width; scale: the sinusoid's argument is level * scale - 1: with the steps N of a discrete process that is the
        0-based index of the published tables, and -1 for a clean position.
        positions: T of the joint form, which concatenates the sinusoids of all positions into one global feature
        (B, 1, width) (Streaming Diffusion Policy's network); None embeds every position by itself.
    """

    def __init__(self, width: int, scale: float = 100.0, positions: int | None = None):
        super().__init__()
        self.width, self.scale, self.positions = width, scale, positions
        self.mlp = nn.Sequential(nn.Linear(width * (positions or 1), 4 * width), Mish(), nn.Linear(4 * width, width))

    def forward(self, t: Tensor) -> Tensor:
        feature = sinusoid(t[..., 0] * self.scale - 1, self.width)
        if self.positions:
            feature = feature.expand(-1, self.positions, -1).flatten(1).unsqueeze(1)
        return self.mlp(feature.to(self.mlp[0].weight.dtype))
