"""Ticks, late calls, holds and the safe action, on a clock that moves only when told; and once with a real thread."""

import threading

import numpy as np
import pytest

from deploy.runtime.control_loop import ControlLoop
from deploy.runtime.errors import InputError
from deploy.runtime.policy import ActionError

from .clock import Clock, SimulatedWorker


class Script:
    """A policy that takes given times and numbers its actions; a time of None refuses, one of "nan" blames its input,
    an exception is raised.

    seen: the observations in the order in which it was shown them; an observation of "bad" is refused."""

    def __init__(self, work, times, execute=1, first=0, limits=(-1e3, 1e3)):
        self.work, self.times, self.count = work, list(times), 0
        self.manifest = type("M", (), {"rate_hz": 10.0, "first": first, "execute": execute,
                                       "action_low": (limits[0],), "action_high": (limits[1],)})()  # fmt: skip
        self.execute, self.seen, self.threads = execute, [], set()

    def stand_by(self, action):
        self.idle = float(action[0])

    def observe(self, observation):
        if observation == "bad":
            raise InputError("bad observation")
        self.seen.append(observation)

    def prepare(self, observation):
        taken = self.times.pop(0) if self.times else 0.01
        if taken == "nan":
            raise InputError("no")
        self.observe(observation)
        return lambda: self.call(taken)

    def call(self, taken):
        self.threads.add(threading.get_ident())
        if isinstance(taken, Exception):
            raise taken
        if taken is None:
            raise ActionError("no")
        self.work(taken)
        self.count += 1
        return np.array([[100.0 * self.count + i] for i in range(self.execute)])


def loop(times, ticks, **kwargs):
    """On a simulated clock; (control, [(tick, action)]). Keyword `at` gets the clock's time of every send."""
    clock, sent, at = Clock(), [], kwargs.pop("at", [])
    script = Script(clock.sleep, times, kwargs.pop("execute", 1), kwargs.pop("first", 0),
                    kwargs.pop("limits", (-1e3, 1e3)))  # fmt: skip

    def send(action, tick):
        at.append(clock.now)
        sent.append((tick, float(action[0])))

    read = kwargs.pop("read", dict)
    arguments = {"clock": clock, "sleep": clock.sleep, "worker": SimulatedWorker, **kwargs}
    control = ControlLoop(script, lambda: read(clock) if read is not dict else {}, send, np.array([-1.0]), **arguments)
    try:
        control.run(ticks)
    except ZeroDivisionError:
        control.raised = True
    return control, sent


def test_in_time_every_tick_gets_its_own_action_in_that_tick():
    at = []
    control, sent = loop([], 4, at=at)
    assert sent == [(0, 100), (1, 200), (2, 300), (3, 400)] and not control.misses
    np.testing.assert_allclose(at, [0.01, 0.11, 0.21, 0.31])  # not a tick later
    control, sent = loop([], 4, execute=2)
    assert sent == [(0, 100), (1, 101), (2, 200), (3, 201)] and len(control.calls) == 2


def test_an_overrun_drops_the_actions_that_have_passed_and_counts_them():
    at = []
    control, sent = loop([0.01, 0.25], 8, execute=4, at=at)
    # ticks 0-3 from the first call; the second, at tick 4, ends in tick 6, which it still serves
    assert sent == [(0, 100), (1, 101), (2, 102), (3, 103), (4, 103), (5, 103), (6, 202), (7, 203)]
    assert [(m.tick, m.reason) for m in control.misses] == [(4, "late"), (5, "late")] and control.dropped == 2
    np.testing.assert_allclose(at[4:], [0.5, 0.6, 0.65, 0.7])  # each before its tick is over
    control, sent = loop([0.15], 4, execute=4)
    assert sent[:2] == [(0, -1), (1, 101)]  # the action of tick 0 was too late and is not sent


def test_a_delayed_plan_whose_calls_take_longer_than_a_period_is_sent_in_time():
    at = []
    control, sent = loop([0.15] * 20, 8, execute=2, first=2, at=at)
    assert sent == [(0, -1), (1, -1), (2, 100), (3, 101), (4, 200), (5, 201), (6, 300), (7, 301)]
    assert not control.misses and control.dropped == 0
    np.testing.assert_allclose(at, 0.1 * np.arange(8))
    control, sent = loop([0.15] * 20, 8, execute=1, first=2)  # called every second tick, for lack of time
    assert [value for _, value in sent] == [-1, -1, 100, 100, 200, 200, 300, 300]
    assert [m.tick for m in control.misses] == [3, 5, 7]


