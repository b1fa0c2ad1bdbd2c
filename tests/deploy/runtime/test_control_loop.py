"""Ticks, late calls, holds and the safe action, on a clock that moves only when told."""

import numpy as np
import pytest

from deploy.runtime.control_loop import ControlLoop
from deploy.runtime.policy import ActionError

from .clock import Clock


class Script:
    """A policy that takes given times and numbers its actions; a time of None refuses."""

    def __init__(self, clock, times, execute=1, first=0):
        self.clock, self.times, self.count = clock, list(times), 0
        self.manifest = type("M", (), {"rate_hz": 10.0, "first": first, "execute": execute})()
        self.execute = execute

    def step(self, observation):
        taken = self.times.pop(0) if self.times else 0.01
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


def test_a_delayed_policys_actions_are_for_later_ticks():
    control, _ = loop([], 4, execute=1, first=0)
    assert control.delay == 1
    summary = control.summary()
    assert summary["misses"] == 0 and summary["period_ms"] == pytest.approx(100)
    with pytest.raises(ValueError, match="choose 'hold' or 'extrapolate'"):
        loop([], 1, on_miss="pray")
