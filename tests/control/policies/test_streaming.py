"""The streaming step against exact denoisers: laws, modes, stationarity, reductions."""

import pytest
import torch

from common.diffusion.analytic import GaussianMixture, gaussian
from common.diffusion.process import vp_cosine
from common.errors import ConfigError
from control.policies.streaming import (
    StreamState,
    chunk_plan,
    delayed_plan,
    ladder_plan,
    reset_where,
    start_state,
    stream,
)

PROCESS = vp_cosine(100)
F64 = torch.float64


def run(denoise, plan, calls, batch, width=1, seed=0, start=None):
    """Executed actions (batch, calls * execute, width) and the last state."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=F64, generator=g)

    state = start or start_state(PROCESS, plan, normal(batch, plan.horizon, width))
    out = []
    for _ in range(calls):
        noise = normal(plan.evaluations, batch, plan.horizon, width) if plan.eta else None
        fresh = normal(batch, plan.fresh + plan.first, width)
        chunk, state = stream(denoise, PROCESS, plan, state, fresh, noise)
        out.append(chunk)
    return torch.cat(out, 1), state


def counted(denoise):
    def spy(x, t):
        spy.calls += 1
        return denoise(x, t)

    spy.calls = 0
    return spy


PLANS = {
    "SDP released": ladder_plan(20, 8, 50, first=1),
    "SDP renoise": ladder_plan(20, 8, 50, first=1, prefix="renoise"),
    "SDP clean": ladder_plan(20, 8, 50, first=1, prefix="clean"),
    "30 steps": ladder_plan(20, 6, 10, first=1),  # neither 3 chunks nor 30 steps divide 100
    "ladder 10": ladder_plan(20, 2),
    "ladder 20": ladder_plan(20, 1),
    "delay 3": delayed_plan(20, 1, 3),
    "DP": chunk_plan(20, 8, 10),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_single_known_sequence_is_executed_whatever_the_plan(name):
    plan = PLANS[name]
    oracle = gaussian(torch.full((20, 1), 0.37, dtype=F64), torch.zeros(20, 20, dtype=F64)).denoise(PROCESS)
    actions, _ = run(oracle, plan, 8, 3)
    torch.testing.assert_close(actions, torch.full_like(actions, 0.37))


@pytest.mark.parametrize("name", [name for name in PLANS if name != "DP"])
def test_the_levels_return_to_the_resting_pattern_for_a_thousand_calls(name):
    plan = PLANS[name]
    spy = counted(lambda x, t: torch.zeros_like(x))
    state = start_state(PROCESS, plan, torch.randn(2, plan.horizon, 1, dtype=F64))
    for _ in range(1000 if plan.evaluations == 1 else 50):
        _, state = stream(spy, PROCESS, plan, state, torch.randn(2, plan.fresh + plan.first, 1, dtype=F64))
        torch.testing.assert_close(state.level, plan.resting.expand(2, -1), rtol=0, atol=1e-9)
    assert spy.calls == plan.evaluations * (1000 if plan.evaluations == 1 else 50)


def test_one_chunk_makes_streaming_diffusion_policy_diffusion_policy():
    """Tp = 16, To = 2, Ta = 8: h = 1, and a first call is the whole of DDPM's sampling."""
    sdp = ladder_plan(16, 8, 100, first=1, prefix="released", eta=1.0)
    dp = chunk_plan(16, 8, 100, first=1, eta=1.0)
    oracle = gaussian(torch.linspace(-1, 1, 16, dtype=F64)[:, None], torch.eye(16, dtype=F64) * 0.2).denoise(PROCESS)
    a, b = (run(oracle, plan, 1, 4)[0] for plan in (sdp, dp))
    assert torch.equal(a, b)


def test_dp_begins_every_call_with_new_noise():
    plan = PLANS["DP"]
    g = torch.randn(2, plan.fresh, 1, dtype=F64)
    state = start_state(PROCESS, plan, torch.randn(2, 20, 1, dtype=F64))
    _, after = stream(lambda x, t: torch.zeros_like(x), PROCESS, plan, state, g)
    torch.testing.assert_close(after.buffer, g, rtol=0, atol=1e-6)
    assert (after.level == 1).all()


def smooth():
    """Covariance (20, 20) of a smooth sequence around 0.2, spread 0.501, lag-1 correlation 0.942; its denoiser."""
    t = torch.arange(20, dtype=F64)
    covariance = 0.25 * (-((t[:, None] - t) ** 2) / 18).exp() + 1e-3 * torch.eye(20, dtype=F64)
    return covariance, gaussian(torch.full((20, 1), 0.2, dtype=F64), covariance).denoise(PROCESS)


