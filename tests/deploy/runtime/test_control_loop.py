"""Ticks, late calls, holds and the safe action, on a clock that moves only when told."""

import numpy as np
import pytest

from deploy.runtime.control_loop import ControlLoop
from deploy.runtime.errors import InputError
from deploy.runtime.policy import ActionError

from .clock import Clock


class Script:
    """A policy that takes given times and numbers its actions; a time of None refuses, one of "nan" blames its input.

    seen: the observations in the order in which it was shown them."""

    def __init__(self, clock, times, execute=1, first=0):
        self.clock, self.times, self.count = clock, list(times), 0
        self.manifest = type("M", (), {"rate_hz": 10.0, "first": first, "execute": execute})()
        self.execute, self.seen = execute, []

    def observe(self, observation):
        self.seen.append(observation)

    def step(self, observation):
        taken = self.times.pop(0) if self.times else 0.01
        if taken == "nan":
            raise InputError("no")
        self.observe(observation)
        if taken is None:
            raise ActionError("no")
        self.clock.now += taken
        self.count += 1
        return np.array([[100.0 * self.count + i] for i in range(self.execute)])


def loop(times, ticks, **kwargs):
    clock, sent = Clock(), []
    script = Script(clock, times, kwargs.pop("execute", 1), kwargs.pop("first", 0))
    control = ControlLoop(
        script, dict, lambda action, tick: sent.append((tick, float(action[0]))), np.array([-1.0]), clock=clock,
        sleep=clock.sleep, **kwargs,
    )  # fmt: skip
    control.run(ticks)
    return control, sent


def test_in_time_every_tick_gets_its_own_action():
    control, sent = loop([], 4)
    assert sent == [(0, 100), (1, 200), (2, 300), (3, 400)] and not control.misses
    control, sent = loop([], 4, execute=2)
    assert sent == [(0, 100), (1, 101), (2, 200), (3, 201)] and len(control.calls) == 2


def test_an_overrun_drops_the_actions_that_have_passed_and_is_logged():
    control, sent = loop([0.01, 0.25], 6, execute=4)
    # ticks 0-3 from the first call; the second, at tick 4, ends after tick 5 is due plus a half: tick 6 never comes
    assert sent[:4] == [(0, 100), (1, 101), (2, 102), (3, 103)]
    assert [(m.tick, m.reason) for m in control.misses] == [(4, "late"), (5, "late")]
    control, sent = loop([0.15], 4, execute=4)
    assert sent[0] == (1, 101)  # the action of tick 0 was too late and is not sent


def test_misses_hold_then_extrapolate_then_end_in_the_safe_action():
    control, sent = loop([0.01, 0.01, None, None, None, 0.01], 6)
    assert [value for _, value in sent] == [100, 200, 200, 200, -1, 300]
    assert control.safe_ticks == 1 and [m.reason for m in control.misses] == ["refused"] * 3
    control, sent = loop([0.01, 0.01, None], 3, on_miss="extrapolate")
    assert sent[2] == (2, 300)


def test_the_policy_sees_every_tick_and_not_only_those_of_its_calls():
    clock, script = Clock(), None
    script = Script(clock, [], execute=4)
    readings = iter(range(100))
    ControlLoop(script, lambda: next(readings), lambda *_: None, np.zeros(1), clock=clock, sleep=clock.sleep).run(9)
    assert script.seen == list(range(9)) and script.count == 3


def test_a_delayed_policy_is_called_every_tick_and_its_actions_are_for_later_ones():
    control, sent = loop([], 6, execute=1, first=2)
    assert sent == [(0, -1), (1, -1), (2, 100), (3, 200), (4, 300), (5, 400)]
    assert len(control.calls) == 6 and not control.misses and control.safe_ticks == 2
    control, sent = loop([], 7, execute=2, first=1)
    assert sent == [(0, -1), (1, 100), (2, 101), (3, 200), (4, 201), (5, 300), (6, 301)] and len(control.calls) == 4


def test_an_observation_that_is_refused_is_a_miss_and_the_loop_goes_on():
    control, sent = loop([0.01, "nan", "nan", "nan", 0.01], 5)
    assert [value for _, value in sent] == [100, 100, 100, -1, 200]
    assert [(m.tick, m.reason) for m in control.misses] == [(1, "observation"), (2, "observation"), (3, "observation")]


def test_the_delay_is_measured_and_an_unknown_answer_to_a_miss_is_refused():
    control, _ = loop([0.25, 0.25], 6, execute=3)
    assert control.delay == 3 and control.delays == [2, 2]
    control, _ = loop([], 4)
    assert control.delay == 1
    summary = control.summary()
    assert summary["misses"] == 0 and summary["period_ms"] == pytest.approx(100)
    with pytest.raises(ValueError, match="choose 'hold' or 'extrapolate'"):
        loop([], 1, on_miss="pray")
