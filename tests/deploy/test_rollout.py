"""Real time in simulation: the world moves on while the policy thinks."""

import time

import numpy as np
import pytest

from deploy import rollout


class SlowPolicy:
    """Actions of ones; a call takes `seconds`."""

    seconds = 0.0

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
        time.sleep(self.seconds)
        return np.ones((4, 1), np.float32)


class Road:
    """Ends after 30 steps, whatever is done."""

    def __init__(self):
        self.actions, self.closed = [], False

    def reset(self, seed):
        return {"state": np.zeros(1)}, {"success": False}

    def step(self, action):
        assert len(self.actions) < 30, "stepped after its end"
        self.actions.append(float(action[0]))
        return {"state": np.zeros(1)}, 0.0, False, len(self.actions) == 30, {"success": False}

    def close(self):
        self.closed = True


@pytest.fixture
def road(monkeypatch):
    road = Road()
    monkeypatch.setattr(rollout, "StreamingPolicy", SlowPolicy)
    monkeypatch.setattr(rollout, "make", lambda task, observe: road)
    return road


def test_the_simulator_moves_on_in_every_tick_that_a_slow_policy_misses(road, monkeypatch):
    monkeypatch.setattr(SlowPolicy, "seconds", 0.15)  # of a period of 0.02
    begin = time.perf_counter()
    outcome, timing = rollout.real_time("a.onnx", "task", 1, 50.0)
    assert time.perf_counter() - begin < 3  # it does not wait for a call per chunk
    assert outcome.steps == timing["ticks"] == 30 and road.closed
    # no action of a chunk of four is in time, and the world has seen nothing but the safe action
    assert timing["misses"] == 30 and timing["miss_rate"] == 1 and set(road.actions) == {0.0}


def test_a_fast_policy_is_played_tick_by_tick(road):
    outcome, timing = rollout.real_time("a.onnx", "task", 1, 50.0)
    assert outcome.steps == timing["ticks"] == 30
    assert road.actions.count(1.0) >= 15 and timing["miss_rate"] <= 0.5
    assert 0 <= timing["simulator_ms"] < 20
