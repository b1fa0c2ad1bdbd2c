"""Every sampler against the exact flow map of a 1-D mixture, and against diffusers where that is installed."""

import pytest
import torch

from common.diffusion.analytic import Mixture1D, gaussian_flow_map
from common.diffusion.denoiser import Denoiser
from common.diffusion.process import rectified_flow, vp_continuous, vp_cosine, vp_linear
from common.diffusion.samplers import ddim, ddpm, dpm_solver_pp, gamma_chain

TOY = Mixture1D(*torch.tensor([[0.3, 0.7], [-1.5, 1.0], [0.3, 0.5]], dtype=torch.float64))


def equiprobable(count):
    """Midpoint quantiles of N(0, 1)."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)


def test_the_quantile_flow_map_is_the_published_oracle():
    z = torch.tensor([-1.3, -0.4, 0.2, 1.1], dtype=torch.float64)
    one, zero = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    expected = torch.tensor([-1.6380752, 0.2377152, 0.8719573, 1.4319732], dtype=torch.float64)
    torch.testing.assert_close(TOY.flow_map(rectified_flow(), z, one, zero), expected, rtol=0, atol=1e-7)


def test_the_flow_map_composes_and_inverts_far_into_the_tails():
    process = vp_continuous()
    u = [torch.tensor(v, dtype=torch.float64) for v in (0.0, 0.4, 0.9)]
    x = torch.tensor([-9.0, -1.5, 0.2, 8.0], dtype=torch.float64)
    there = TOY.flow_map(process, x, u[0], u[2])
    torch.testing.assert_close(TOY.flow_map(process, TOY.flow_map(process, x, u[0], u[1]), u[1], u[2]), there)
    torch.testing.assert_close(TOY.flow_map(process, there, u[2], u[0]), x)


def test_ddim_on_the_rectified_flow_is_eulers_method_with_its_published_errors():
    process, z = rectified_flow(), equiprobable(4000)
    exact = TOY.flow_map(process, z, torch.tensor(1.0).double(), torch.tensor(0.0).double())
    for steps, published in {1: 1.070, 2: 0.453, 4: 0.237, 8: 0.119, 16: 0.0604, 32: 0.0304}.items():
        x = ddim(TOY.denoise(process), process, z, process.levels(steps))
        assert (x - exact).abs().mean().item() == pytest.approx(published, rel=6e-3), steps


def error(sampler, process, steps, start=0.98, stop=0.02):
    """Mean distance to the exact flow map between two interior levels, where the order shows undisturbed."""
    levels = torch.linspace(start, stop, steps + 1, dtype=torch.float64)
    x = equiprobable(64)
    exact = TOY.flow_map(process, x, levels[0], levels[-1])
    return (sampler(TOY.denoise(process), process, x, levels) - exact).abs().mean().item()


@pytest.mark.parametrize("process", [rectified_flow(), vp_continuous(0.1, 10.0)], ids=["flow", "vp"])
@pytest.mark.parametrize("sampler, order", [(ddim, 1), (dpm_solver_pp, 2)], ids=["ddim", "dpm_solver_pp"])
def test_doubling_the_steps_divides_the_error_by_two_to_the_order(sampler, order, process):
    assert error(sampler, process, 256) / error(sampler, process, 512) == pytest.approx(2**order, rel=0.12)


@pytest.mark.parametrize("kwargs", [dict(eta=1.0), dict(eta=0.5), dict(gamma=0.6)], ids=str)
def test_stochastic_chains_reach_the_data_distribution(kwargs):
    process, g = vp_cosine(100), torch.Generator().manual_seed(0)
    x = torch.randn(20_000, dtype=torch.float64, generator=g)
    x = gamma_chain(TOY.denoise(process), process, x, process.levels(100), generator=g, **kwargs)
    below, _ = TOY.log_tails(process, torch.tensor([-1.5, -0.6, 1.0]).double(), torch.tensor(0.0).double())
    found = (x[:, None] < torch.tensor([-1.5, -0.6, 1.0])).double().mean(0)
    torch.testing.assert_close(found, below.exp(), rtol=0, atol=0.015)  # 20,000 draws: 3 sigma is 0.011


def test_one_position_per_level_is_sampled_as_if_it_were_alone():
    process, steps = vp_cosine(100), 10
    x = torch.randn(6, 3, dtype=torch.float64)
    own = torch.stack([process.levels(steps) * start for start in (1.0, 0.5, 0.2)], -1)[:, None]
    for sampler in (ddim, dpm_solver_pp):
        together = sampler(TOY.denoise(process), process, x, own)
        alone = [sampler(TOY.denoise(process), process, x[:, i], own[:, :, i]) for i in range(3)]
        torch.testing.assert_close(together, torch.stack(alone, 1), rtol=0, atol=0)


def test_a_position_that_is_clean_already_stays():
    process = vp_cosine(100)
    x = torch.randn(4, 2, dtype=torch.float64)
    levels = torch.stack([torch.zeros(6).double(), process.levels(5)], -1)[:, None]
    for sampler in (ddim, ddpm, dpm_solver_pp):
        assert torch.equal(sampler(TOY.denoise(process), process, x, levels)[:, 0], x[:, 0])


def test_the_last_ancestral_step_adds_no_noise():
    process, x = vp_cosine(10), torch.randn(5, dtype=torch.float64)
    levels = torch.tensor([0.1, 0.0], dtype=torch.float64)
    a, b = (ddpm(TOY.denoise(process), process, x, levels, noise=z * torch.ones(1, 5).double()) for z in (0.0, 9.0))
    assert torch.equal(a, b)


def test_a_gaussians_flow_map_is_linear_and_ddim_finds_it():
    process = vp_continuous()
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    one, zero = torch.ones(()).double(), torch.zeros(()).double()
    single = Mixture1D(*torch.tensor([[1.0], [0.7], [0.4]], dtype=torch.float64))
    torch.testing.assert_close(
        gaussian_flow_map(process, x, one, zero, 0.7, 0.4), single.flow_map(process, x, one, zero)
    )


def test_both_kinds_of_freshness_at_once_are_refused():
    with pytest.raises(ValueError, match=r"gamma=0\.5, eta=1"):
        gamma_chain(None, vp_cosine(10), torch.zeros(1), vp_cosine(10).levels(2), gamma=0.5, eta=1.0)


class Fixed(torch.nn.Module):
    """A network that depends on its input and on the level, without training."""

    def forward(self, x, t):
        return torch.tanh(x) * (0.5 + t) + 0.1


@pytest.mark.parametrize("prediction, name", [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
def test_ddpm_and_ddim_agree_with_diffusers_step_by_step(prediction, name):
    diffusers = pytest.importorskip("diffusers")
    process, N = vp_cosine(100), 100
    config = dict(num_train_timesteps=N, beta_schedule="squaredcos_cap_v2", prediction_type=name, clip_sample=True)
    denoiser = Denoiser(Fixed(), process, prediction, clip=1.0)
    start = torch.randn(3, 8, 2, dtype=torch.float64)
    seen = []
    g = torch.Generator().manual_seed(0)
    x = gamma_chain(denoiser, process, start, process.levels(10, "leading"), callback=lambda i, x, _: seen.append(x))
    scheduler = diffusers.DDIMScheduler(**config, set_alpha_to_one=True, steps_offset=0, timestep_spacing="leading")
    scheduler.set_timesteps(10)
    other = start
    for ours, t in zip([*seen[1:], x], scheduler.timesteps, strict=True):
        out = Fixed()(other, (t.double() + 1) / N)
        other = scheduler.step(out, t, other, use_clipped_model_output=True).prev_sample
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)  # its tables are float32
    scheduler = diffusers.DDPMScheduler(**config, variance_type="fixed_small")
    scheduler.set_timesteps(N)
    noise = torch.randn(N, *start.shape, dtype=torch.float64, generator=g)
    x = ddpm(denoiser, process, start, process.levels(N), noise=noise)
    other = start
    for i, t in enumerate(scheduler.timesteps):
        out = Fixed()(other, (t.double() + 1) / N)
        step = scheduler.step(out, t, other, generator=None)
        mean = step.prev_sample  # replace diffusers' own draw by ours: mean + std z
        torch.manual_seed(i)
        mean = scheduler.step(out, t, other, generator=torch.Generator().manual_seed(i)).prev_sample
        drawn = torch.randn(start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        std = scheduler._get_variance(t).double() ** 0.5 if t > 0 else 0.0
        other = mean + std * (noise[i] - drawn)
    torch.testing.assert_close(x, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("stochastic", [False, True], ids=["ode", "sde"])
@pytest.mark.parametrize("steps", [1, 2, 8, 20])
def test_dpm_solver_pp_agrees_with_diffusers_step_by_step(stochastic, steps):
    """On the schedule of LiDAR completion, whose last step ends at index 0 and not at clean data."""
    diffusers = pytest.importorskip("diffusers")
    process, N = vp_linear(1000, 3.5e-5, 0.007), 1000
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=N, beta_schedule="linear", beta_start=3.5e-5, beta_end=0.007, solver_order=2,
        algorithm_type="sde-dpmsolver++" if stochastic else "dpmsolver++", final_sigmas_type="sigma_min",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    levels = torch.cat([scheduler.timesteps, torch.zeros(1)]).double().add(1) / N
    denoiser = Denoiser(Fixed(), process, "eps")
    start = torch.randn(3, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(steps, *start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seen = []
    x = dpm_solver_pp(denoiser, process, start, levels, stochastic=stochastic, first_order_end=steps < 15, noise=noise,
                      callback=lambda i, x, _: seen.append(x))  # fmt: skip
    other = start
    for ours, t, z in zip([*seen[1:], x], scheduler.timesteps, noise, strict=True):
        out = Fixed()(other, (t.double() + 1) / N)
        other = scheduler.step(out, t, other, variance_noise=z if stochastic else None).prev_sample
        torch.testing.assert_close(ours, other, rtol=2e-5, atol=2e-4)  # its tables are float32, divided by 0.17


def test_the_stochastic_solver_reaches_the_data_distribution():
    process, g = vp_linear(1000), torch.Generator().manual_seed(0)
    x = torch.randn(20_000, dtype=torch.float64, generator=g)
    x = dpm_solver_pp(TOY.denoise(process), process, x, process.levels(50), stochastic=True, generator=g)
    below, _ = TOY.log_tails(process, torch.tensor([-1.5, -0.6, 1.0]).double(), torch.tensor(0.0).double())
    found = (x[:, None] < torch.tensor([-1.5, -0.6, 1.0])).double().mean(0)
    torch.testing.assert_close(found, below.exp(), rtol=0, atol=0.015)  # 20,000 draws: 3 sigma is 0.011
