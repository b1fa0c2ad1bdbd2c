"""The clipped surrogate and the advantages of decisions, against autograd, hand-made cases and a double loop."""

import numpy as np
import pytest
import torch

from control.rl.rl100.surrogate import decision_advantages, normalised, surrogate, value_loss


def test_at_ratio_one_its_gradient_is_that_of_reinforce():
    torch.manual_seed(0)
    weight = torch.randn(4, 6, requires_grad=True)
    advantage = torch.randn(6)
    new = (weight**3).tanh()
    loss, shown = surrogate(new, new.detach(), advantage, 0.2)
    found = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    wanted = torch.autograd.grad(-(advantage * new.sum(0)).mean(), weight)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)
    assert shown.ratio_gap == 0 and shown.clip_fraction == 0 and shown.kl == 0


def test_beyond_the_clip_only_the_favourable_side_is_flat():
    old, advantage = torch.zeros(1, 4), torch.tensor([1.0, 1.0, -1.0, -1.0])
    new = torch.tensor([[1.5, 0.5, 1.5, 0.5]]).log().requires_grad_()
    loss, shown = surrogate(new, old, advantage, 0.2)
    gradient = torch.autograd.grad(loss, new)[0].flatten()
    assert gradient[0] == 0 and gradient[3] == 0 and gradient[1] != 0 and gradient[2] != 0
    assert shown.clip_fraction == 1 and shown.ratio_gap == pytest.approx(0.5)


def test_without_an_advantage_there_is_no_gradient():
    new = torch.randn(3, 5).requires_grad_()
    loss, _ = surrogate(new, torch.zeros(3, 5), torch.zeros(5), 0.2)
    assert torch.autograd.grad(loss, new)[0].abs().max() == 0
    assert normalised(torch.full((8,), 3.0) + 1e-6 * torch.randn(8)) is None
    assert normalised(torch.randn(8)).std() == pytest.approx(1, abs=1e-5)


def slow(rewards, values, following, terminated, done, discount, lam):
    """By the definition, decision by decision."""
    steps, count = rewards.shape
    found = np.zeros((steps, count))
    for n in range(count):
        for s in range(steps):
            factor = 1.0
            for k in range(s, steps):
                alive = 1 - terminated[k, n]
                found[s, n] += factor * (rewards[k, n] + discount * alive * following[k, n] - values[k, n])
                factor *= discount * lam * (1 - done[k, n])
    return found


def test_advantages_equal_their_definition_with_unequal_ends_and_nothing_leaks_over_one():
    random = np.random.default_rng(0)
    rewards, values, following = random.normal(size=(3, 7, 3))
    terminated, done = np.zeros((7, 3)), np.zeros((7, 3))
    terminated[2, 0] = done[2, 0] = done[4, 1] = 1  # one ended by success, one by the time limit
    found = decision_advantages(rewards, values, following, terminated, done, 0.9, 0.8)
    np.testing.assert_allclose(found, slow(rewards, values, following, terminated, done, 0.9, 0.8), atol=1e-10)
    order = [2, 0, 1]
    moved = decision_advantages(*(x[:, order] for x in (rewards, values, following, terminated, done)), 0.9, 0.8)
    np.testing.assert_array_equal(moved, found[:, order])
    rewards[5:, 1] += 100
    again = decision_advantages(rewards, values, following, terminated, done, 0.9, 0.8)
    np.testing.assert_array_equal(again[:5, 1], found[:5, 1])


def test_a_time_limit_bootstraps_and_a_termination_does_not():
    ones, zeros = np.ones((1, 1)), np.zeros((1, 1))
    cut = decision_advantages(zeros, zeros, 5 * ones, zeros, ones, 0.9)
    ended = decision_advantages(zeros, zeros, 5 * ones, ones, ones, 0.9)
    assert cut[0, 0] == pytest.approx(4.5) and ended[0, 0] == 0


def test_the_value_cannot_gain_by_running_beyond_its_clip():
    old, target = torch.zeros(1), torch.ones(1)
    assert value_loss(torch.tensor([0.9]), old, target) == pytest.approx(0.64)
    assert value_loss(torch.tensor([0.1]), old, target) == pytest.approx(0.81)
