import math

import pytest
import torch

from common.diffusion.process import (
    Process,
    discrete_vp,
    edm,
    local,
    rectified_flow,
    vp_continuous,
    vp_cosine,
    vp_linear,
)

PROCESSES = {
    "cosine": vp_cosine(100),
    "linear": vp_linear(1000),
    "continuous": vp_continuous(),
    "flow": rectified_flow(),
    "edm": edm(),
    "local": local(vp_linear(1000)),
}


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", PROCESSES)
def test_level_0_is_data_and_noise_grows_with_the_level(name):
    process: Process = PROCESSES[name]
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert process.sigma(t)[0] == 0 and process.alpha(t)[0] == 1
    assert (process.log_snr(t)[1:].diff() < 0).all()


@pytest.mark.parametrize("name", ["cosine", "linear", "continuous"])
def test_variance_preserving_processes_keep_unit_variance(name):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(PROCESSES[name].alpha(t) ** 2 + PROCESSES[name].sigma(t) ** 2, torch.ones_like(t))


def test_the_squared_cosine_table_of_100_steps_is_diffusion_policys():
    # cumulative products at the 0-based indices 0, 10, 25, 49, 75, 98, 99
    index = double(0, 10, 25, 49, 75, 98, 99)
    abar = PROCESSES["cosine"].alpha((index + 1) / 100) ** 2
    torch.testing.assert_close(abar, double(0.99937, 0.9667, 0.8356, 0.4938, 0.1335, 2.4e-4, 2.4e-7), rtol=2e-2, atol=0)
    torch.testing.assert_close(abar[:4], double(0.99937, 0.9667, 0.8356, 0.4938), rtol=0, atol=5e-5)


def test_the_squared_cosine_table_is_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for steps in (50, 100, 1000):
        theirs = diffusers.DDPMScheduler(num_train_timesteps=steps, beta_schedule="squaredcos_cap_v2").alphas_cumprod
        levels = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        torch.testing.assert_close(vp_cosine(steps).alpha(levels) ** 2, theirs.double(), rtol=0, atol=1e-6)


def test_the_linear_table_is_the_product_of_one_minus_beta():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha = PROCESSES["linear"].alpha(torch.arange(1001, dtype=torch.float64) / 1000)
    torch.testing.assert_close(alpha[1:] ** 2, (1 - betas).cumprod(0))


def test_the_smallest_noise_of_a_table_keeps_its_digits():
    process = discrete_vp(double(1e-12, 0.5))
    assert process.sigma(double(0.5)).item() == pytest.approx(1e-6, rel=1e-9)


def test_edms_even_levels_are_its_published_time_steps():
    n = 18  # arXiv 2206.00364, eq. 5: i = 0 is sigma_max, i = n - 1 sigma_min
    i = torch.arange(n, dtype=torch.float64)
    published = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    levels = 1 - i / (n - 1)
    levels[-1] = 1e-12  # level 0 itself is data, sigma_min its limit
    torch.testing.assert_close(PROCESSES["edm"].sigma(levels), published)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_jump_with_the_true_x0_lands_on_the_same_noise_at_the_new_level(name):
    process = PROCESSES[name]
    x0, eps = torch.randn(2, 5, 8, 2, dtype=torch.float64)
    t, s = torch.rand(2, 5, 8, 1, dtype=torch.float64).sort(0, descending=True).values.clamp_min(0.02)
    torch.testing.assert_close(process.step(process.noise(x0, t, eps), t, s, x0), process.noise(x0, s, eps))


def test_positions_that_do_not_move_keep_their_value_bit_for_bit():
    process = PROCESSES["cosine"]
    x, x0, z = torch.randn(3, 4, 3, 2)
    t = torch.tensor([0.5, 0.2, 0.0])[:, None]
    s = torch.tensor([0.4, 0.2, 0.0])[:, None]
    out = process.step(x, t, s, x0, 0.7, z)
    assert torch.equal(out[:, 1:], x[:, 1:]) and not torch.equal(out[:, 0], x[:, 0])


def test_the_ancestral_step_has_ddpms_posterior_mean_and_variance():
    process, N = PROCESSES["cosine"], 100
    k = 37
    betas = 1 - (process.alpha(double(k / N)) / process.alpha(double((k - 1) / N))) ** 2
    abar, before = (process.alpha(double(j / N)) ** 2 for j in (k, k - 1))
    x, x0, z = double(0.3), double(-0.8), double(1.7)
    mean = before.sqrt() * betas / (1 - abar) * x0 + (1 - betas).sqrt() * (1 - before) / (1 - abar) * x
    variance = (1 - before) / (1 - abar) * betas
    t, s = double(k / N), double((k - 1) / N)
    torch.testing.assert_close(process.step(x, t, s, x0, process.ancestral_gamma(t, s), z), mean + variance.sqrt() * z)


def test_noise_drawn_anew_keeps_the_marginal_for_every_gamma():
    process, t, s = PROCESSES["flow"], double(0.8), double(0.3)
    g = torch.Generator().manual_seed(0)
    x0, eps, z = torch.randn(3, 200_000, dtype=torch.float64, generator=g)
    for gamma in (0.0, 0.5, 1.0):
        out = process.step(process.noise(x0, t, eps), t, s, x0, gamma, z)
        noise = out - process.alpha(s) * x0
        assert noise.std().item() == pytest.approx(0.3, rel=0.01)  # 200,000 draws: 0.2 %
        correlation = torch.corrcoef(torch.stack([noise, eps]))[0, 1].item()
        assert correlation == pytest.approx(math.sqrt(1 - gamma**2), abs=0.01)


def test_sampling_levels_are_trailing_or_leading_and_impossible_ones_are_refused():
    torch.testing.assert_close(vp_cosine(100).levels(4), double(1, 0.75, 0.5, 0.25, 0))
    torch.testing.assert_close(vp_cosine(100).levels(4, "leading"), double(0.76, 0.51, 0.26, 0.01, 0))
    with pytest.raises(ValueError, match="101 sampling steps of a process with 100"):
        vp_cosine(100).levels(101)
    with pytest.raises(ValueError, match="leading needs a discrete"):
        rectified_flow().levels(4, "leading")
