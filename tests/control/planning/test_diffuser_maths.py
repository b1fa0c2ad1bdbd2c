"""Trajectory Diffuser's parts: causality, cache, levels, refinement, returns, windows."""

import logging
import math

import numpy as np
import pytest
import torch

from common.diffusion.denoiser import Denoiser
from common.diffusion.process import vp_cosine, vp_linear
from common.errors import ConfigError, DataError
from common.nn.causal_transformer import CausalTransformer
from control.demonstrations.store import Episode
from control.planning.diffuser.generator import TrajectoryGenerator
from control.planning.diffuser.networks import InverseDynamics, expectile
from control.planning.diffuser.refine import clean_start, entry_level, noise_level, refine, shifted
from control.planning.diffuser.returns import asked_next, returns_to_go, stream_returns
from control.planning.diffuser.windows import PlanWindows

RELEASED = vp_linear(100, 1e-3, 2e-2)


def awake(net):
    """The same network with a last layer that is not 0."""
    torch.manual_seed(3)
    last = net.last if hasattr(net, "last") else net.net.last
    torch.nn.init.normal_(last.weight, std=0.3)
    return net.eval()


def transformer(**kwargs):
    torch.manual_seed(0)
    return awake(CausalTransformer(4, 3, 10, width=16, depth=2, heads=2, hidden=24, **kwargs))


def test_outputs_do_not_see_later_tokens():
    net, tokens = transformer(), torch.randn(2, 10, 4)
    changed = tokens.clone()
    changed[:, 6:] += 5
    assert torch.equal(net(tokens)[:, :6], net(changed)[:, :6])
    assert not torch.equal(net(tokens)[:, 6:], net(changed)[:, 6:])
    released = transformer(causal=False)
    assert not torch.allclose(released(tokens)[:, :6], released(changed)[:, :6])


def test_a_new_network_predicts_no_change():
    tokens = torch.randn(2, 5, 4)
    assert torch.equal(TrajectoryGenerator(3, 8, width=16, heads=2).predict(tokens), tokens)


def test_cache_equals_full_recomputation():
    torch.manual_seed(0)
    generator = TrajectoryGenerator(3, 12, width=16, depth=2, heads=2, hidden=24)
    awake(generator.net)
    states, returns = torch.randn(5, 3, 3), torch.randn(5, 3)
    quick = generator.rollout(states, returns, 9)
    tokens = torch.cat([states, returns[..., None]], -1)
    with torch.no_grad():
        for _ in range(9):
            tokens = torch.cat([tokens, generator.predict(tokens)[:, -1:]], 1)
    assert (quick - tokens[:, 3:, :-1]).abs().max() < 1e-5
    alone = torch.cat([generator.rollout(states[i : i + 1], returns[i : i + 1], 9) for i in range(5)])
    assert (quick - alone).abs().max() < 1e-5


def test_too_many_tokens_are_refused():
    with pytest.raises(ConfigError, match=r"11 tokens.*10"):
        transformer()(torch.zeros(1, 11, 4))


def test_written_noise_is_read_on():
    torch.manual_seed(0)
    generator = TrajectoryGenerator(2, 6, width=16, heads=2)  # predicts no change: a random walk of the noise
    noise = torch.randn(4, 5, 2)
    walk = generator.rollout(torch.zeros(4, 1, 2), torch.zeros(4, 1), 5, noise)
    assert torch.allclose(walk, noise.cumsum(1), atol=1e-6)


@pytest.mark.parametrize(
    ("k", "abar"), [(1, 0.9990), (5, 0.9931), (10, 0.9815), (20, 0.9450), (50, 0.7512), (100, 0.3475)]
)
def test_released_schedule(k, abar):
    t = torch.tensor(k / 100, dtype=torch.float64)
    assert float(RELEASED.alpha(t) ** 2) == pytest.approx(abar, abs=5e-5)


def test_released_posterior():
    """Index 4: c_0 0.256, c_1 0.744; at 0: 1, 0; deviations .036, .033, .029, .023 at 4 to 1."""

    def coefficients(index):
        t, s = (torch.tensor((index + 1 - j) / 100, dtype=torch.float64) for j in (0, 1))
        gamma = RELEASED.ancestral_gamma(t, s)
        one, nothing = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        c0 = RELEASED.step(nothing, t, s, one, gamma, nothing)
        c1 = RELEASED.step(one, t, s, nothing, gamma, nothing)
        return float(c0), float(c1), float(gamma * RELEASED.sigma(s))

    assert coefficients(4)[:2] == pytest.approx((0.256, 0.744), abs=5e-4)
    assert coefficients(0)[:2] == pytest.approx((1, 0), abs=1e-9)
    assert [coefficients(i)[2] for i in (4, 3, 2, 1)] == pytest.approx([0.036, 0.033, 0.029, 0.023], abs=6e-4)


