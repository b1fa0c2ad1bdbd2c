"""The bonus and its statistics, by hand-made numbers and by what a novelty must do."""

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from control.rl.rnd.bonus import CLIP, DRND, RND, Counts, build_bonus
from control.rl.rnd.features import Features, fourier, octaves
from control.rl.rnd.statistics import ReturnScale, RunningMoments

L = 8.0


def poses(count: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """(count, 3) anywhere in the arena with x in [low, high]."""
    draws = np.random.default_rng(seed)
    return np.stack([draws.uniform(low, high, count), draws.uniform(0, L, count), draws.uniform(-3, 3, count)], -1)


def inputs(kind: str, pose: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(Features(kind, L, 47)(np.zeros((len(pose), 47), np.float32), pose))


@pytest.mark.parametrize("chunks", [[200], [1, 199], [7, 50, 143]])
def test_running_moments_are_those_of_all_rows_whatever_the_chunks(chunks):
    rows = torch.from_numpy(np.random.default_rng(0).normal(3, [0.1, 50.0, 1e-3], (200, 3)))
    moments = RunningMoments(3)
    for chunk in rows.split(chunks):
        moments.update(chunk)
    assert torch.allclose(moments.mean, rows.mean(0), atol=1e-6, rtol=0)
    assert torch.allclose(moments.var, rows.var(0, correction=0), rtol=1e-9)
    copy = RunningMoments(3)
    copy.load_state_dict(moments.state_dict())
    assert torch.equal(copy.var, moments.var) and copy.count == 200


def test_the_return_filter_runs_over_time_and_is_carried_over():
    bonus = torch.tensor([[1.0, 0.0], [0.0, 2.0], [4.0, 0.0], [0.0, 8.0]])  # (T=4, N=2)
    scale = ReturnScale(2, 0.5)
    scale(bonus[:3])
    assert torch.equal(scale.sums, torch.tensor([0.25 + 4, 1.0], dtype=torch.float64))
    scale(bonus[3:])
    assert torch.equal(scale.sums, torch.tensor([2.125, 8.5], dtype=torch.float64))
    sums = torch.tensor([1, 0.5, 4.25, 2.125, 0, 2, 1, 8.5], dtype=torch.float64)
    assert torch.allclose(scale.moments.var, sums.var(correction=0))


def test_the_scaled_bonus_does_not_depend_on_the_size_of_the_error_and_is_never_negative():
    bonus = torch.from_numpy(np.random.default_rng(1).exponential(1.0, (64, 4)).astype(np.float32))
    small, large = ReturnScale(4, 0.99), ReturnScale(4, 0.99)
    for _ in range(5):
        a, b = small(bonus), large(1000 * bonus)
    assert torch.allclose(a, b, rtol=1e-2) and a.min() >= 0


def test_the_waves_are_bounded_by_the_map_and_three_metres_at_most():
    for extent in (8.0, 10.0, 12.0, 16.0):
        assert WAVE_LIMITS[0] <= extent / 2 ** (octaves(extent) - 2) <= WAVE_LIMITS[1]
    assert fourier(np.zeros((5, 2)), 8.0).shape == (5, 16)
    u = 2 * 3.0 / 8 - 1
    first = fourier(np.array([[3.0, 8.0]]), 8.0)[0, :4]
    assert np.allclose(first, [np.sin(np.pi / 2 * u), np.cos(np.pi / 2 * u), 1.0, 0.0])


WAVE_LIMITS = (1.5, 3.0)


@pytest.mark.parametrize("kind", ["rnd", "drnd"])
def test_the_target_is_frozen_and_the_predictor_learns(kind):
    torch.manual_seed(0)
    bonus = build_bonus(kind, 16)
    x = inputs("fourier", poses(512, 0, L))
    target = [p.clone() for p in bonus.target.parameters()]
    predictor = [p.clone() for p in bonus.predictor.parameters()]
    bonus.learn(x)
    assert all(torch.equal(a, b) for a, b in zip(target, bonus.target.parameters(), strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(predictor, bonus.predictor.parameters(), strict=True))
    optimised = {id(p) for group in bonus.optimiser.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in bonus.target.parameters()}


def fit_left(bonus, kind: str, updates: int = 400) -> float:
    """Mean bonus of the right half over the left's after fitting the left."""
    left, right = inputs(kind, poses(4096, 0, L / 2 - 0.5)), inputs(kind, poses(2048, L / 2 + 0.5, L, seed=1))
    bonus.observe(left)
    for rows in torch.randint(len(left), (updates, 512)):
        bonus.learn(left[rows])
    return float(bonus.raw(right).mean() / bonus.raw(left).mean())


def test_unseen_places_look_new_with_waves():
    torch.manual_seed(0)
    waves, raw = fit_left(RND(16, proportion=1.0), "fourier"), fit_left(RND(4, proportion=1.0), "raw")
    print(f"bonus right / left: fourier {waves:.1f}, raw {raw:.1f}")
    assert waves > 5


def test_a_distributional_bonus_and_counts_tell_new_from_known_too():
    torch.manual_seed(0)
    assert fit_left(DRND(16, proportion=1.0), "fourier") > 2
    counts = Counts(4, cells=8)
    pose = np.array([[0.5, 0.5, 0.0]] * 9 + [[7.5, 7.5, 0.0]])
    counts.observe(inputs("raw", pose))
    assert torch.allclose(counts.raw(inputs("raw", pose[[0, 9]])), torch.tensor([1 / 3, 1.0]))


def test_the_bonus_decays_on_known_states_and_slower_when_a_quarter_teaches():
    x = inputs("fourier", poses(1024, 0, L))
    left = {}
    for proportion in (1.0, 0.25):
        torch.manual_seed(0)
        bonus = RND(16, proportion=proportion, lr=1e-3)
        bonus.observe(x)
        before = bonus.raw(x).mean()
        for _ in range(200):
            bonus.learn(x[torch.randint(len(x), (64,))])
        left[proportion] = float(bonus.raw(x).mean() / before)
    assert left[1.0] <= 0.1 and left[0.25] > left[1.0]


def test_whitened_inputs_stay_within_the_clip_even_where_they_never_vary():
    bonus = RND(3)
    bonus.observe(torch.full((100, 3), 2.0))
    far = torch.tensor([[1e6, 2.0, -1e6]])
    assert bonus.whiten(far).abs().max() <= CLIP and torch.isfinite(bonus.raw(far)).all()
    assert bonus.clipped(far) == pytest.approx(2 / 3)


def test_wrong_names_and_numbers_are_refused():
    with pytest.raises(ConfigError, match="bonus='icm'"):
        build_bonus("icm", 4)
    with pytest.raises(ConfigError, match="proportion"):
        RND(4, proportion=0.0)
    with pytest.raises(ConfigError, match="features='pixels'"):
        Features("pixels", L, 47)
