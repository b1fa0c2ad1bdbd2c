import pytest
import torch

from common.diffusion.levels import (
    Ladder,
    LevelMixture,
    chunk_ladder,
    delayed,
    delayed_ladder,
    equal,
    iid,
    linear,
    shifted,
)
from common.errors import ConfigError

N = 100


@pytest.mark.parametrize(
    "horizon, observed, execute, chunks, excess",
    [(16, 2, 8, 1, 7), (20, 2, 8, 2, 3), (16, 2, 5, 3, 0), (28, 2, 8, 3, 3), (36, 2, 8, 4, 3), (20, 2, 4, 4, 3),
     (16, 2, 1, 15, 0)],
)  # fmt: skip
def test_the_geometry_is_streaming_diffusion_policys(horizon, observed, execute, chunks, excess):
    ladder = Ladder(horizon=horizon, execute=execute, prefix=observed - 1)
    assert (ladder.chunks, ladder.excess) == (chunks, excess)
    chunk = ladder.chunk().tolist()
    assert chunk[:observed] == [0] * observed
    for p in range(observed, horizon):
        behind = p >= observed - 1 + chunks * execute
        assert chunk[p] == (chunks - 1 if behind else (p - observed + 1) // execute)


def test_the_resting_levels_of_the_released_default_are_the_indices_49_and_99():
    resting = Ladder(horizon=20, execute=8, prefix=1).resting() * N - 1
    assert resting.tolist() == [49.0] * 9 + [99.0] * 11


@pytest.mark.parametrize("horizon, execute, prefix", [(20, 8, 1), (16, 1, 0), (16, 2, 0), (36, 8, 1)])
def test_after_a_call_and_a_shift_the_resting_levels_are_back_for_a_thousand_calls(horizon, execute, prefix):
    ladder = Ladder(horizon=horizon, execute=execute, prefix=prefix)
    steps = 16 if horizon == 16 else N
    ladder.needs(steps)
    index = (ladder.resting() * steps).round().long()
    start = index.clone()
    for _ in range(1000):
        index = (index - steps // ladder.chunks).clamp_min(0)
        assert (index[: prefix + execute] == 0).all()
        kept = index[execute : horizon - ladder.excess]
        index = torch.cat([kept, torch.full((execute + ladder.excess,), steps)])
        index[:prefix] = start[0]  # the executed actions that stay in front share the first chunk's level
        assert torch.equal(index, start)


def test_a_number_of_steps_that_the_chunks_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"3 chunks .* multiple of 3"):
        Ladder(horizon=28, execute=8, prefix=1).needs(100)
    with pytest.raises(ConfigError, match="multiple of 3"):
        chunk_ladder(100, 8, 1)(4, 28, None)
    with pytest.raises(ConfigError, match="lengthen the horizon"):
        Ladder(horizon=8, execute=8, prefix=1)


def test_chunk_wise_training_draws_exactly_the_states_met_while_denoising():
    ladder = Ladder(horizon=20, execute=8, prefix=1)
    drawn = chunk_ladder(N, 8, 1)(4000, 20, torch.Generator().manual_seed(0)) * N
    met = {tuple((ladder.resting() * N - j).round().long().tolist()) for j in range(N // ladder.chunks)}
    assert {tuple(row) for row in drawn.round().long().tolist()} == met
    assert drawn.min().item() == pytest.approx(1) and drawn.max().item() == pytest.approx(N)
    torch.testing.assert_close(drawn[:, 12] - drawn[:, 4], torch.full((4000,), N / 2).double())


def test_one_chunk_makes_the_ladder_equal_levels():
    drawn = chunk_ladder(N, 8, 1)(500, 16, torch.Generator().manual_seed(0))
    assert (drawn == drawn[:, :1]).all()
    assert (drawn * N).round().unique().numel() > 90


def test_equal_iid_and_linear_levels():
    g = torch.Generator().manual_seed(0)
    same, own, ramp = equal(N)(3000, 8, g), iid(N)(3000, 8, g), linear(N)(2, 20, g)
    assert (same == same[:, :1]).all()
    for drawn in (same[:, 0], own[:, 3]):
        counts = (drawn * N).round().long().bincount(minlength=N + 1)
        assert counts[0] == 0 and (counts[1:] > 0).all()
    correlation = torch.corrcoef(own.T) - torch.eye(8)
    assert correlation.abs().max() < 0.08  # 3,000 draws: 4 sigma
    assert (ramp[0] * N).round().tolist() == [float(int(v)) + 1 for v in torch.linspace(0, N - 1, 20)]
    assert torch.equal(ramp[0], ramp[1])


def test_the_mixture_draws_its_patterns_by_their_weights_and_per_sample():
    mixture = LevelMixture({"equal": (0.2, equal(N)), "never": (0.0, iid(N)), "ladder": (0.8, chunk_ladder(N, 8, 1))})
    levels, choice = mixture.draw(10_000, 20, torch.Generator().manual_seed(0))
    assert mixture.names == ["equal", "ladder"]
    assert choice.eq(0).double().mean().item() == pytest.approx(0.2, abs=0.016)  # 4 sigma
    flat = (levels == levels[:, :1]).all(1)
    assert torch.equal(flat, choice == 0)
    _, choice = LevelMixture({"a": (1, equal(N)), "b": (1, iid(N))}, per_batch=True).draw(64, 8)
    assert choice.unique().numel() == 1
    with pytest.raises(ConfigError, match="one above 0"):
        LevelMixture({"a": (0.0, equal(N))})


def test_a_delay_puts_a_clean_prefix_before_a_ladder_that_reproduces_itself():
    for delay in range(5):
        resting = delayed(16, 1, delay)
        assert (resting[:delay] == 0).all() and resting[-1] == 1
        after = shifted(resting, 1)
        assert (after[: delay + 1] == 0).all() and (after <= resting).all()
        torch.testing.assert_close(torch.cat([after[1:], torch.ones(1).double()]), resting)
    with pytest.raises(ConfigError, match="delay 16 of a horizon of 16"):
        delayed(16, 1, 16)


def test_delayed_training_covers_every_resting_pattern_and_every_phase_between():
    drawn = delayed_ladder(96, 1, 4)(20_000, 16, torch.Generator().manual_seed(0))
    assert ((drawn * 96 - (drawn * 96).round()).abs() < 1e-9).all()
    clean = (drawn == 0).sum(1)
    assert clean.bincount(minlength=5).double().div(20_000).sub(0.2).abs().max() < 0.015
    for delay in range(5):
        mine = drawn[clean == delay]
        assert (mine.diff(dim=1) >= 0).all()
        target = (delayed(16, 1, delay) * 96).ceil() / 96
        assert (mine.amax(0) - target).abs().max() < 1e-9  # phase 0: the resting pattern itself
        torch.testing.assert_close(
            mine[:, delay:].amin(0), (shifted(target, 1)[delay:] + 1 / 96), rtol=0, atol=1.1 / 96
        )


def test_ladders_of_several_chunk_sizes_hold_the_resting_levels_of_each():
    drawn = delayed_ladder(96, (2, 4, 8), 0)(6_000, 16, torch.Generator().manual_seed(0))
    chunks = torch.tensor([len(row.unique()) for row in drawn])
    for execute in (2, 4, 8):
        mine = drawn[chunks == 16 // execute]
        assert abs(len(mine) / 6_000 - 1 / 3) < 0.03
        assert torch.equal(mine.amax(0), Ladder(horizon=16, execute=execute).resting())
        assert torch.equal(mine, mine[:, ::execute].repeat_interleave(execute, 1))


def test_jitter_moves_single_positions_and_leaves_the_clean_prefix():
    drawn = delayed_ladder(96, 1, 2, jitter=0.05)(500, 16, torch.Generator().manual_seed(0))
    assert (drawn.diff(dim=1) < 0).any() and ((drawn == 0).sum(1) <= 2).all() and drawn.max() <= 1
