"""Preference-weighted score distillation: gradients, roles, and the toy in which the paper's form does not distil."""

import numpy as np
import pytest
import torch

from common.diffusion.process import local, vp_linear
from common.distill.primitives.preference import (
    PRESETS,
    anchored,
    as_released,
    contrast_direction,
    first_release,
    paper,
    preference,
    ranked,
    vsd,
)

PROCESS = local(vp_linear(1000, 3.5e-5, 0.007))


def test_presets_are_the_published_coefficients():
    assert vsd() == (0.5, 0.5) and paper(2.0) == (-0.5, 0.5) and first_release() == (1, -1)
    assert anchored(0.25) == (0.25, 0.75) and anchored(0.5) == (0.0, 1.0)
    assert set(PRESETS) == {"vsd", "paper", "anchored", "first_release"}


def test_contrast_descends_towards_what_wins():
    """Winners N(1, 1), losers N(-1, 1), teacher as the fakes' mean, at one noise level: the exact estimates differ by a
    constant, and descent on the gradient goes up by it; with no difference only the teacher is left."""
    y_t = torch.linspace(-3, 3, 7)

    def estimate(mean, sigma=0.5):
        return mean + (y_t - mean) / (1 + sigma**2)

    winner, loser = estimate(1.0), estimate(-1.0)
    same = contrast_direction(estimate(0.0), winner, loser, 2.0)
    torch.testing.assert_close(same, torch.full((7,), 2.0 * (-2 * 0.25 / 1.25)))
    torch.testing.assert_close(contrast_direction(winner, loser, loser, 2.0), loser - winner)


def test_each_score_term_alone_reaches_the_student_and_the_released_product_does_not():
    g = torch.Generator().manual_seed(0)
    z, d = (
        torch.randn(4, 7, 3, dtype=torch.float64, generator=g),
        torch.randn(4, 7, 3, dtype=torch.float64, generator=g),
    )
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y, zero = torch.tanh(weight * z), torch.zeros_like(z)
    expected = (d * z * (1 - torch.tanh(weight * z) ** 2)).mean().item()
    for pair in ((y, zero, d, zero, (1.0, 0.0)), (zero, y, zero, d, (0.0, 1.0))):
        (found,) = torch.autograd.grad(preference(*pair).mean(), weight, retain_graph=True)
        assert found.item() == pytest.approx(expected)
    noised = PROCESS.noise(y, torch.tensor(0.5).double(), torch.randn(z.shape, dtype=torch.float64, generator=g))
    (released,) = torch.autograd.grad(as_released(y, noised, d).mean(), weight)
    assert released.item() == 0.0


def test_the_better_sample_wins_whichever_comes_first():
    first, second = torch.zeros(3, 4, 2), torch.ones(3, 4, 2)
    worse, other = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([2.0, 1.0, 2.0])
    winner, loser, won = ranked(first, second, worse, other)
    assert won.tolist() == [True, False, True]
    assert winner[:, 0, 0].tolist() == [0, 1, 0] and loser[:, 0, 0].tolist() == [1, 0, 1]
    swapped = ranked(second[:2], first[:2], other[:2], worse[:2])
    assert torch.equal(swapped[0], winner[:2]) and torch.equal(swapped[1], loser[:2])
    with pytest.raises(ValueError, match="both samples of the pair are identical"):
        ranked(first, first, worse, other)


def distance(points, reference):
    """Mean distance of sorted numbers to the nearest of other sorted numbers."""
    at = np.searchsorted(reference, points)
    return np.minimum(abs(points - reference[at - 1]), abs(points - reference[at % len(reference)])).mean()


def chamfer(cloud, truth):
    a, b = np.sort(cloud.detach().numpy()), np.sort(truth.numpy())
    return torch.tensor([(distance(a, b) + distance(b, a)) / 2])


def play(coefficients, a, mu, steps=1500, rate=0.02, seed=0):
    """The student N(mu, a^2) of 256 points against N(0, 1) with ideal denoisers: a pair shares its noise, scaled by 1
    and by 1.1; the winner is nearer to a cloud of the truth. Plain gradient descent."""
    g = torch.Generator().manual_seed(seed)
    theta = torch.tensor([a, mu], dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        z, truth, eps = torch.randn(3, 256, dtype=torch.float64, generator=g)
        sigma = PROCESS.sigma(torch.randint(20, 980, (1,), generator=g) / 1000).double()
        pair = [theta[1] + theta[0] * k * z for k in (1.0, 1.1)]
        winner, loser, won = ranked(pair[0][None], pair[1][None], *(chamfer(one, truth) for one in pair))
        scales = (1.0, 1.1) if won else (1.1, 1.0)
        gradients = []
        for y, k in zip((winner, loser), scales, strict=True):
            x, (now, there) = (y + sigma * eps).detach(), theta.detach()
            gradients.append(sigma * (x / (1 + sigma**2) - (x - there) / ((now * k) ** 2 + sigma**2)))
        loss = preference(winner, loser, *gradients, coefficients).sum()
        (slope,) = torch.autograd.grad(loss, theta)
        theta = (theta - rate * slope).detach().clamp(-6, 6).requires_grad_()
    return theta.tolist()


@pytest.mark.parametrize("a", [1.6, 0.5])
@pytest.mark.parametrize("coefficients", [vsd(), anchored(0.25), anchored(0.5)], ids=["vsd", "anchored", "losers"])
def test_with_an_anchor_the_bias_goes_and_the_spread_settles(coefficients, a):
    found, mu = play(coefficients, a, 1.0)
    assert abs(mu) < 0.05 and found == pytest.approx(0.948, abs=0.01)  # 1 / 1.05 for equal weights


def test_the_papers_form_steers_a_wide_spread_and_never_removes_the_bias():
    found, mu = play(paper(), 1.6, 1.0)
    assert found == pytest.approx(0.97, abs=0.03) and mu > 0.95


def test_the_papers_form_lets_a_narrow_spread_collapse():
    """The better scene is the wider one, yet at high noise the wider scene's pathwise gradient is the larger, and it
    points outwards: subtracted, it narrows."""
    found, mu = play(paper(), 0.5, 1.0)
    assert found < 0.1 and mu > 0.95


def test_the_first_releases_sign_diverges():
    assert play(first_release(), 1.6, 1.0)[0] == 6
