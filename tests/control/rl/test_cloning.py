"""A driver's clone: what is shown, what is learnt, and that reinforcement learning stays near it."""

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecMonitor
from torch.distributions import Independent, Normal, kl_divergence

from common.errors import ConfigError
from control.envs.warehouse.env import WarehouseVecEnv
from control.rl.cloning import clone, demonstrate
from control.rl.rnd.policy import RelativeEntropyPolicy
from control.rl.rnd.ppo import RNDPPO

SMALL = dict(n_steps=32, batch_size=64, n_epochs=2, seed=3, device="cpu")


def model_of(**kwargs) -> RNDPPO:
    env = WarehouseVecEnv(4, "Simple")
    env.seed(3)
    return RNDPPO(VecMonitor(env), **{"policy": RelativeEntropyPolicy, "int_coef": 0.0, **SMALL, **kwargs})


@pytest.fixture(scope="module")
def shown():
    return demonstrate("pure_pursuit", 12, noise=0.2, gamma=0.9, rows=4, layout="Simple")


def test_kept_are_whole_episodes_that_reached_the_goal_with_discounted_returns(shown):
    ends = np.flatnonzero(shown.returns == 1.0)
    assert shown.tried == 12 and shown.reached == len(ends) >= 10
    first = np.arange(ends[0] + 1)
    np.testing.assert_allclose(shown.returns[: ends[0] + 1], 0.9 ** (ends[0] - first), rtol=1e-5)
    assert np.abs(shown.actions).max() <= 1 and shown.observations.shape == (len(shown.actions), 47)


def test_the_kept_action_is_the_drivers_and_not_the_noisy_one_that_was_driven():
    """The next observation holds the driven action: with noise it differs from the kept one, without it is the same."""
    gaps = []
    for noise in (0.0, 0.5):
        one = demonstrate("pure_pursuit", 1, noise=noise, rows=1, layout="Simple")
        gaps.append(np.abs(one.observations[1:, 45:47] - one.actions[:-1]).max())
    assert gaps[0] < 1e-6 and gaps[1] > 0.1


def test_the_same_seed_shows_the_same_whatever_else_is_drawn():
    one, other = (demonstrate("dynamic_window", 3, rows=2, layout="SimpleDynamic") for _ in range(2))
    np.testing.assert_array_equal(one.observations, other.observations)


def test_a_clone_drives_like_its_driver_where_it_was_shown(shown):
    model = model_of()
    before = model.policy.get_distribution(torch.as_tensor(shown.observations)).mode().detach().numpy()
    found = clone(model.policy, shown, epochs=60)
    after = model.policy.get_distribution(torch.as_tensor(shown.observations)).mode().detach().numpy()
    errors = [np.abs(one.clip(-1, 1) - shown.actions).mean() for one in (before, after)]
    assert errors[1] < 0.25 * errors[0] and found["action_error"] < 0.25 * errors[0]
    assert found["value_error"] < 0.5 * shown.returns.std()
    assert model.policy.log_std.min() >= np.log(0.1) - 1e-6 and model.policy.log_std.max() < -0.5


def test_the_divergence_is_that_of_the_gaussians_and_zero_with_no_gradient_at_the_clone():
    model = model_of()
    policy, obs = model.policy, torch.rand(7, 47)
    policy.remember()
    at = policy.divergence(obs)
    assert at.abs().max() < 1e-6
    gradients = torch.autograd.grad(at.sum(), [policy.action_net.weight, policy.log_std])
    assert all(one.abs().max() < 1e-6 for one in gradients)
    reference = policy.get_distribution(obs).distribution
    kept = Independent(Normal(reference.mean.detach(), reference.stddev.detach()), 1)
    with torch.no_grad():
        policy.action_net.weight += 0.3 * torch.randn_like(policy.action_net.weight)
        policy.log_std += torch.tensor([0.4, -0.7])
    now = policy.get_distribution(obs).distribution
    wanted = kl_divergence(Independent(Normal(now.mean, now.stddev), 1), kept)
    torch.testing.assert_close(policy.divergence(obs), wanted)
    actions = torch.rand(7, 2)
    assert torch.equal(policy.evaluate_actions(obs, actions)[2], -policy.divergence(obs))
    assert torch.equal(policy.evaluate_actions_two(obs, actions)[3], -policy.divergence(obs))


@pytest.mark.parametrize("int_coef", [0.0, 1.0])
def test_a_strong_coefficient_keeps_the_policy_at_its_reference(int_coef):
    distance = []
    for coefficient in (0.0, 30.0):
        model = model_of(ent_coef=coefficient, int_coef=int_coef, warm_up=2, learning_rate=3e-3)
        kept = [one.clone() for one in model.policy.reference.parameters()]
        model.learn(4 * 128)
        assert all(torch.equal(a, b) for a, b in zip(kept, model.policy.reference.parameters(), strict=True))
        distance.append(model.policy.divergence(torch.rand(64, 47)).mean().item())
    assert distance[1] < 0.2 * distance[0]


def test_what_cannot_be_cloned_is_refused_by_name():
    with pytest.raises(ConfigError, match="driver='taxi': choose one of pure_pursuit, dynamic_window"):
        demonstrate("taxi", 1, layout="Simple")
    with pytest.raises(ConfigError, match="reached no goal in 2 episodes"):
        demonstrate("pure_pursuit", 2, layout="Simple", max_steps=5)
