"""Chunk returns, ends inside a chunk, time limits and windows, worked out by hand."""

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError
from control.demonstrations.store import Episode
from control.rl.rl100.decisions import decisions_of

GAMMA = 0.5


def episode(length: int, success: bool, rewards=None, seed: int | None = None) -> Episode:
    """Its observation is the number of the step, its action ten times that."""
    steps = np.arange(length + 1, dtype=np.float32)[:, None]
    paid = np.zeros(length, np.float32) if rewards is None else np.asarray(rewards, np.float32)
    if rewards is None and success:
        paid[-1] = 1
    return Episode({"state": steps}, 10 * steps[:-1], paid, success, seed)


@pytest.mark.parametrize(("length", "reward"), [(9, 1.0), (10, GAMMA), (12, GAMMA**3)])
def test_a_success_inside_a_chunk_is_paid_at_its_step_and_ends_the_bootstrap(length, reward):
    found = decisions_of([episode(length, True)], 4, 1, GAMMA)
    assert len(found) == 3
    torch.testing.assert_close(found.reward, torch.tensor([0.0, 0.0, reward]))
    torch.testing.assert_close(found.discount, torch.tensor([GAMMA**4, GAMMA**4, 0.0]))
    assert found.following["state"][-1, 0, 0] == length


def test_a_time_limit_bootstraps_from_where_it_cut():
    found = decisions_of([episode(10, False)], 4, 1, GAMMA)
    torch.testing.assert_close(found.discount, torch.tensor([GAMMA**4, GAMMA**4, GAMMA**2]))
    ended = decisions_of([episode(10, True)], 4, 1, GAMMA)
    assert ended.discount[-1] == 0 and found.discount[-1] > 0


def test_a_failure_that_ends_an_episode_ends_the_bootstrap_too():
    crashed = episode(10, False)
    crashed.terminated = True
    assert decisions_of([crashed], 4, 1, GAMMA).discount[-1] == 0


def test_rewards_within_a_chunk_are_discounted():
    found = decisions_of([episode(5, False, [1, 2, 3, 4, 5])], 4, 1, GAMMA)
    torch.testing.assert_close(found.reward, torch.tensor([1 + 1 + 0.75 + 0.5, 5.0]))


def test_windows_repeat_the_first_observation_and_a_short_chunk_its_last_action():
    found = decisions_of([episode(6, True)], 4, 3, GAMMA)
    np.testing.assert_array_equal(found.observation["state"][:, :, 0], [[0, 0, 0], [2, 3, 4]])
    np.testing.assert_array_equal(found.following["state"][:, :, 0], [[2, 3, 4], [4, 5, 6]])
    np.testing.assert_array_equal(found.action[:, :, 0], [[0, 10, 20, 30], [40, 50, 50, 50]])


def test_no_window_or_chunk_crosses_an_episode_and_lengths_add_up():
    one, other = decisions_of([episode(7, True)], 4, 2, GAMMA), decisions_of([episode(5, False)], 4, 2, GAMMA)
    both = decisions_of([episode(7, True), episode(5, False)], 4, 2, GAMMA)
    joined = one.with_(other)
    assert len(both) == len(one) + len(other) == len(joined)
    for name in ("action", "reward", "discount", "episode"):
        assert torch.equal(getattr(both, name), getattr(joined, name)), name
    assert torch.equal(both.rows(torch.tensor([3])).observation["state"], other.observation["state"][1:])


def test_a_stride_of_one_makes_a_decision_of_every_step():
    found = decisions_of([episode(6, True)], 4, 1, GAMMA, stride=1)
    assert len(found) == 6
    torch.testing.assert_close(found.reward, torch.tensor([0, 0, GAMMA**3, GAMMA**2, GAMMA, 1.0]))
    torch.testing.assert_close(found.discount, torch.tensor([GAMMA**4, GAMMA**4, 0, 0, 0, 0]))


def test_what_cannot_be_used_is_named():
    with pytest.raises(DataError, match="no episodes"):
        decisions_of([], 4, 1, GAMMA)
    broken = episode(6, True, [0, 0, np.nan, 0, 0, 1], seed=7)
    with pytest.raises(DataError, match=r"episode 1 \(seed 7\): rewards holds values that are not finite"):
        decisions_of([episode(6, True), broken], 4, 1, GAMMA)
    with pytest.raises(ConfigError, match=r"gamma=1\.5"):
        decisions_of([episode(6, True)], 4, 1, 1.5)