def test_a_ladder_of_chunks_has_the_datas_marginals_and_its_covariance_within_a_chunk():
    """Check 9. Across a seam the covariance is lower, 0.156 where the data have 0.2365: the executed chunk has left the
    buffer, and the next one is tied to it only by what they shared while both were noisy."""
    covariance, oracle = smooth()
    found = []
    for seed in (0, 1):
        actions, _ = run(oracle, ladder_plan(20, 5, 25, eta=1.0), 12, 1500, seed=seed)
        late = actions[:, 20:, 0]
        assert late.mean().item() == pytest.approx(0.2, abs=0.03)
        assert late.std().item() == pytest.approx(0.501, rel=0.06)
        lagged = torch.cov(late.T).diagonal(1)
        seams = lagged[4::5].mean().item()
        within = torch.cat([lagged[i::5] for i in range(4)]).mean().item()
        assert within == pytest.approx(covariance[0, 1].item(), rel=0.08)  # 100 steps lose 3 % of the spread
        found.append(seams)
    assert found == pytest.approx([0.156, 0.156], abs=0.015)


def test_a_ladder_of_single_actions_nearly_keeps_the_correlation_of_neighbours():
    """Every position is a seam, and each is shared by twenty calls: 0.93 of the data's 0.942."""
    covariance, oracle = smooth()
    actions, _ = run(oracle, ladder_plan(20, 1, eta=1.0), 45, 1500)
    late = actions[:, 25:, 0]
    wanted = (covariance[0, 1] / covariance[0, 0]).item()
    assert wanted - 0.02 < torch.corrcoef(late.T).diagonal(1).mean().item() < wanted
    assert late.mean().item() == pytest.approx(0.2, abs=0.03)


def test_every_position_of_the_resting_buffer_has_its_levels_variance():
    """Independent positions of variance 0.3^2: variance of buffer position p = alpha^2 0.09 + sigma^2 (check 11)."""
    oracle = gaussian(torch.zeros(20, 1, dtype=F64), 0.09 * torch.eye(20, dtype=F64)).denoise(PROCESS)
    plan = ladder_plan(20, 2, 10, eta=1.0)
    _, state = run(oracle, plan, 12, 6000)
    t = plan.resting
    expected = PROCESS.alpha(t) ** 2 * 0.09 + PROCESS.sigma(t) ** 2
    torch.testing.assert_close(state.buffer[..., 0].var(0), expected, rtol=0.1, atol=0)


def two_modes(length):
    means = torch.stack([torch.full((length, 1), value, dtype=F64) for value in (-0.8, 0.8)])
    covariance = (1e-3 * torch.eye(length, dtype=F64) + 1e-3).expand(2, -1, -1)
    return GaussianMixture(torch.tensor([0.5, 0.5], dtype=F64), means, covariance).denoise(PROCESS)


def switches(actions):
    side = actions[..., 0] > 0
    return (side[:, 1:] != side[:, :-1]).double().mean().item()


def test_a_stream_stays_in_its_mode_where_independent_chunks_bounce():
    """Check 10: what the method exists for."""
    streaming, _ = run(two_modes(20), ladder_plan(20, 1), 60, 64)
    bouncing, _ = run(two_modes(20), chunk_plan(20, 1, 20), 60, 64)
    assert switches(streaming) < 0.01
    assert switches(bouncing) == pytest.approx(0.5, abs=0.05)
    assert 0.3 < (streaming[:, -1, 0] > 0).double().mean() < 0.7  # both modes live


