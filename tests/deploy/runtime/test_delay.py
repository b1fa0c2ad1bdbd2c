"""The measured delay and the choice among plans that were made for several."""

from types import SimpleNamespace

import pytest

from deploy.runtime.delay import DelayError, choose, delay_in_steps


def plans(*delays):
    return [SimpleNamespace(manifest=SimpleNamespace(first=d)) for d in delays]


def test_the_delay_is_a_high_percentile_of_the_recent_calls_rounded_up():
    assert delay_in_steps([], 0.1) == 0
    assert delay_in_steps([0.05] * 20, 0.1) == 1
    assert delay_in_steps([0.1] * 20, 0.1) == 1  # just in time
    assert delay_in_steps([0.11] * 20, 0.1) == 2
    assert delay_in_steps([0.05] * 17 + [0.25, 0.35, 0.45], 0.1) == 5  # the mean would say 1
    assert delay_in_steps([9.0] + [0.05] * 20, 0.1) == 1  # 21 calls ago


def test_the_plan_that_just_covers_the_delay_is_chosen():
    known = plans(4, 0, 2, 1)
    assert [choose(known, delay).manifest.first for delay in (0, 1, 2, 3, 4)] == [0, 1, 2, 4, 4]


def test_a_delay_that_no_plan_covers_is_named_with_what_to_export():
    with pytest.raises(DelayError, match=r"5 control steps late, the plans are for \[0, 4\].*delay=5"):
        choose(plans(4, 0), 5)
    with pytest.raises(DelayError, match="none"):
        choose([], 0)
