"""Intervals against published values, coverage, and a gap that is there or is not."""

import numpy as np
import pytest

from common.statistics import paired_difference, wilson


def test_wilsons_interval_has_its_published_values():
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0)


def test_wilsons_interval_covers_the_true_rate_as_often_as_it_says():
    random = np.random.default_rng(0)
    successes = random.binomial(50, 0.85, 4000)
    inside = [low <= 0.85 <= high for low, high in (wilson(int(k), 50) for k in successes)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_a_paired_difference_excludes_zero_for_a_real_gap_and_not_for_none():
    random = np.random.default_rng(0)
    base = random.random((3, 50)) < 0.6
    better = base | (random.random((3, 50)) < 0.5)
    mean, low, high = paired_difference(base, better, draws=2000)
    assert mean == pytest.approx((better.astype(float) - base).mean()) and low > 0
    mean, low, high = paired_difference(base, random.permuted(base, axis=1), draws=2000)
    assert low < 0 < high
    assert paired_difference(base[0], base[0], draws=100) == (0, 0, 0)


def test_the_interval_of_a_level_is_that_of_the_normal_law_where_cases_are_many():
    gain = np.random.default_rng(0).normal(0.3, 1.0, 4000)
    for level, quantile in ((0.9, 1.645), (0.95, 1.960)):
        mean, low, high = paired_difference(np.zeros(4000), gain, level=level)
        half = quantile * gain.std() / 4000**0.5
        np.testing.assert_allclose([mean, mean - low, high - mean], [gain.mean(), half, half], rtol=0.05)
