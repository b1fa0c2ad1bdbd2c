"""Two-stream PPO against slow references, against stable-baselines3's own, and across a save."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from common.errors import ConfigError
from control.envs.warehouse.env import WarehouseVecEnv
from control.envs.warehouse.layout import Layout
from control.rl.rnd.buffer import gae
from control.rl.rnd.ppo import RNDPPO
from control.rl.rnd.wrapper import RNDRewardWrapper

SMALL = dict(n_steps=16, batch_size=32, n_epochs=2, seed=3, device="cpu")


def warehouses(count: int = 4, seed: int = 3, layout="Simple", file=None, **kwargs):
    env = WarehouseVecEnv(count, layout, **kwargs)
    env.seed(seed)
    return VecMonitor(env, file and str(file))


def slow_gae(rewards, values, last, gamma, lam, ends):
    """By the definition: sum over l of (gamma lam)^l delta, cut after an end."""
    T, N = rewards.shape
    following = np.concatenate([values[1:], last[None]])
    found = np.zeros((T, N))
    for n in range(N):
        for t in range(T):
            factor = 1.0
            for s in range(t, T):
                alive = 1 - ends[s, n]
                found[t, n] += factor * (rewards[s, n] + gamma * alive * following[s, n] - values[s, n])
                factor *= gamma * lam * alive
    return found


def test_both_passes_equal_their_definition_and_only_the_extrinsic_one_is_cut():
    draws = np.random.default_rng(0)
    rewards, values, last = draws.normal(size=(6, 3)), draws.normal(size=(6, 3)), draws.normal(size=3)
    ends = np.zeros((6, 3))
    ends[2, 0] = ends[5, 1] = 1
    assert np.allclose(gae(rewards, values, last, 0.9, 0.8, ends), slow_gae(rewards, values, last, 0.9, 0.8, ends))
    endless = gae(rewards, values, last, 0.9, 0.8)
    assert np.allclose(endless, slow_gae(rewards, values, last, 0.9, 0.8, 0 * ends))
    rewards[3:, 0] += 100  # after the end in row 0
    assert np.allclose(gae(rewards, values, last, 0.9, 0.8, ends)[:3, 0],
                       slow_gae(rewards, values, last, 0.9, 0.8, ends)[:3, 0])  # fmt: skip
    assert gae(rewards, values, last, 0.9, 0.8)[2, 0] > endless[2, 0] + 10


def test_an_episodic_intrinsic_stream_is_cut_where_the_default_flows_on():
    found = {}
    for episodic in (False, True):
        model = RNDPPO(warehouses(max_steps=5), warm_up=4, int_episodic=episodic, **SMALL).learn(64)
        buffer = model.rollout_buffer
        ends = np.concatenate([buffer.episode_starts[1:], model._last_episode_starts[None]]) == 1
        assert ends.sum() >= 8
        found[episodic] = buffer.int_advantages[ends], (buffer.int_rewards - buffer.int_values)[ends]
    np.testing.assert_allclose(*found[True], atol=1e-5)
    assert np.abs(np.subtract(*found[False])).min() > 1e-3


def test_without_a_bonus_it_is_stable_baselines3s_ppo_bit_for_bit():
    ours = RNDPPO(warehouses(), int_coef=0.0, **SMALL).learn(3 * 64)
    theirs = PPO("MlpPolicy", warehouses(), **SMALL).learn(3 * 64)
    state = ours.policy.state_dict()
    for name, value in theirs.policy.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("int_coef", [0.0, 1.0])
def test_the_first_goal_is_seen_with_and_without_a_bonus(int_coef):
    near = Layout("Near", (8.0, 8.0), (), (4.0, 4.0), (4.6, 4.0), 50)
    model = RNDPPO(warehouses(layout=near), int_coef=int_coef, warm_up=4, **SMALL).learn(512)
    assert 0 < model.first_goal_step <= 512 and model.first_goal_step % 4 == 0


def test_the_scale_filters_every_environment_over_time_through_the_ends_of_its_episodes():
    model, seen = RNDPPO(warehouses(max_steps=5), warm_up=4, int_gamma=0.9, **SMALL), []
    raw = model.bonus.raw
    model.bonus.raw = lambda inputs: seen.append(raw(inputs)) or seen[-1]
    model.learn(2 * 64)
    bonus = torch.cat(seen).double().numpy()
    sums, now = np.zeros_like(bonus), np.zeros(4)
    for t, row in enumerate(bonus):
        sums[t] = now = 0.9 * now + row
    assert bonus.shape == (32, 4) and model.rollout_buffer.episode_starts.any()
    np.testing.assert_allclose(model.bonus_scale.sums, sums[-1], rtol=1e-6)
    np.testing.assert_allclose(model.rollout_buffer.int_rewards, bonus[16:] / sums.std(), rtol=1e-4)


def test_the_bonus_alone_trains_the_policy_and_both_heads_move():
    model = RNDPPO(warehouses(), ext_coef=0.0, warm_up=4, **SMALL)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    target = [one.clone() for one in model.bonus.target.parameters()]
    model.learn(64)
    after = model.policy.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(target, model.bonus.target.parameters(), strict=True))
    for name in ("action_net.weight", "value_net.weight", "value_net_int.weight"):
        assert not torch.equal(before[name], after[name]), name


def test_random_actions_at_the_start_teach_the_inputs_statistics_and_not_the_scale():
    model = RNDPPO(warehouses(), warm_up=5, **SMALL)
    model._setup_learn(64, None)
    assert model.bonus.moments.count == 5 * 4
    assert model.bonus_scale.moments.count == 0 and not model.bonus_scale.sums.any()


def test_the_losses_of_policy_and_predictor_do_not_touch_each_other():
    model = RNDPPO(warehouses(), warm_up=4, **SMALL).learn(64)
    batch = next(model.rollout_buffer.get(32))
    for parameter in model.bonus.parameters():
        parameter.grad = None
    model._loss(batch, 0.2)[0].backward()
    assert all(p.grad is None for p in model.bonus.parameters())
    model.policy.optimizer.zero_grad()
    model.bonus.fit(model.bonus.whiten(batch.inputs)).mean().backward()
    assert all(p.grad is None for p in model.policy.parameters())


def test_the_bonus_of_a_last_step_is_that_of_the_terminal_observation():
    model = RNDPPO(warehouses(), features="full", warm_up=0, **SMALL)
    marker = np.full(47, 7.0, np.float32)
    infos = [{"pose": (1.0, 1.0, 0.0)}, {"pose": (2.0, 1.0, 0.0), "terminal_observation": marker}]
    new_obs = np.zeros((2, 47), np.float32)
    found = model._inputs(new_obs, np.array([False, True]), infos)
    assert np.array_equal(found[1], marker) and not found[0].any() and not new_obs.any()


def test_a_timeout_is_bootstrapped_with_the_extrinsic_head_and_a_collision_is_not():
    model = RNDPPO(warehouses(), gamma=0.5, **SMALL)
    last = np.random.default_rng(0).uniform(-1, 1, (2, 47)).astype(np.float32)
    infos = [{"terminal_observation": last[0], "TimeLimit.truncated": True},
             {"terminal_observation": last[1], "TimeLimit.truncated": False}]  # fmt: skip
    found = model._bootstrap_timeouts(np.zeros(2, np.float32), np.array([True, True]), infos)
    with torch.no_grad():
        value = model.policy.predict_values(torch.as_tensor(last[:1])).item()
    assert found[0] == pytest.approx(0.5 * value) and found[1] == 0


def test_logged_rewards_hold_no_bonus(tmp_path):
    file = tmp_path / "paper.monitor.csv"
    wrapped = RNDRewardWrapper(warehouses(max_steps=10, file=file), 8.0, beta=1e6, every=8)
    paper = PPO("MlpPolicy", wrapped, **SMALL).learn(128)
    model = RNDPPO(warehouses(max_steps=10), warm_up=4, **SMALL).learn(128)
    for one in (paper, model):
        assert all(info["r"] in (0.0, 1.0) for info in one.ep_info_buffer) and len(one.ep_info_buffer)
    wrapped.close()
    returns = [float(line.split(",")[0]) for line in file.read_text().splitlines()[2:]]
    assert len(returns) >= 12 and set(returns) <= {0.0, 1.0}
    assert paper.rollout_buffer.rewards.max() > 1e3 and wrapped.bonus.moments.count > 0


def test_a_saved_training_goes_on_with_every_statistic(tmp_path):
    model = RNDPPO(warehouses(), warm_up=8, **SMALL).learn(128)
    model.save(tmp_path / "model")
    again = RNDPPO.load(tmp_path / "model", env=warehouses(), device="cpu")
    for name, value in model.bonus.state_dict().items():
        assert torch.equal(value, again.bonus.state_dict()[name]), name
    assert torch.equal(model.bonus_scale.sums, again.bonus_scale.sums)
    assert str(model.bonus.optimiser.state_dict()) == str(again.bonus.optimiser.state_dict())
    x = torch.rand(10, 4, 16)
    assert torch.equal(model.bonus_scale(model.bonus.raw(x)), again.bonus_scale(again.bonus.raw(x)))
    again.learn(64, reset_num_timesteps=False)
    assert again.num_timesteps == 128 + 64


@pytest.mark.parametrize("bonus", ["drnd", "count"])
def test_the_other_bonuses_train_behind_the_same_protocol(bonus):
    model = RNDPPO(warehouses(), bonus=bonus, warm_up=4, anneal=1.0, **SMALL).learn(128)
    assert model.num_timesteps == 128 and (model.rollout_buffer.int_rewards > 0).any()
    assert model.int_coef_now == pytest.approx(0.0)


def test_coefficients_that_learn_nothing_or_would_be_ignored_are_refused():
    with pytest.raises(ConfigError, match="ext_coef=0"):
        RNDPPO(warehouses(), ext_coef=0.0, int_coef=0.0, **SMALL)
    with pytest.raises(ConfigError, match=r"clip_range_vf=0\.2: not with a bonus"):
        RNDPPO(warehouses(), clip_range_vf=0.2, **SMALL)
    assert RNDPPO(warehouses(), clip_range_vf=0.2, int_coef=0.0, **SMALL).clip_range_vf
