"""The local process, the published schedule, and both samplers with a perfect denoiser."""

import pytest
import torch

from perception.completion.sampling import (
    consistent_levels,
    lidiff_local,
    lidiff_vp,
    released_levels,
    sample_local,
    sample_vp_offset,
    start,
)

TABLE = {  # index: alpha^2, sigma, 1 / alpha, as published
    0: (0.99997, 0.0059, 1.00), 20: (0.99780, 0.0469, 1.00), 50: (0.98938, 0.1031, 1.005),
    125: (0.94239, 0.2400, 1.030), 250: (0.79639, 0.4512, 1.121), 375: (0.60343, 0.6297, 1.287),
    500: (0.40991, 0.7682, 1.562), 624: (0.25072, 0.8656, 1.997), 749: (0.13697, 0.9290, 2.702),
    874: (0.06707, 0.9659, 3.861), 999: (0.02943, 0.9852, 5.829),
}  # fmt: skip


@pytest.mark.parametrize("index", TABLE)
def test_the_schedule_is_the_published_table(index):
    t = torch.tensor((index + 1) / 1000, dtype=torch.float64)
    alpha, sigma = lidiff_vp().alpha(t), lidiff_vp().sigma(t)
    assert (alpha**2).item() == pytest.approx(TABLE[index][0], abs=6e-6)
    assert sigma.item() == pytest.approx(TABLE[index][1], abs=6e-5)
    assert (1 / alpha).item() == pytest.approx(TABLE[index][2], abs=6e-3)
    assert lidiff_local().alpha(t) == 1 and lidiff_local().sigma(t) == sigma


def test_eight_steps_evaluate_at_the_published_indices():
    index = (released_levels(8) * 1000 - 1).round().long().tolist()
    assert index == [999, 874, 749, 624, 500, 375, 250, 125, 0]
    assert (released_levels(1) * 1000 - 1).round().tolist() == [999, 0]
    assert torch.equal(consistent_levels(8)[:-1], released_levels(8)[:-1]) and consistent_levels(8)[-1] == 0
    with pytest.raises(ValueError, match="0 sampling steps: choose 1 to 999"):
        released_levels(0)


def perfect(target):
    return lambda x, t: target.expand_as(x)


@pytest.mark.parametrize(("steps", "published"), [(1, 2.91), (2, 0.78), (4, 0.56), (8, 0.515), (50, 0.498)])
def test_the_released_sampler_overshoots_a_move_of_half_a_metre_and_the_local_one_arrives(steps, published):
    anchor, target = torch.zeros(4000, 3, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    x = start(anchor, lidiff_local(), torch.randn(anchor.shape, dtype=torch.float64, generator=g))
    released = sample_vp_offset(perfect(target), x, steps, anchor, generator=g)
    assert released.mean().item() == pytest.approx(published, abs=0.01)
    for kwargs in (dict(), dict(gamma=0.5, generator=g), dict(eta=1.0, generator=g)):
        found = sample_local(perfect(target), x, steps, **kwargs)
        assert (found - 0.5).abs().max().item() < 0.005


def test_one_released_step_divides_the_whole_estimate_by_alpha():
    """x = anchor + (o - 0.985 eps_hat) / 0.1716 + about 6 mm of noise."""
    anchor, o = torch.zeros(5, 3, dtype=torch.float64), torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)
    eps_hat = torch.full_like(o, 0.3)
    sigma, noise = lidiff_vp().sigma(torch.ones(()).double()), torch.zeros(1, *o.shape, dtype=torch.float64)
    found = sample_vp_offset(lambda x, t: x - sigma * eps_hat, anchor + o, 1, anchor, noise=noise)
    # the end is index 0, not clean: o shrinks by exp(-h) and the estimate fills 1 - exp(-2h) of the rest
    torch.testing.assert_close(found, (o - 0.98518 * eps_hat) / 0.17156, rtol=0, atol=2e-3)


def test_an_exact_denoiser_of_known_points_recovers_them_at_every_number_of_steps():
    g = torch.Generator().manual_seed(1)
    points = torch.randn(2, 50, 3, dtype=torch.float64, generator=g) * 5
    noise = torch.randn(points.shape, dtype=torch.float64, generator=g)
    x = start(points, lidiff_local(), noise)

    def denoise(x, t):  # from the noise that was drawn, as a perfect noise prediction would
        return x - lidiff_local().sigma(t) * ((x - points) / lidiff_local().sigma(t))

    for steps in (1, 3, 8):
        torch.testing.assert_close(sample_local(denoise, x, steps), points, rtol=0, atol=1e-12)
