"""Diffusion-DPO (arXiv 2311.12908, eq. 14): raises a denoiser's fit to preferred samples, lowers it to the others."""

import torch
import torch.nn.functional as F
from torch import Tensor


def margin(winner: Tensor, winner_reference: Tensor, loser: Tensor, loser_reference: Tensor) -> Tensor:
    """(B,) (e_w - e_w,ref) - (e_l - e_l,ref) of denoising errors (B,): below 0 where the model prefers the winner more
    than the reference does. Take the same level and noise for both, which lowers its variance."""
    return (winner - winner_reference.detach()) - (loser - loser_reference.detach())


def diffusion_dpo(margins: Tensor, scale: float) -> Tensor:
    """(B,) -log sigmoid(-scale margin); scale is beta T omega as one number. At the reference it is log 2."""
    return -F.logsigmoid(-scale * margins)


def unit_scale(margins: Tensor) -> float:
    """The scale at which margins (n,), measured a few updates after the start, have standard deviation 1: published
    values of beta belong to the units of pictures."""
    std = margins.detach().std().item()
    if not std > 0:
        raise ValueError("all margins are equal, as they are at the reference itself: measure them after some updates")
    return 1 / std


def denoising_error(x0_hat: Tensor, x0: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """(B,) weighted mean squared error; weight (alpha / sigma)^2 makes it the error of the predicted noise."""
    return (torch.as_tensor(weight) * (x0_hat - x0).square()).flatten(1).mean(1)
