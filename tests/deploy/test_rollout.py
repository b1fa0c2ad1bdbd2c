"""Real time in simulation: the world moves on while the policy thinks."""

import threading

import numpy as np
import pytest

from deploy import rollout


class Ones:
    """A policy whose actions are ones; `wait` is what a call does first."""

    wait = staticmethod(lambda: True)
    waited = []

    def __init__(self, path):
        self.manifest = type("M", (), {
            "rate_hz": 50.0, "first": 0, "execute": 4, "action_low": (-1.0,), "action_high": (1.0,), "action_dim": 1,
            "observations": [type("O", (), {"name": "state"})()],
        })()  # fmt: skip

    def warm_up(self):
        pass

    reset = stand_by = observe = lambda self, argument: None

    def prepare(self, observation):
        return self.call

    def call(self):
        self.waited.append(self.wait())
        return np.ones((4, 1), np.float32)


class Road:
    """Ends after 30 steps, whatever is done."""

    def __init__(self):
        self.actions, self.closed, self.over = [], False, threading.Event()

    def reset(self, seed):
        return {"state": np.zeros(1)}, {"success": False}

    def step(self, action):
        assert len(self.actions) < 30, "stepped after its end"
        self.actions.append(float(action[0]))
        if len(self.actions) == 30:
            self.over.set()
        return {"state": np.zeros(1)}, 0.0, False, self.over.is_set(), {"success": False}

    def close(self):
        self.closed = True


@pytest.fixture
def road(monkeypatch):
    road = Road()
    monkeypatch.setattr(rollout, "open_policy", Ones)
    monkeypatch.setattr(rollout, "make", lambda task, observe: road)
    return road


def test_the_simulator_moves_on_in_every_tick_while_the_policy_computes(road, monkeypatch):
    waited = []
    monkeypatch.setattr(Ones, "waited", waited)
    monkeypatch.setattr(Ones, "wait", lambda self: road.over.wait(20))  # no answer before the episode is over
    outcome, timing = rollout.real_time("a.onnx", "task", 1, 50.0)
    assert waited == [True] and road.closed
    assert outcome.steps == timing["ticks"] == timing["misses"] == 30 and timing["miss_rate"] == 1
    assert set(road.actions) == {0.0}  # the safe action: the policy never gave one in time


def test_actions_that_are_in_time_are_played(road):
    outcome, timing = rollout.real_time("a.onnx", "task", 1, 20.0)
    assert outcome.steps == timing["ticks"] == 30
    assert road.actions.count(1.0) >= 30 - timing["misses"] > 0
    assert timing["simulator_ms"] >= 0