def test_entry_level_is_the_smallest_that_covers_the_error():
    sigma = [float(RELEASED.sigma(torch.tensor(k / 100, dtype=torch.float64))) for k in range(101)]
    assert entry_level(RELEASED, 0.5 * sigma[1]) == 0
    assert entry_level(RELEASED, sigma[1]) == 1
    assert entry_level(RELEASED, 0.5 * (sigma[4] + sigma[5])) == 5
    assert entry_level(RELEASED, 5.0) == 100


def exact(process, x0):
    return lambda x, t: x0


@pytest.mark.parametrize("level", [0, 1, 5, 20, 100])
def test_refinement_with_the_exact_estimate(level):
    process = vp_cosine(100)
    x0, x = torch.randn(2, 8, 3), torch.randn(2, 8, 3)
    x[:, 0] = x0[:, 0]
    found = refine(exact(process, x0), process, x, level, noise=torch.randn(max(level, 1), 2, 8, 3), temperature=0.0)
    assert torch.allclose(found, x if level == 0 else x0, atol=1e-5)


def test_more_evaluations_than_levels_are_refused():
    with pytest.raises(ConfigError, match="6 evaluations from level 5"):
        refine(exact(RELEASED, 0), RELEASED, torch.zeros(1, 4, 1), 5, steps=6)