def test_new_positions_are_the_given_noise_and_executed_ones_hold_none_of_it():
    plan = ladder_plan(20, 2)
    state = start_state(PROCESS, plan, torch.randn(1, 20, 1, dtype=F64))
    fresh = torch.randn(1, 2, 1, dtype=F64)
    a, after = stream(two_modes(20), PROCESS, plan, state, fresh)
    b, _ = stream(two_modes(20), PROCESS, plan, state, fresh + 1)
    assert torch.equal(a, b)
    torch.testing.assert_close(after.buffer[:, -2:], fresh, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prefix", ["released", "renoise", "clean"])
def test_the_prefix_is_left_renoised_or_marked_clean(prefix):
    """Check 13. The prefix of the next call is the last executed action."""
    plan = ladder_plan(20, 8, 50, first=1, prefix=prefix)
    oracle = gaussian(torch.full((20, 1), 0.37, dtype=F64), torch.zeros(20, 20, dtype=F64)).denoise(PROCESS)
    state = start_state(PROCESS, plan, torch.randn(4000, 20, 1, dtype=F64))
    actions, after = stream(oracle, PROCESS, plan, state, torch.randn(4000, plan.fresh + 1, 1, dtype=F64))
    front = after.buffer[:, 0, 0]
    if prefix == "renoise":
        t = plan.resting[0]
        assert front.mean().item() == pytest.approx(0.37 * PROCESS.alpha(t).item(), abs=0.05)
        assert front.std().item() == pytest.approx(PROCESS.sigma(t).item(), rel=0.05)
    else:
        assert torch.equal(front, actions[:, -1, 0])
    assert after.level[0, 0].item() == (0 if prefix == "clean" else 0.5)


def test_a_reset_of_one_environment_leaves_the_others_bit_for_bit():
    a, b = (StreamState(torch.randn(3, 4, 2), torch.rand(3, 4)) for _ in range(2))
    mixed = reset_where(torch.tensor([False, True, False]), a, b)
    for part, first, second in zip(mixed, a, b, strict=True):
        assert torch.equal(part[1], first[1]) and torch.equal(part[[0, 2]], second[[0, 2]])


def test_the_delayed_plan_returns_what_follows_the_actions_in_flight():
    """Behind a clean prefix of d actions the new action continues them: check 28 on an exact random walk."""
    t = torch.arange(20, dtype=F64)
    covariance = 0.3 * (-((t[:, None] - t) ** 2) / 50).exp() + 1e-6 * torch.eye(20, dtype=F64)
    oracle = gaussian(torch.zeros(20, 1, dtype=F64), covariance).denoise(PROCESS)
    for delay in (1, 3):
        actions, state = run(oracle, delayed_plan(20, 1, delay), 80, 32)
        late = actions[:, 30:]
        seam = late.diff(dim=1).abs().mean()
        assert seam < 0.25 * late.std()
        assert torch.equal(state.buffer[:, :delay], late[:, -delay:])  # in flight at the next call
        assert (state.level[:, :delay] == 0).all()


def test_a_plan_follows_a_change_of_the_delay_within_a_few_calls():
    before, after = delayed_plan(20, 1, 1), delayed_plan(20, 1, 3)
    _, state = run(lambda x, t: torch.zeros_like(x), before, 5, 1)
    for _ in range(25):
        _, state = stream(lambda x, t: torch.zeros_like(x), PROCESS, after, state, torch.randn(1, 4, 1, dtype=F64))
    torch.testing.assert_close(state.level[0], after.resting, rtol=0, atol=1e-9)


def test_the_constant_primer_starts_around_its_anchor():
    plan = ladder_plan(20, 2)
    noise = torch.randn(2, 20, 1, dtype=F64)
    zero, anchored = (start_state(PROCESS, plan, noise, anchor) for anchor in (None, torch.tensor([0.6], dtype=F64)))
    shift = (anchored.buffer - zero.buffer)[0, :, 0]
    torch.testing.assert_close(shift, 0.6 * PROCESS.alpha(plan.resting))
    assert torch.equal(zero.level, plan.resting.expand(2, -1))


def test_the_primer_is_forgotten_after_the_first_pass_of_the_ladder():
    """Check 22: means of the first five actions behind it, exact denoiser, 4 standard errors."""
    _, oracle = smooth()
    plan, full, batch = ladder_plan(20, 1, eta=1.0), chunk_plan(20, 20, 20), 2000
    g = torch.Generator().manual_seed(5)
    noise = iter(torch.randn(4, batch, 20, 1, dtype=F64, generator=g))
    clean, _ = stream(
        oracle, PROCESS, full, start_state(PROCESS, full, next(noise)), torch.zeros(batch, 20, 1).double()
    )
    anchors = {"zero": None, "constant": torch.tensor([0.7], dtype=F64), "denoise": clean}
    found, early = {}, {}
    for seed, (primer, anchor) in enumerate(anchors.items()):
        actions, _ = run(oracle, plan, 25, batch, seed=seed, start=start_state(PROCESS, plan, next(noise), anchor))
        found[primer], early[primer] = actions[:, 20:, 0], actions[:, 0, 0].mean().item()
    assert early["constant"] > early["zero"] + 0.3  # it does matter at the start
    for other in ("constant", "denoise"):
        gap = found[other].mean(0) - found["zero"].mean(0)
        error = ((found[other].var(0) + found["zero"].var(0)) / batch).sqrt()
        assert (gap.abs() < 4 * error).all(), (other, gap, error)


def test_impossible_plans_are_refused():
    with pytest.raises(ConfigError, match="must be a multiple of 150"):
        ladder_plan(28, 8, 50, first=1, steps=100)
    with pytest.raises(ConfigError, match="lengthen the horizon"):
        chunk_plan(8, 8, 10, first=1)
    with pytest.raises(ConfigError, match="prefix='keep'"):
        ladder_plan(20, 8, prefix="keep")
