"""Laws of the noise levels that training meets. Each returns (count,) levels in float32, all of them > 0."""

import torch
from torch import Tensor


def uniform(count: int, low: float = 0.0, high: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """U(low, high]; score distillation takes [0.02, 0.98] (arXiv 2311.18828)."""
    return high - (high - low) * torch.rand(count, generator=generator)


def logit_normal(count: int, mean: float, std: float, generator: torch.Generator | None = None) -> Tensor:
    """sigmoid(N(mean, std^2)) (arXiv 2403.03206)."""
    return (mean + std * torch.randn(count, generator=generator)).sigmoid()


def on_grid(count: int, levels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One of the levels (n,), all but the last being places to jump from: (n, ..., 0) as samplers take them."""
    which = torch.randint(len(levels) - 1, (count,), generator=generator)
    return levels[which].float()


def within_segment(t: Tensor, segments: int, generator: torch.Generator | None = None) -> Tensor:
    """Targets s in [floor of t's segment, t), of `segments` equal segments of [0, 1] (TSCD of Hyper-SD, arXiv
    2404.13686). A t on a border belongs to the segment below it."""
    floor = ((t * segments).ceil() - 1).clamp_min(0) / segments
    return floor + (t - floor) * torch.rand(t.shape, generator=generator)
