"""What a control step costs, counted in network evaluations: wall time is for benchmarks, which fail no test."""

import numpy as np
import pytest
import torch
from torch import nn

from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, ladder_plan


class Counter(nn.Module):
    """Counts its evaluations and finds nothing to denoise."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def project(self, observation):
        return observation

    def forward(self, x, t, projected):
        self.count += 1
        return torch.zeros_like(x)


def evaluations(model, plan, steps):
    """Network evaluations in every `select_action` of an episode."""
    net = model.denoiser.net = Counter()
    policy, found = DiffusionPolicy(model, plan), []
    seen = {"state": np.zeros((1, 3), np.float32)}
    policy.reset([0])
    for _ in range(steps):
        before = net.count
        policy.select_action(seen)
        found.append(net.count - before)
    assert policy.evaluations == net.count
    return np.array(found)


@pytest.mark.parametrize("m", [1, 2, 4, 5])
def test_every_call_of_a_ladder_costs_its_evaluations_the_first_one_too(model, m):
    assert (evaluations(model, ladder_plan(20, 1, m), 30) == m).all()


def test_diffusion_policy_spikes_where_a_chunk_begins(model):
    chunk = evaluations(model, chunk_plan(20, 8, 10), 24)
    assert chunk.tolist() == ([10] + [0] * 7) * 3
    assert chunk.max() == 8 * chunk.mean()  # the mean hides it
