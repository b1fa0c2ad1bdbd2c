"""The chain's Gaussians: published numbers, exact densities, marginals, gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from common.diffusion.denoiser import Denoiser
from common.diffusion.process import vp_cosine
from common.errors import ConfigError
from common.nn.skip_net import SkipNet
from common.nn.unet1d import ConditionalUNet1D
from control.rl.rl100.chain import Chain, divergence, log_prob, predictor

PROCESS = vp_cosine(100)
TABLE = {  # K = 10, index of t: (alpha-bar, sigma, direction's coefficient)
    91: (0.01546, 0.8652, 0.4180), 81: (0.07665, 0.7126, 0.5599), 71: (0.17863, 0.5980, 0.5751),
    61: (0.31159, 0.5049, 0.5314), 51: (0.46271, 0.4224, 0.4518), 41: (0.61742, 0.3433, 0.3483),
    31: (0.76084, 0.2608, 0.2299), 21: (0.87912, 0.1659, 0.1076), 11: (0.96089, 0.0409, 0.0087),
    1: (0.99825, 0.0201, 0.0151),
}  # fmt: skip


def wide(steps: int, **kwargs) -> Chain:
    """A chain whose deviation is never cut."""
    return Chain(PROCESS, steps, 1e-6, 2.0, **kwargs)


def net(horizon: int = 4, action: int = 2, condition: int = 3, **kwargs) -> Denoiser:
    return Denoiser(SkipNet(action, condition, horizon, 32, 2, **kwargs), PROCESS, "eps", clip=1.0)


def index(level: torch.Tensor) -> int:
    return round(float(level) * 100) - 1


def test_the_levels_and_deviations_are_the_published_ones():
    chain = wide(10)
    assert [index(t) for t, _ in chain.levels()] == list(TABLE) and index(chain.levels()[-1][1]) == 0
    for t, m in chain.levels():
        abar, sigma, direction = TABLE[index(t)]
        uncut, cut = chain.deviation(t, m)
        assert float(PROCESS.alpha(t) ** 2) == pytest.approx(abar, abs=1e-4)
        assert float(uncut) == pytest.approx(sigma, abs=1e-4) and float(cut) == pytest.approx(sigma, abs=1e-4)
        assert float((PROCESS.sigma(m) ** 2 - cut**2).sqrt()) == pytest.approx(direction, abs=2e-4)
    five = [float(wide(5).deviation(t, m)[0]) for t, m in wide(5).levels()]
    assert five == pytest.approx([0.7498, 0.5247, 0.3067, 0.0415, 0.0201], abs=1e-4)


def test_the_deviation_lies_in_its_range_and_never_above_the_level_it_ends_at():
    chain = Chain(PROCESS, 10, 0.08, 0.3)
    for t, m in chain.levels():
        cut, whole = float(chain.deviation(t, m)[1]), float(PROCESS.sigma(m))
        assert cut <= whole + 1e-7 and cut <= 0.3 + 1e-7 and (cut >= 0.08 or cut == pytest.approx(whole))
    released = Chain(PROCESS, 10, 0.08, 0.3, released=True)
    assert float(released.deviation(*released.levels()[-1])[1]) == pytest.approx(0.08)


def test_log_probabilities_are_those_of_the_normal_distribution():
    random = np.random.default_rng(0)
    x, mean = random.normal(size=(2, 5, 3, 2))
    wanted = norm(mean, 0.07).logpdf(x).sum((1, 2))
    found = log_prob(torch.from_numpy(x), torch.from_numpy(mean), torch.tensor(0.07, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-8)
    single = log_prob(*(torch.from_numpy(one).float() for one in (x, mean)), torch.tensor(0.07))
    each = torch.distributions.Normal(torch.from_numpy(mean).float(), 0.07).log_prob(torch.from_numpy(x).float())
    torch.testing.assert_close(single, each.sum((1, 2)), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("steps", [5, 10, 50])
def test_an_oracle_ends_at_the_last_noisy_level_with_exact_marginals_on_the_way(steps):
    chain, x0, count = wide(steps), 0.4, 20_000
    torch.manual_seed(1)

    def oracle(x, t):
        return torch.full_like(x, x0), PROCESS.eps(x, t, torch.full_like(x, x0))

    top = chain.levels()[0][0]
    start = PROCESS.noise(torch.full((count, 1, 1), x0), top, torch.randn(count, 1, 1))
    path = chain.sample(oracle, start)
    for state, (_, m) in zip(path.states[1:], chain.levels(), strict=True):
        assert float(state.mean()) == pytest.approx(float(PROCESS.alpha(m)) * x0, abs=4 / math.sqrt(count))
        assert float(state.std()) == pytest.approx(float(PROCESS.sigma(m)), rel=0.03)
    assert float(path.action.std()) == pytest.approx(0.0251, abs=5e-4)


def test_with_the_deviation_cut_the_marginals_stay_right_and_the_released_ones_do_not():
    torch.manual_seed(1)
    x0, count, spreads = 0.4, 20_000, {}

    def oracle(x, t):
        return torch.full_like(x, x0), PROCESS.eps(x, t, torch.full_like(x, x0))

    for released in (False, True):
        chain = Chain(PROCESS, 10, 0.01, 0.1, released)
        start = PROCESS.noise(torch.full((count, 1, 1), x0), chain.levels()[0][0], torch.randn(count, 1, 1))
        states = chain.sample(oracle, start).states[1:]
        spreads[released] = [
            float(s.std() / PROCESS.sigma(m)) for s, (_, m) in zip(states, chain.levels(), strict=True)
        ]
    assert max(abs(one - 1) for one in spreads[False]) < 0.03
    assert min(spreads[True][:5]) < 0.7


def test_gaussian_data_come_out_with_their_mean_and_spread_as_steps_grow():
    mean, spread, errors = 0.2, 0.3, []
    torch.manual_seed(2)

    def exact(x, t):
        a, s = PROCESS.alpha(t), PROCESS.sigma(t)
        x0 = mean + a * spread**2 / (a**2 * spread**2 + s**2) * (x - a * mean)
        return x0, PROCESS.eps(x, t, x0)

    for steps in (5, 50):
        action = wide(steps).sample(exact, torch.randn(20_000, 1, 1)).action
        assert float(action.mean()) == pytest.approx(mean, abs=0.01)
        errors.append(abs(float(action.std()) - spread))
    assert errors[1] < errors[0] and errors[1] < 0.03


@pytest.mark.parametrize("kind", ["skip", "dropout", "unet"])
def test_recomputed_before_any_update_the_ratio_is_one(kind):
    torch.manual_seed(0)
    if kind == "unet":
        unet = ConditionalUNet1D(2, 3, (16, 32), kernel=3, groups=4, level_width=16)
        denoiser = Denoiser(unet, PROCESS, "eps", clip=1.0)
    else:
        denoiser = net(dropout=0.1 if kind == "dropout" else 0.0)
    denoiser.eval()  # the rule of every forward pass of reinforcement learning: no hidden randomness
    condition, chain = torch.randn(6, 3), Chain(PROCESS, 5, 0.08, 0.8)
    with torch.no_grad():
        path = chain.sample(predictor(denoiser, denoiser.net.project(condition)), torch.randn(6, 4, 2))
    new, means, deviations = chain.evaluate(predictor(denoiser, denoiser.net.project(condition)), path.states)
    assert (new - path.log_prob).abs().max() < 1e-4 * path.log_prob.abs().max()
    assert divergence(path.mean, means, deviations).max() < 1e-6
    if kind == "dropout":
        denoiser.train()
        active, _, _ = chain.evaluate(predictor(denoiser, denoiser.net.project(condition)), path.states)
        assert (active - path.log_prob).abs().max() > 0.1


def test_the_mean_of_the_log_ratio_over_the_old_policy_is_the_closed_form():
    torch.manual_seed(3)
    old, new, deviation = torch.randn(1, 2, 2), torch.randn(1, 2, 2), 0.8
    x = old + deviation * torch.randn(100_000, 2, 2)
    scale = torch.tensor(deviation)
    mean = (log_prob(x, old.expand_as(x), scale) - log_prob(x, new.expand_as(x), scale)).mean()
    assert float(mean) == pytest.approx(float(divergence(old[None], new[None], scale[None])), rel=0.02)


@pytest.mark.parametrize("rederived", [True, False])
def test_a_clipped_coordinate_has_the_documented_gradient(rederived):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.eps = nn.Parameter(torch.tensor([[[-3.0, 0.1]]]))  # the first is clipped, the second is not

        def forward(self, x, t):
            return self.eps.expand_as(x)

    denoiser = Denoiser(Constant(), PROCESS, "eps", clip=1.0)
    chain = wide(10, released=not rederived)
    (t, m), step = chain.levels()[5], chain.gaussians(torch.zeros(1))[5]
    mean, deviation = step.mean(predictor(denoiser, rederived=rederived), torch.zeros(1, 1, 2)), step.deviation
    clipped, free = torch.autograd.grad(mean.sum(), denoiser.net.eps)[0].flatten().tolist()
    direction = float((PROCESS.sigma(m) ** 2 - deviation**2).sqrt())
    assert clipped == pytest.approx(0.0 if rederived else direction, abs=1e-5)
    a_t, s_t = float(PROCESS.alpha(t)), float(PROCESS.sigma(t))
    assert free == pytest.approx(direction - float(PROCESS.alpha(m)) * s_t / a_t, rel=1e-3) and free < 0


def test_the_mean_chain_is_a_function_of_its_start():
    torch.manual_seed(0)
    denoiser, chain = net(), Chain(PROCESS, 5)
    predict = predictor(denoiser, denoiser.net.project(torch.randn(3, 3)))
    start = torch.randn(3, 4, 2)
    assert torch.equal(chain.mean(predict, start), chain.mean(predict, start))
    zeros = chain.sample(predict, start, noise=torch.zeros(5, 3, 4, 2)).action
    torch.testing.assert_close(chain.mean(predict, start), zeros)


def test_what_does_not_fit_is_refused_by_name():
    for steps in (3, 100, 0, 1):
        with pytest.raises(ConfigError, match=f"steps={steps}"):
            Chain(PROCESS, steps)
    with pytest.raises(ConfigError, match=r"s_min=0\.0"):
        Chain(PROCESS, 10, 0.0)
    with pytest.raises(ConfigError, match="prediction='x0'"):
        predictor(Denoiser(nn.Identity(), PROCESS, "x0"), rederived=False)
    with pytest.raises(ConfigError, match="chunks of"):
        net()(torch.zeros(1, 3, 2), torch.ones(1, 1, 1), torch.zeros(1, 32))
