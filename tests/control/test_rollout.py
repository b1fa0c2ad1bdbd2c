import numpy as np
import pytest

from common.statistics import wilson
from control.delay import DelayedActor
from control.envs import make
from control.rollout import Outcome, rollout, summary


class Sideways:
    """Goes round the obstacle of TwoRoutes by the side its noise gives; keeps count of what it is asked."""

    def __init__(self):
        self.resets = []

    def reset(self, seeds=None, mask=None):
        self.resets.append(list(seeds))
        self.sides = [1 if np.random.default_rng(seed).random() < 0.5 else -1 for seed in seeds]
        self.steps = 0

    def select_action(self, observation, active=None):
        state = observation["state"]
        assert state.shape == (len(self.sides), 10)
        self.steps += 1
        actions = []
        for one, side in zip(state, self.sides, strict=True):
            goal = one[6:8] if one[1] > 0.15 else np.array([0.3 * side, 0.2])
            gap = goal - one[4:6]
            actions.append(gap / max(np.linalg.norm(gap), 0.02))
        return np.array(actions)


def test_the_outcomes_do_not_depend_on_how_many_run_side_by_side():
    seeds = [100_003, 100_007, 100_001, 100_010, 100_020]
    one, many = (rollout(Sideways(), "TwoRoutes-v0", seeds, parallel=n) for n in (1, 3))
    assert one == many and [o.seed for o in one] == seeds
    assert summary(one)["success"] >= 0.8


def test_every_wave_begins_with_its_own_seeds_and_the_score_is_the_largest():
    policy = Sideways()
    found = rollout(policy, "TwoRoutes-v0", [1, 2, 3], parallel=2, score="side", stop_on_success=False)
    assert policy.resets == [[1, 2], [3]]
    assert all(o.score == max(0, o.info["side"]) for o in found)


def test_recording_sees_every_step_of_every_episode():
    steps = []
    found = rollout(Sideways(), "TwoRoutes-v0", [1, 2], record=lambda seed, step, *rest: steps.append((seed, step)))
    assert sorted(steps) == sorted((o.seed, k) for o in found for k in range(o.steps))


def test_a_summary_counts():
    outcomes = [Outcome(i, i < 3, 10 + i, float(i < 3), {}) for i in range(4)]
    found = summary(outcomes)
    assert found["success"] == 0.75 and found["steps"] == 11.5
    assert (found["success_low"], found["success_high"]) == wilson(3, 4)


class Counter:
    """Chunks that say when they were asked for and which of their actions it is."""

    def reset(self, seeds=None, mask=None):
        self.now = -1

    def observe(self, observation):
        self.now += 1

    def predict_action_chunk(self, observation, active=None):
        self.now += 1
        return np.array([[[100.0 * self.now + i] for i in range(6)]])


def delayed(steps, **kwargs):
    actor = DelayedActor(Counter(), idle=np.array([-1.0]), **kwargs)
    actor.reset([0])
    return [float(actor.select_action({})[0, 0]) for _ in range(steps)]


def test_a_late_answer_replaces_the_plan_when_it_arrives():
    assert delayed(4, delay=0, every=1, drop=0) == [0, 100, 200, 300]
    assert delayed(8, delay=2, every=4, drop=2) == [-1, -1, 2, 3, 4, 5, 402, 403]  # aligned in time
    assert delayed(6, delay=2, every=2, drop=0) == [-1, -1, 0, 1, 200, 201]  # played two steps late
    assert delayed(9, delay=0, every=8, drop=0)[-4:] == [5, 5, 5, 800]  # held when it runs out
    with pytest.raises(ValueError, match="every at least 1"):
        DelayedActor(Counter(), 0, 0, 0, np.zeros(1))


def test_the_environments_of_a_rollout_are_those_of_the_task():
    env = make("TwoRoutes-v0")
    first = []
    rollout(Sideways(), "TwoRoutes-v0", [5], record=lambda seed, step, seen, *rest: first.append(seen["state"]))
    np.testing.assert_array_equal(first[0], env.reset(seed=5)[0]["state"])
