"""What a control step costs, with a network whose evaluation takes a known time: it sleeps."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, ladder_plan

EVALUATION = 0.02  # seconds
OTHERS = 0.01  # what a step may cost beside its evaluations


class Sleeper(nn.Module):
    """Takes EVALUATION seconds and finds nothing to denoise."""

    def project(self, observation):
        return observation

    def forward(self, x, t, projected):
        time.sleep(EVALUATION)
        return torch.zeros_like(x)


def step_times(model, plan, steps):
    """Seconds of every `select_action` of an episode, after one that warms up."""
    model.denoiser.net = Sleeper()
    policy, times = DiffusionPolicy(model, plan), []
    seen = {"state": np.zeros((1, 3), np.float32)}
    for episode, count in enumerate((1, steps)):
        policy.reset([episode])
        for _ in range(count):
            begin = time.perf_counter()
            policy.select_action(seen)
            times.append(time.perf_counter() - begin)
    return np.array(times[1:])


def test_the_time_of_a_call_is_proportional_to_its_evaluations_and_flat_over_the_calls(model):
    times = {m: step_times(model, ladder_plan(20, 1, m), 10) for m in (1, 2, 4, 8)}
    per_evaluation = {m: np.median(values) / m for m, values in times.items()}
    for m in (2, 4, 8):
        assert per_evaluation[m] == pytest.approx(per_evaluation[1], rel=0.2), per_evaluation
    assert per_evaluation[8] >= 0.99 * EVALUATION
    for m in (4, 8):
        p50, p99 = np.percentile(times[m], [50, 99])
        assert p99 / p50 < 2, (m, times[m])


def test_diffusion_policy_spikes_where_a_chunk_begins_and_a_ladder_of_single_steps_does_not(model):
    execute, evaluations = 8, 10
    chunk = step_times(model, chunk_plan(20, execute, evaluations), 3 * execute)
    begins = np.arange(len(chunk)) % execute == 0
    assert (chunk[begins] >= 0.99 * evaluations * EVALUATION).all()
    assert (chunk[~begins] < evaluations * EVALUATION / 2).all()  # no call: nothing but the queue
    assert np.median(chunk[~begins]) < OTHERS
    assert chunk.max() > 4 * chunk.mean()  # the mean hides it
    ladder = step_times(model, ladder_plan(20, 1), 3 * execute)
    assert np.median(ladder[begins]) == pytest.approx(np.median(ladder[~begins]), rel=0.2)
