"""Collection and online improvement in a real task, small: whole episodes, exact first ratios, resume, what trains."""

import copy

import numpy as np
import pytest
import torch

from common.diffusion.process import vp_cosine
from common.errors import ConfigError
from common.nn.skip_net import SkipNet
from control.envs.task import TaskEnv
from control.policies.encoders import StateEncoder
from control.rl.rl100 import collect
from control.rl.rl100.collect import Actor, ChunkPolicy, Lanes, TaskSpec, drive_lanes, play, play_spread
from control.rl.rl100.critics import mlp
from control.rl.rl100.decisions import decisions_of
from control.rl.rl100.online import OnlineImprovement, OnlineSettings, explained_variance
from control.rl.rl100.policy import Policy
from control.workers import local_pool

SPEC = TaskSpec("TwoRoutes-v0", max_steps=18)
SETTINGS = OnlineSettings(iterations=4, lanes=3, decisions=6, epochs=2, minibatch=9, learning_rate=1e-4, stop_kl=10.0)


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.manual_seed(0)
    env = SPEC.make()
    width, action = env.observation_space["state"].shape[0], env.action_space.shape[0]
    made = Policy({"state": StateEncoder(width)}, 2, action, 4, lambda a, c: SkipNet(a, c, 4, 32, 2), vp_cosine(100),
                  dict(steps=5, s_min=0.08, s_max=0.8), bottleneck=True)  # fmt: skip
    seen = np.stack([env.reset(seed=seed)[0]["state"] for seed in range(20)])
    made.fit({"state": torch.as_tensor(seen)}, torch.stack([torch.as_tensor(env.action_space.low),
                                                            torch.as_tensor(env.action_space.high)]))  # fmt: skip
    return made.eval()


def improvement(policy: Policy, **changes) -> OnlineImprovement:
    torch.manual_seed(2)
    settings = OnlineSettings(**{**vars(SETTINGS), **changes})
    return OnlineImprovement(copy.deepcopy(policy), mlp([policy.width, 16, 1]), SPEC, settings, seed=5)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("way", ["explore", "mean", "one_step"])
def test_an_episode_is_whole_and_depends_on_its_seed(policy, way):
    found = play(policy, SPEC, [3, 4, 3], way)
    assert [one.seed for one in found] == [3, 4, 3]
    for one in found:
        one.check("it")
        assert len(one) <= 18 and one.rewards[:-1].sum() == 0 and one.rewards[-1] == float(one.success)
    np.testing.assert_allclose(found[0].actions, found[2].actions, atol=1e-5)
    assert len(decisions_of(found, 4, 2, 0.99)) == sum(-(-len(one) // 4) for one in found)
    with pytest.raises(ConfigError, match="way='best'"):
        Actor(policy, "best", [0])


def test_of_many_chains_the_one_that_the_critics_value_most_is_taken(policy):
    class Likes(torch.nn.Module):
        """Values the first number of a chunk."""

        def least(self, condition, action):
            return action[:, 0, 0]

    window = {"state": torch.randn(3, 2, policy.encoder.encoders["state"].width)}
    best = Actor(policy, "best_of_n", [1, 2, 3], critics=Likes()).decide(window, [0, 1, 2]).actions
    single = np.stack([Actor(policy, "explore", [seed] * 3).decide(window, [0, 1, 2]).actions for seed in range(9)])
    assert (best[:, 0, 0] >= single[:, :, 0, 0].mean(0)).all()
    with pytest.raises(ConfigError, match="needs critics"):
        Actor(policy, "best_of_n", [0])


@pytest.mark.parametrize("runaway", [-5.0, 5.0])
def test_values_that_ran_away_are_cut_before_anything_is_bootstrapped_from_them(policy, runaway):
    lanes = drive_lanes(policy, SPEC, [1, 2, 3], 12, 0.99)
    assert ((lanes.done == 1) & (lanes.terminated == 0)).any()  # episodes cut by the time limit
    free, bounded = improvement(policy), improvement(policy, iterations=4)
    bounded.bounds = (0.0, 1.0)
    for run in (free, bounded):
        torch.nn.init.constant_(run.value.v[-1].bias, runaway)
    values, advantage = free.advantages(lanes)
    assert np.abs(values + advantage).max() > 3
    values, advantage = bounded.advantages(lanes)
    assert ((values == 0) | (values == 1)).all()
    assert (values + advantage).min() > -1e-6 and (values + advantage).max() < 1 + 1e-6
    loss = [bounded.learn(lanes)["value_loss"] for _ in range(8)]
    assert loss[-1] < loss[0]


def test_behind_the_interface_of_rollouts_it_acts_as_it_plays(policy):
    from control.rollout import rollout

    played = play(policy, SPEC, [3, 4], "mean")
    found = rollout(ChunkPolicy(policy, "mean"), SPEC.task, [3, 4], max_steps=18)
    assert [one.steps for one in found] == [len(one) for one in played]
    assert [one.success for one in found] == [bool(one.success) for one in played]


def test_episodes_over_processes_are_those_of_one(policy):
    with local_pool(1) as alone:
        one = play_spread(policy, SPEC, list(range(6)), alone, part=3)
    with local_pool(2) as two:
        other = play_spread(policy, SPEC, list(range(6)), two, part=3)
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(one, other, strict=True))


def test_sensors_stay_off_where_no_decision_sees_them_and_nothing_else_changes(policy, monkeypatch):
    torch.manual_seed(0)
    width = policy.encoder.encoders["state"].width
    short = Policy({"state": StateEncoder(width)}, 1, 2, 4, lambda a, c: SkipNet(a, c, 4, 32, 2), vp_cosine(100),
                   dict(steps=5, s_min=0.08, s_max=0.8))  # fmt: skip
    env = SPEC.make()
    short.fit({"state": torch.as_tensor(np.stack([env.reset(seed=seed)[0]["state"] for seed in range(20)]))},
              torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))  # fmt: skip
    looks = []
    look = TaskEnv.look
    monkeypatch.setattr(TaskEnv, "look", lambda env: looks.append(1) or look(env))

    def found():
        looks.clear()
        episodes, seen = play(short, SPEC, [3, 4, 5], kept=False), len(looks)
        return episodes, seen, drive_lanes(short, SPEC, [7, 8], 12, 0.99), len(looks) - seen

    episodes, seen, lanes, seen_online = found()
    monkeypatch.setattr(collect, "_looks", lambda policy: [True] * 4)
    other, most, whole, most_online = found()
    assert seen < 0.5 * most and seen_online < 0.5 * most_online
    for one, two in zip(episodes, other, strict=True):
        assert np.array_equal(one.actions, two.actions) and one.success == two.success and not one.observations
    for name in ("reward", "discount", "terminated", "done"):
        assert np.array_equal(getattr(lanes, name), getattr(whole, name))
    assert same(lanes.observation, whole.observation) and same(lanes.following, whole.following)
    assert ((lanes.done == 1) & (lanes.terminated == 0)).any()  # cut in the middle of a chunk, 18 steps in