def test_gaussian_oracle_moves_towards_the_mean_with_the_level():
    """Data N(m, s^2): the probability flow carries x at level t to m + s / sqrt(alpha^2 s^2 + sigma^2) (x - alpha m);
    the deterministic chain does so within its steps' error, and from a higher level it ends nearer to the mean."""
    process, mean, spread = vp_cosine(100), 0.7, 0.4

    def oracle(x, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return mean + alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * (x - alpha * mean)

    x = torch.full((1, 2, 1), mean + 1.0, dtype=torch.float64)
    ends = []
    for level in (5, 20, 60):
        t = torch.tensor(level / 100, dtype=torch.float64)
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        end = float(refine(oracle, process, x, level, eta=0.0)[0, 1, 0])
        exact_end = mean + spread / math.sqrt(alpha**2 * spread**2 + sigma**2) * (mean + 1.0 - alpha * mean)
        assert end == pytest.approx(exact_end, abs=0.02)
        ends.append(abs(end - mean))
    assert ends[0] > ends[1] > ends[2]


def test_now_never_moves():
    process, seen = vp_cosine(100), []

    def wild(x, t):
        seen.append(x[:, 0].clone())
        return torch.randn_like(x) * 3

    x = torch.randn(3, 8, 2)
    end = refine(wild, process, x, 30, noise=torch.randn(30, 3, 8, 2))
    assert all(torch.equal(one, x[:, 0]) for one in seen) and torch.equal(end[:, 0], x[:, 0])
    assert len(seen) == 30


def test_temperature_scales_the_drawn_noise():
    process, noise = vp_cosine(100), torch.randn(10, 1, 8, 2)
    x = torch.randn(1, 8, 2)
    runs = [refine(exact(process, 0 * x), process, x, 10, noise=noise, temperature=w) for w in (0.0, 0.5, 1.0)]
    assert torch.allclose(runs[0], refine(exact(process, 0 * x), process, x, 10, noise=0 * noise))
    assert torch.equal(runs[0][:, 0], x[:, 0])
    # the last step lands on the estimate, so look one level before it
    before = [refine(lambda y, t: x, process, x, 10, steps=5, noise=noise[:5], temperature=w) for w in (0.0, 1.0)]
    assert torch.allclose(before[0], before[1], atol=1e-6)


def test_clean_start():
    t = clean_start(torch.tensor([0.2, 0.5]), 4)
    assert (
        t.shape == (2, 4, 1)
        and torch.equal(t[:, 0], torch.zeros(2, 1))
        and torch.equal(t[1, 1:, 0], torch.full((3,), 0.5))
    )


def test_shifted_plan_is_linear_between_its_states():
    plan = torch.arange(5.0)[None, :, None].repeat(2, 1, 1) * 10
    assert torch.allclose(shifted(plan, 4, 4)[0, :, 0], torch.tensor([10.0, 20, 30, 40, 40]))
    assert torch.allclose(shifted(plan, 1, 4)[0, :, 0], torch.tensor([2.5, 12.5, 22.5, 32.5, 40]))


def test_returns_to_go():
    rewards = np.random.default_rng(0).normal(size=30)
    for discount, within in ((1.0, None), (0.9, None), (0.97, 7), (1.0, 1)):
        brute = [
            sum(discount**i * rewards[t + i] for i in range(min(len(rewards) - t, within or 99))) for t in range(30)
        ]
        found = returns_to_go(rewards, discount, within)
        assert np.allclose(found[:-1], brute, atol=1e-5) and found[-1] == 0
    assert returns_to_go(rewards)[-2] == pytest.approx(rewards[-1], abs=1e-6)
    with pytest.raises(ConfigError, match="discount"):
        returns_to_go(rewards, 0.0)


def test_what_is_asked_falls_by_what_came_in():
    assert np.allclose(asked_next(np.array([10.0, 2.0]), np.array([1.0, 1.5]), floor=1.0), [9.0, 1.0])
    # discounted: following an episode's own rewards gives its own returns
    rewards = np.array([1.0, 0.0, 2.0, 0.5])
    g = returns_to_go(rewards, 0.9)
    asked = np.array([g[0]], float)
    for t, reward in enumerate(rewards):
        assert asked[0] == pytest.approx(g[t], abs=1e-5)
        asked = asked_next(asked, np.array([reward]), 0.9, -np.inf)


def episode(length, seed=0, terminated=False, states=3):
    random = np.random.default_rng(seed)
    return Episode({"state": random.normal(size=(length + 1, states)).astype(np.float32)},
                   random.uniform(-1, 1, (length, 2)).astype(np.float32), random.normal(size=length), False, seed,
                   terminated=terminated)  # fmt: skip


@pytest.mark.parametrize("stride", [1, 3])
def test_windows_stay_in_their_episode_and_reach_its_end(stride):
    episodes = [episode(20, 1), episode(33, 2, True), episode(5, 3)]
    windows = PlanWindows(episodes, 5, stride)
    span = 4 * stride
    assert len(windows) == sum(max(0, len(one) + 1 - span) for one in episodes)
    batch = windows.__getitems__(list(range(len(windows))))
    ends = [one.observations["state"][-1] for one in episodes if len(one) >= span]
    for end in ends:
        assert (batch["states"][:, -1] == torch.from_numpy(end)).all(1).any()
    for row in batch["states"]:
        homes = [one for one in episodes if any(np.array_equal(row[0], s) for s in one.observations["state"])]
        (at,) = np.flatnonzero((homes[0].observations["state"] == row[0].numpy()).all(1))
        assert np.array_equal(row, homes[0].observations["state"][at : at + span + 1 : stride])


def test_pairs_are_steps_of_one_episode():
    episodes = [episode(20, 1), episode(33, 2)]
    windows = PlanWindows(episodes, 4, 3)
    torch.manual_seed(0)
    seen, last = set(), set()
    for _ in range(30):
        batch = windows.__getitems__(list(range(len(windows))))
        for origin, goal, gap, action, asked in zip(
            *(batch[k] for k in ("origin", "goal", "gap", "action", "asked")), strict=True
        ):
            for number, one in enumerate(episodes):
                at = np.flatnonzero((one.observations["state"] == origin.numpy()).all(1))
                if len(at):
                    assert np.array_equal(one.observations["state"][at[0] + int(gap)], goal)
                    assert np.array_equal(one.actions[at[0]], action)
                    assert returns_to_go(one.rewards)[at[0]] == pytest.approx(float(asked))
                    seen.add(int(gap))
                    last.add((number, int(at[0])))
    assert seen == {1, 2, 3} and {(0, 0), (0, 19), (1, 0), (1, 32)} <= last


def test_noise_begins_where_a_network_can_still_be_divided_by_its_signal():
    cosine = vp_cosine(100)
    k = noise_level(cosine)
    assert float(cosine.alpha(torch.tensor(k / 100.0))) >= 0.05 > float(cosine.alpha(torch.tensor((k + 1) / 100.0)))
    assert noise_level(vp_linear(100, 1e-3, 2e-2)) == 100


def test_a_way_from_noise_keeps_the_datas_mean_and_spread_in_few_steps():
    """With the exact answer for data N(2, 0.5^2): from the last level the first estimates are all cut away."""
    process, mean, deviation = vp_cosine(100), 2.0, 0.5

    def roughly(x, t):
        """The exact noise but for 2 % of it, as a network has it; cut as in use."""
        alpha, sigma = process.alpha(t), process.sigma(t)
        exact = mean + alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * (x - alpha * mean)
        eps = (x - alpha * exact) / sigma.clamp_min(1e-6)
        return ((x - sigma * (eps + 0.02)) / alpha).clamp(-6, 6)

    torch.manual_seed(0)
    found = {}
    for level in (noise_level(process), 100):
        start = torch.zeros(2000, 2, 1)
        start[:, 1:] = process.sigma(torch.tensor(level / 100.0)) * torch.randn(2000, 1, 1)
        found[level] = refine(roughly, process, start, level, 5, eta=0.0)[:, 1].mean()
    assert abs(found[noise_level(process)] - mean) < 0.25 < abs(found[100] - mean)


def test_stretches_of_one_run_know_what_comes_behind_their_cut():
    whole = episode(60, 4)
    parts = [
        Episode({"state": whole.observations["state"][i : i + 21]}, whole.actions[i : i + 20],
                whole.rewards[i : i + 20], False, None, terminated=False)
        for i in (0, 20, 40)
    ]  # fmt: skip
    returns, following = stream_returns(parts, 0.9, 8)
    wanted = returns_to_go(whole.rewards, 0.9, 8)
    assert following == [40, 20, 0]
    for i, one in zip((0, 20, 40), returns, strict=True):
        assert np.allclose(one, wanted[i : i + 21], atol=1e-6)
    windows = PlanWindows(parts, 3, discount=0.9, within=8)
    assert len(windows) == 19 + 19 + 13  # behind the last cut nothing is known
    # others are no stretches: another beginning, or an end of the task's own
    ended = Episode(parts[0].observations, parts[0].actions, parts[0].rewards, True, None, terminated=True)
    assert stream_returns([parts[0], parts[2]], 0.9, 8)[1] == [0, 0]
    assert stream_returns([ended, parts[1]], 0.9, 8)[1] == [0, 0]
    assert stream_returns(parts, 0.9, None)[1] == [0, 0, 0]


def test_windows_whose_return_is_cut_off_are_left_out():
    cut, ended = episode(20, 1), episode(20, 2, terminated=True)
    assert len(PlanWindows([cut], 3, within=8)) == 13  # starts 0 .. 12: all 8 rewards are known
    assert len(PlanWindows([ended], 3, within=8)) == 19
    assert len(PlanWindows([cut], 3)) == 19


def test_bad_episodes(caplog):
    with pytest.raises(DataError, match=r"longest has 5.*shorten"):
        PlanWindows([episode(5)], 8, source="file.h5")
    bad = episode(20)
    bad.rewards[3] = np.nan
    with pytest.raises(DataError, match=r"file.h5, episode 0: rewards"):
        PlanWindows([bad], 4, source="file.h5")
    flat = episode(20)
    flat.observations["state"][:, 1] = 2.0
    with caplog.at_level(logging.WARNING):
        PlanWindows([flat, episode(3)], 8)
    assert "constant" in caplog.text and "1 of 2 episodes" in caplog.text


def test_inverse_dynamics_sees_the_gap():
    torch.manual_seed(0)
    net, s, goal = InverseDynamics(3, 2, stride=4), torch.randn(5, 3), torch.randn(5, 3)
    assert not torch.allclose(net(s, goal, torch.ones(5)), net(s, goal, 4 * torch.ones(5)))
    assert InverseDynamics(3, 2)(s, goal, torch.ones(5)).shape == (5, 2)


def test_expectile_of_a_sample():
    """The minimiser of the expectile loss balances the deviations above and below, tau to 1 - tau."""
    values = torch.tensor([0.0, 1.0, 2.0, 10.0])
    grid = torch.linspace(0, 10, 10001)
    loss = expectile(values[None] - grid[:, None], 0.9).mean(1)
    best = grid[loss.argmin()]
    above, below = (values - best).clamp_min(0).sum(), (best - values).clamp_min(0).sum()
    assert 0.9 * above == pytest.approx(float(0.1 * below), rel=1e-2)


def test_guidance_in_one_doubled_batch():
    """w = 1 is the conditional, w = 0 the unconditional prediction; one doubled call equals two."""
    process = vp_cosine(100)

    class Net(torch.nn.Module):
        def forward(self, x, t, condition):
            return torch.tanh(x + condition[:, None] * t)

    net, x, t, c = Net(), torch.randn(3, 6, 2), torch.full((1, 6, 1), 0.3), torch.randn(3, 2)

    def of(weight):
        return Denoiser(net, process, "eps", None, weight, lambda c: (torch.zeros_like(c),))(x, t, c)

    with_c, without = Denoiser(net, process)(x, t, c), Denoiser(net, process)(x, t, 0 * c)
    assert torch.allclose(of(1), with_c) and torch.allclose(of(0), without)
    assert torch.allclose(of(1.7), without + 1.7 * (with_c - without), atol=1e-5)
