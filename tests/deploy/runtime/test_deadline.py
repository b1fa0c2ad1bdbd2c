import numpy as np
import pytest

from deploy.runtime.deadline import DeadlineLoop, percentiles

from .clock import Clock


def run(durations, period=1.0):
    clock = Clock()
    loop = DeadlineLoop(period, clock=clock, sleep=clock.sleep)
    return loop.run(lambda i: clock.sleep(durations[i]), len(durations))


def test_work_shorter_than_the_period_misses_nothing_and_starts_on_time():
    loop = run([0.5, 0.9, 0.1])
    assert loop.misses == loop.skipped == 0
    assert loop.lateness == pytest.approx([0, 0, 0])


def test_an_overrun_is_one_miss_and_makes_the_next_round_late():
    loop = run([1.25, 0.5, 0.5])
    assert loop.misses == 1 and loop.skipped == 0
    assert loop.lateness == pytest.approx([0, 0.25, 0])


def test_rounds_that_passed_during_an_overrun_are_skipped_not_queued():
    loop = run([3.5, 0.1, 0.1])
    assert loop.misses == 1 and loop.skipped == 2
    assert loop.lateness == pytest.approx([0, 0.5, 0])


def test_percentiles_are_numpys_in_milliseconds():
    seconds = np.linspace(0.001, 0.1, 100)
    got = percentiles(seconds)
    assert got["p50_ms"] == pytest.approx(50.5) and got["max_ms"] == pytest.approx(100) and got["n"] == 100