def test_lanes_end_their_episodes_and_what_follows_is_the_state_before_the_reset(policy):
    lanes = drive_lanes(policy, SPEC, [7, 8], 12, 0.99)
    assert lanes.reward.shape == (12, 2) and lanes.states.shape == (6, 12, 2, 4, policy.shape[1])
    assert lanes.done.sum() >= 4 and lanes.ends == lanes.done.sum() and lanes.steps <= 12 * 2 * 4
    s, n = next(zip(*np.nonzero(lanes.done[:-1]), strict=True))
    assert not torch.equal(lanes.following["state"][s, n], lanes.observation["state"][s + 1, n])
    assert torch.equal(lanes.observation["state"][s + 1, n, 0], lanes.observation["state"][s + 1, n, 1])
    s, n = next(zip(*np.nonzero(1 - lanes.done[:-1]), strict=True))
    assert torch.equal(lanes.following["state"][s, n], lanes.observation["state"][s + 1, n])
    np.testing.assert_allclose(lanes.discount[lanes.done == 0], 0.99**4)
    single = Lanes.joined([drive_lanes(policy, SPEC, [seed], 12, 0.99) for seed in (7, 8)])
    np.testing.assert_allclose(single.states.numpy(), lanes.states.numpy(), atol=1e-4)


def test_the_first_ratio_is_one_with_the_bottlenecks_noise_and_the_encoder_trains_online(policy):
    run = improvement(policy)
    before = copy.deepcopy(run.policy.state_dict())
    with local_pool(1) as pool:
        row = run.iterate(pool)
    assert row["first_ratio_gap"] < 1e-3 and row["steps"] == run.steps > 0 and "head_loss" in row
    after = run.policy.state_dict()
    moved = {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert {"denoiser", "bottleneck", "head"} <= moved
    assert same(run.policy.actions.state_dict(), policy.actions.state_dict())
    kept = {key: value for key, value in after.items() if "normaliser" in key}
    assert kept and all(torch.equal(value, before[key]) for key, value in kept.items())


def test_a_killed_run_goes_on_bit_for_bit(policy):
    with local_pool(1) as pool:
        whole = improvement(policy)
        whole.run(pool, 3)
        begun = improvement(policy)
        begun.run(pool, 2)
        other = improvement(policy)
        other.load_state_dict(begun.state_dict())
        other.run(pool, 3)
    assert same(other.policy.state_dict(), whole.policy.state_dict()) and same(
        other.value.state_dict(), whole.value.state_dict()
    )
    assert other.logs == whole.logs


def test_epochs_stop_where_the_policy_has_moved_too_far(policy):
    run = improvement(policy, stop_kl=1e-12, learning_rate=1e-2)
    lanes = drive_lanes(run.policy, SPEC, [7, 8, 9], 6, 0.99)
    lanes.reward = np.random.default_rng(0).normal(size=lanes.reward.shape)
    row = run.learn(lanes)
    assert row["stopped"] and row["value_loss"] > 0
    free = improvement(policy, learning_rate=1e-2, stop_kl=1e9).learn(lanes)
    assert not free["stopped"] and free["kl_last"] > row["kl_last"]


def test_a_minibatch_without_a_finite_gradient_changes_nothing(policy):
    run = improvement(policy, epochs=1, minibatch=1000, head_rate=None)
    lanes = drive_lanes(run.policy, SPEC, [7, 8, 9], 6, 0.99)
    lanes.reward = np.random.default_rng(0).normal(size=lanes.reward.shape)
    lanes.states[2, 1, 1] = float("nan")
    before = copy.deepcopy(run.policy.state_dict())
    row = run.learn(lanes)
    assert row["stopped"] and not np.isfinite(row["kl"]) and same(run.policy.state_dict(), before)
    lanes.reward[0, 0] = float("inf")
    run.learn(lanes)
    assert all(torch.isfinite(one).all() for one in run.value.state_dict().values())


def test_explained_variance():
    target = np.array([0.0, 1.0, 2.0])
    assert explained_variance(target, target) == 1 and explained_variance(0 * target, target) == 0
    assert explained_variance(target, np.ones(3)) == 0
