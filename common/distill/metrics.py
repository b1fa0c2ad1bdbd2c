"""Distances between samples, one number each: means over valid entries, so masked ones neither count nor pull."""

import torch
from torch import Tensor

HUBER = 0.00054  # of pseudo-Huber's c = HUBER sqrt(D) (arXiv 2310.14189)


def valid_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) mean of values (B, ...) over a sample's valid entries. mask broadcasts against values, of 0 and 1; a sample
    without any valid entry has 0."""
    if mask is None:
        return values.flatten(1).mean(1)
    mask = mask.to(values).expand_as(values)
    # where, not a product: a masked NaN or infinity must not reach the sum
    total = torch.where(mask > 0, values, torch.zeros_like(values)).flatten(1).sum(1)
    return total / mask.flatten(1).sum(1).clamp_min(1)


def mse(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) mean squared difference."""
    return valid_mean((a - b).square(), mask)


def pseudo_huber(a: Tensor, b: Tensor, mask: Tensor | None = None, c: float = HUBER) -> Tensor:
    """(B,) sqrt(m + c^2) - c with m the mean squared difference: the pseudo-Huber distance sqrt(|u|^2 + c^2 D) -
    c sqrt(D), divided by sqrt(D)."""
    return (mse(a, b, mask) + c**2).sqrt() - c


METRICS = {"mse": mse, "pseudo_huber": pseudo_huber}