def test_during_a_call_that_hangs_every_tick_is_answered():
    at = []
    control, sent = loop([0.01, 2.0], 24, at=at)
    assert [tick for tick, _ in sent] == list(range(24))
    np.testing.assert_allclose(at[2:20], 0.1 * np.arange(2, 20))
    assert sent[1:3] == [(1, 100), (2, 100)] and {value for _, value in sent[3:21]} == {-1.0}
    assert sent[22:] == [(22, 400), (23, 500)] and control.safe_ticks == 18 and control.dropped == 1
    assert control.summary()["miss_rate"] == pytest.approx(20 / 24)


def test_misses_hold_then_end_in_the_safe_action():
    control, sent = loop([0.01, 0.01, None, None, None, 0.01], 6)
    assert [value for _, value in sent] == [100, 200, 200, 200, -1, 300]
    assert control.safe_ticks == 1 and [m.reason for m in control.misses] == ["refused"] * 3


def test_extrapolation_continues_two_consecutive_actions_within_the_limits():
    _, sent = loop([0.01, 0.01, None, None], 4, on_miss="extrapolate")
    assert [value for _, value in sent[2:]] == [300, 400]
    _, sent = loop([0.01, 0.01, None, None], 4, on_miss="extrapolate", limits=(-1.0, 250.0))
    assert [value for _, value in sent[2:]] == [250, 250]
    _, sent = loop([0.01, None], 2, on_miss="extrapolate", first=1)  # the safe action is not a point to go on from
    assert [value for _, value in sent] == [-1, 100]
    _, sent = loop([0.01, None, 0.01], 4, on_miss="extrapolate", first=1)
    assert [value for _, value in sent] == [-1, 100, 100, 200]
    _, sent = loop([0.01, None, 0.01, None], 4, on_miss="extrapolate")  # ticks 0 and 2 are not consecutive
    assert [value for _, value in sent] == [100, 100, 200, 200]


def test_the_policy_sees_every_tick_and_not_only_those_of_its_calls():
    clock = Clock()
    script = Script(clock.sleep, [], execute=4)
    readings = iter(range(100))
    ControlLoop(script, lambda: next(readings), lambda *_: None, np.zeros(1), clock=clock, sleep=clock.sleep,
                worker=SimulatedWorker).run(9)  # fmt: skip
    assert script.seen == list(range(9)) and script.count == 3


