"""Distillation losses on two tensors."""

import torch
from torch import Tensor


def imitation_loss(student: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """sum of mask^2 (student - target)^2 over everything, divided by the sum of mask (VCD's normalisation).

    Squared in the numerator because both maps are multiplied by the mask (released code), not divided by C; so it is
    linear in the mask's scale, and entries of the batch with an empty mask change nothing.

    Args: student, target (B, C, Y, X); mask (B, 1, Y, X), non-negative.
    Returns: float32 scalar, 0 for an empty mask; the target gets no gradient, the student none where the mask is 0.
    Raises ValueError if the shapes differ.
    """
    if student.shape != target.shape:
        raise ValueError(
            f"teacher is {tuple(target.shape)}, student is {tuple(student.shape)} (B, C, Y, X): give both the "
            "same grid and bev_encoder.out_channels"
        )
    if mask.shape != (student.shape[0], 1, *student.shape[2:]):
        raise ValueError(
            f"mask is {tuple(mask.shape)}, wanted {(student.shape[0], 1, *student.shape[2:])} (B, 1, Y, X)"
        )
    with torch.autocast(student.device.type, enabled=False):
        mask = mask.float() if student.dtype != torch.float64 else mask.double()
        difference = student.to(mask.dtype) - target.detach().to(mask.dtype)
        total = mask.sum()
        return (mask * difference).square().sum() / torch.where(total > 0, total, 1)
