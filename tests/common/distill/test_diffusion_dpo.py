"""Diffusion-DPO at the reference, its signs, and its scale."""

import math

import pytest
import torch

from common.distill.primitives.diffusion_dpo import denoising_error, diffusion_dpo, margin, unit_scale


def test_at_the_reference_the_loss_is_log_two_whatever_the_scale():
    errors = torch.rand(5), torch.rand(5)
    same = margin(errors[0], errors[0], errors[1], errors[1])
    for scale in (0.1, 5.0):
        torch.testing.assert_close(diffusion_dpo(same, scale), torch.full((5,), math.log(2)))


def test_descent_raises_the_winners_fit_and_lowers_the_losers_and_exchanging_them_flips_it():
    w, l = (torch.rand(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for first, second in ((w, l), (l, w)):
        loss = diffusion_dpo(margin(first, first.detach(), second, second.detach()), 3.0).sum()
        better, worse = torch.autograd.grad(loss, (first, second))
        torch.testing.assert_close(better, torch.full_like(better, 3.0 / 2))  # sigmoid(0) = 1/2
        torch.testing.assert_close(worse, -better)


def test_a_denoiser_moves_towards_the_preferred_sample():
    """A network that predicts one number, between a winner at 1 and a loser at -1."""
    guess = torch.zeros(1, 1, requires_grad=True)
    for _ in range(50):
        errors = [denoising_error(guess, torch.full((1, 1), place)) for place in (1.0, -1.0)]
        loss = diffusion_dpo(margin(errors[0], torch.ones(1), errors[1], torch.ones(1)), 1.0).sum()
        (slope,) = torch.autograd.grad(loss, guess)
        guess = (guess - 0.05 * slope).detach().requires_grad_()
    assert guess.item() > 0.3


def test_the_unit_scale_makes_margins_of_standard_deviation_one():
    margins = 0.02 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert (unit_scale(margins) * margins).std().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="all margins are equal"):
        unit_scale(torch.zeros(5))


def test_the_weighted_error_is_that_of_the_predicted_noise():
    x0, hat, eps, alpha, sigma = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 3), 0.6, 0.8
    x = alpha * x0 + sigma * eps
    expected = ((x - alpha * hat) / sigma - eps).square().mean(1)
    torch.testing.assert_close(denoising_error(hat, x0, (alpha / sigma) ** 2), expected)