def test_the_policy_sees_the_ticks_that_pass_while_a_call_runs():
    control, _ = loop([0.35], 6, read=lambda clock: round(clock.now, 3))
    assert control.policy.seen == [0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_delayed_policy_is_called_every_tick_and_its_actions_are_for_later_ones():
    control, sent = loop([], 6, execute=1, first=2)
    assert sent == [(0, -1), (1, -1), (2, 100), (3, 200), (4, 300), (5, 400)]
    assert len(control.calls) == 6 and not control.misses and control.safe_ticks == 2
    assert control.policy.idle == -1  # its buffer begins with what is sent meanwhile
    control, sent = loop([], 7, execute=2, first=1)
    assert sent == [(0, -1), (1, 100), (2, 101), (3, 200), (4, 201), (5, 300), (6, 301)] and len(control.calls) == 4


def test_an_observation_that_is_refused_is_a_miss_and_the_loop_goes_on():
    control, sent = loop([0.01, "nan", "nan", "nan", 0.01], 5)
    assert [value for _, value in sent] == [100, 100, 100, -1, 200]
    assert [(m.tick, m.reason) for m in control.misses] == [(1, "observation"), (2, "observation"), (3, "observation")]
    control, sent = loop([0.01, "nan"], 4, first=1)  # the call of tick 1 was for tick 2
    assert [(m.tick, m.reason) for m in control.misses] == [(2, "observation")] and sent[2:] == [(2, 100), (3, 200)]


def test_observations_that_are_refused_between_calls_are_logged_as_gaps_of_the_history():
    read = lambda clock: "bad" if 0.05 < clock.now < 0.65 else {}  # noqa: E731
    control, _ = loop([], 9, execute=8, read=read)
    assert [gap.tick for gap in control.gaps] == [1, 2, 3, 4, 5, 6] and not control.misses
    assert control.gaps[0].message == "bad observation" and control.summary()["observation_gaps"] == 6


def test_misses_are_a_part_of_the_ticks_even_if_the_sensors_swallow_most():
    def read(clock):
        clock.sleep(0.95)
        return {}

    control, sent = loop([], 40, read=read, send_passed=False)
    assert control.ticks == 40 and len(control.misses) > 20
    assert len({m.tick for m in control.misses}) == len(control.misses)
    assert len(sent) < 10 and control.summary()["miss_rate"] <= 1
    control, sent = loop([], 40, read=read, send_passed=True)
    assert [tick for tick, _ in sent] == list(range(40))


@pytest.mark.parametrize("where", ["read", "call", "send"])
def test_whatever_raises_the_safe_action_is_sent_before_the_error_goes_on(where):
    def read(clock):
        return 1 / 0 if where == "read" and clock.now > 0.15 else {}

    times = [0.01, 0.01, ZeroDivisionError("call")] if where == "call" else []
    if where != "send":
        control, sent = loop(times, 6, read=read)
        assert control.raised and sent[-1] == (2, -1) and sent[1] == (1, 200)
        assert control._worker.closed
        return
    sent, clock = [], Clock()

    def send(action, tick):
        sent.append((tick, float(action[0])))
        return 1 / 0 if tick == 2 and len(sent) == 3 else None

    control = ControlLoop(Script(clock.sleep, []), dict, send, np.array([-1.0]), clock=clock, sleep=clock.sleep,
                          worker=SimulatedWorker)  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        control.run(6)
    assert sent[-1] == (2, -1)


def test_stop_ends_the_run_after_the_present_tick():
    clock, sent = Clock(), []

    def send(action, tick):
        sent.append(tick)
        if tick == 3:
            control.stop()

    control = ControlLoop(Script(clock.sleep, []), dict, send, np.zeros(1), clock=clock, sleep=clock.sleep,
                          worker=SimulatedWorker)  # fmt: skip
    control.run(100)
    assert sent == [0, 1, 2, 3] and control.ticks == 4


def test_the_delay_is_that_of_recent_calls_without_the_first():
    control, _ = loop([2.0, *[0.25] * 8], 60, execute=3, first=3)
    assert control.delay == 3 and len(control.ages) == len(control.calls) > 10
    control, _ = loop([2.0], 60)
    assert control.delay == 1  # the first call is not counted
    control, _ = loop([0.01, 0.35, *[0.01] * 30], 40)
    assert control.delay == 1  # forgotten
    assert loop([], 1)[0].delay == 0  # nothing measured
    summary = loop([], 4)[0].summary()
    assert summary["misses"] == 0 and summary["period_ms"] == pytest.approx(100) and summary["delay"] == 1


def test_an_unknown_answer_to_a_miss_is_refused():
    with pytest.raises(ValueError, match="choose 'hold' or 'extrapolate'"):
        loop([], 1, on_miss="pray")


def test_in_real_time_every_tick_is_answered_while_a_thread_computes():
    """The second call ends only after six more actions have been sent, however busy the machine is."""
    sent, gate, state = [], threading.Event(), {"since": None, "opened": None}

    def work(seconds):
        if seconds == "gate":
            state["since"] = len(sent)
            state["opened"] = gate.wait(20)

    def send(action, tick):
        sent.append((tick, float(action[0])))
        if state["since"] is not None and len(sent) >= state["since"] + 6:
            gate.set()

    script = Script(work, [0, "gate"], execute=2, first=1)
    control = ControlLoop(script, dict, send, np.array([-1.0]), rate_hz=50.0, send_passed=True).run(40)
    assert state["opened"] and [tick for tick, _ in sent] == list(range(40))
    assert sent[state["since"] + 5][1] == -1 and control.dropped >= 2
    assert len(script.threads) == 1 and threading.get_ident() not in script.threads
