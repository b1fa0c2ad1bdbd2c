"""Agents in miniature: networks of 16, stretches of 64 steps, seconds each."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from common.engine.checkpoint import load_checkpoint
from common.errors import CheckpointError, ConfigError, DataError
from control.demonstrations import agents
from control.demonstrations.agent import Agent, AgentPolicy, agent_of, load_agent
from control.demonstrations.agents import Training, recorded, train_agent
from control.rollout import rollout

ROOT = Path(__file__).resolve().parents[3]
SMALL = dict(n_steps=64, batch_size=32, n_epochs=2, policy_kwargs=dict(net_arch=[16, 16]))
PPO = Training("Hopper-v5", every=64, trials=1, medium=1e9, options=SMALL)
NETWORK = dict(net_arch=[16, 16])
SAC = Training("Hopper-v5", "sac", every=30, trials=1, medium=1e9,
               options=dict(learning_starts=10, batch_size=16, buffer_size=70, policy_kwargs=NETWORK))  # fmt: skip


def train(training, folder, steps, **kwargs):
    return train_agent(training, folder, steps, progress=False, **kwargs)


def equal(a, b):
    """Whether two trees of tensors, numbers and strings are the same to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def newest(folder):
    return load_checkpoint(max(folder.glob("iter_*.pth"), key=lambda path: int(path.stem.split("_")[1])))


@pytest.mark.parametrize("training", [PPO, SAC], ids=["ppo", "sac"])
def test_a_killed_training_goes_on_and_becomes_the_one_that_was_not_killed(training, tmp_path, monkeypatch):
    """Killed after the second stretch was trained and before its state was kept: it is repeated."""
    whole = train(training, tmp_path / "whole", 3 * training.every)
    judge, calls = agents._judge, []

    def killed(*given):
        judge(*given)
        calls.append(given[-1])
        if len(calls) == 3:  # of steps 0, one stretch, two stretches
            raise KeyboardInterrupt

    monkeypatch.setattr(agents, "_judge", killed)
    with pytest.raises(KeyboardInterrupt):
        train(training, tmp_path / "killed", 3 * training.every)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "killed").glob("iter_*")] == [f"iter_{training.every}.pth"]
    torch.manual_seed(99)
    np.random.seed(99)
    again = train(training, tmp_path / "killed", 3 * training.every)
    assert again == whole and whole["steps"] == 3 * training.every and len(whole["evaluations"]) == 4
    assert equal(newest(tmp_path / "killed"), newest(tmp_path / "whole"))
    assert equal(*(load_checkpoint(tmp_path / name / "expert.pth") for name in ("killed", "whole")))


@pytest.mark.slow
def test_a_training_killed_by_the_system_goes_on(tmp_path):
    code = (
        "from control.demonstrations.agents import Training, train_agent\n"
        f"train_agent(Training('Hopper-v5', every=64, trials=1, medium=1e9, options={SMALL!r}), "
        f"{str(tmp_path / 'killed')!r}, 10**7, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    limit = time.time() + 120
    while len(list((tmp_path / "killed").glob("iter_*.pth"))) < 2 and time.time() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = max(int(path.stem.split("_")[1]) for path in (tmp_path / "killed").glob("iter_*.pth"))
    train(PPO, tmp_path / "killed", done + 64)
    train(PPO, tmp_path / "whole", done + 64)
    assert equal(newest(tmp_path / "killed"), newest(tmp_path / "whole"))


def test_two_seeds_are_two_agents_and_a_longer_training_begins_as_the_shorter(tmp_path):
    short = train(PPO, tmp_path / "one", 64)
    longer = train(PPO, tmp_path / "one", 100)  # whole stretches: 128
    assert longer["steps"] == 128 and longer["evaluations"][:2] == short["evaluations"]
    other = train(Training("Hopper-v5", seed=1, every=64, trials=1, medium=1e9, options=SMALL), tmp_path / "two", 64)
    assert other["evaluations"] != short["evaluations"]


def test_the_medium_agent_is_the_first_that_passes_and_the_expert_the_best(tmp_path, monkeypatch):
    returns = iter([1.0, 5.0, 7.0, 20.0, 9.0])

    def rolled(*given, **more):
        mean = next(returns)
        return [type("Outcome", (), {"info": {"return": mean + gap}}) for gap in (-1, 1)]

    monkeypatch.setattr(agents, "rollout", rolled)
    training = Training("Hopper-v5", every=64, trials=2, medium=6, options=SMALL)
    early = train(training, tmp_path, 256, until_medium=True)
    assert early["medium"] == 128 == early["steps"] and load_checkpoint(tmp_path / "medium.pth")["return"] == 7
    found = train(training, tmp_path, 256)
    assert found["medium"] == 128 and found["expert"] == 192
    assert found["evaluations"] == [[0, 1, 1], [64, 5, 1], [128, 7, 1], [192, 20, 1], [256, 9, 1]]
    assert load_checkpoint(tmp_path / "medium.pth")["steps"] == 128
    assert load_checkpoint(tmp_path / "expert.pth")["return"] == 20
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_0.pth", "step_128.pth", "step_64.pth"]


def test_a_file_cut_short_is_passed_over_for_the_one_before_and_another_training_refused(tmp_path, caplog):
    train(PPO, tmp_path, 192)
    file = tmp_path / "iter_192.pth"
    file.write_bytes(file.read_bytes()[:1000])
    assert train(PPO, tmp_path, 192)["steps"] == 192 and "trying the one before" in caplog.text
    for name in ("iter_192.pth", "iter_128.pth"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"none of iter_192\.pth, iter_128\.pth is whole; remove them"):
        train(PPO, tmp_path, 192)
    with pytest.raises(ConfigError, match=r"holds agents of another training: seed 0, wanted 7; give its options"):
        train(Training("Hopper-v5", seed=7, every=64, trials=1, medium=1e9, options=SMALL), tmp_path, 192)
    assert recorded(tmp_path)["task"] == "Hopper-v5"
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(DataError, match=r"training\.json is damaged .*remove that one file"):
        train(PPO, tmp_path, 192)


def test_options_that_cannot_be_are_named(tmp_path):
    with pytest.raises(ConfigError, match="PushT-v0: agents are trained for Hopper"):
        Training("PushT-v0")
    with pytest.raises(ConfigError, match="algorithm='td3': choose one of ppo, sac"):
        Training("Hopper-v5", "td3")
    with pytest.raises(ConfigError, match="every=1000: wanted a multiple of n_steps=512"):
        Training("Walker2d-v5", every=1000)
    with pytest.raises(ConfigError, match=r"options of ppo: .*batchsize"):
        train(Training("Hopper-v5", options={"batchsize": 3}), tmp_path, 1)


def model_of(kind, **policy):
    """An untrained agent of stable-baselines3 whose weights are far from zero, on Hopper's spaces."""
    import gymnasium as gym
    import stable_baselines3

    env = gym.make("Hopper-v5")
    more = {"buffer_size": 10} if kind == "SAC" else {}
    model = getattr(stable_baselines3, kind)("MlpPolicy", env, seed=0, device="cpu", policy_kwargs=policy, **more)
    with torch.no_grad():
        for one in model.policy.parameters():
            one.add_(0.1 * torch.randn_like(one))
    return model


@pytest.mark.parametrize("kind, activation", [("PPO", "tanh"), ("A2C", "relu"), ("SAC", "relu")])
def test_the_arrays_of_an_agent_act_as_stable_baselines_does(kind, activation, tmp_path):
    functions = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
    model = model_of(kind, net_arch=[16, 24], activation_fn=functions[activation])
    path = tmp_path / "agent.zip"
    model.save(path)
    draws = np.random.default_rng(0)
    mean, var = draws.normal(size=11), draws.uniform(0.5, 2, 11)
    np.savez(path.with_suffix(".npz"), mean=mean, var=var, activation=activation)
    agent, state = load_agent(path, "Hopper-v5"), draws.normal(size=(50, 11)).astype(np.float32)
    seen = ((state - mean) / np.sqrt(var + 1e-8)).clip(-10, 10).astype(np.float32)
    np.testing.assert_allclose(agent.act(state), model.predict(seen, deterministic=True)[0], atol=2e-6)
    noise = draws.standard_normal((50, 3))
    with torch.no_grad():
        if kind == "SAC":
            centre, spread, _ = model.actor.get_action_dist_params(torch.from_numpy(seen))
            wanted = torch.tanh(centre + spread.exp() * torch.from_numpy(noise)).numpy()
        else:
            drawn = model.policy.get_distribution(torch.from_numpy(seen)).distribution
            wanted = (drawn.mean + drawn.stddev * torch.from_numpy(noise)).numpy().clip(-1, 1)
    np.testing.assert_allclose(agent.act(state, noise), wanted, atol=2e-6)


def test_a_trained_agents_file_holds_what_training_normalised_by(tmp_path):
    train(PPO, tmp_path, 64)
    agent, moments = load_agent(tmp_path / "expert.pth", "Hopper-v5"), newest(tmp_path)["model"]["moments"]["obs_rms"]
    final = load_checkpoint(tmp_path / "step_64.pth")
    np.testing.assert_array_equal(final["obs_mean"], moments[0])
    assert agent.activation == "relu" and [one[0].shape for one in agent.layers] == [(16, 11), (16, 16)]
    with pytest.raises(CheckpointError, match=r"expert\.pth is an agent of Hopper-v5, wanted Walker2d-v5"):
        load_agent(tmp_path / "expert.pth", "Walker2d-v5")
    with pytest.raises(CheckpointError, match=r"iter_64\.pth is no agent: wanted a \.pth of tutelage collect"):
        load_agent(tmp_path / "iter_64.pth", "Hopper-v5")


def test_an_agents_episodes_do_not_depend_on_what_runs_beside_them(tmp_path):
    model = model_of("PPO", net_arch=[16])
    agent = agent_of(model.policy.state_dict(), "Hopper-v5", "untrained")
    alone, beside = (
        [one.info["return"] for one in rollout(AgentPolicy(agent), "Hopper-v5", range(3), parallel=parallel)]
        for parallel in (1, 3)
    )
    assert alone == beside and len(set(alone)) == 3
    mean = rollout(AgentPolicy(agent, deterministic=True), "Hopper-v5", [0])
    assert mean[0].info["return"] != alone[0]


def test_ready_agents_that_do_not_fit_are_told_why(tmp_path):
    path = tmp_path / "expert.zip"
    with pytest.raises(FileNotFoundError, match=r"expert\.zip"):
        load_agent(path, "Hopper-v5")
    path.write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match=r"expert\.zip cannot be read as an agent of stable-baselines3"):
        load_agent(path, "Hopper-v5")
    model_of("PPO", net_arch=[16]).save(path)
    with pytest.raises(CheckpointError, match="takes 11 numbers and gives 3; Walker2d-v5 has 17 and 6"):
        load_agent(path, "Walker2d-v5")
    np.savez(tmp_path / "expert.npz", mean=np.zeros(12), var=np.ones(12))
    with pytest.raises(CheckpointError, match=r"obs_mean is \(12,\), wanted \(11,\)"):
        load_agent(path, "Hopper-v5")
    np.savez(tmp_path / "expert.npz", mean=np.zeros(11))
    with pytest.raises(CheckpointError, match="mean or variance of the observations is missing"):
        load_agent(path, "Hopper-v5")
    np.savez(tmp_path / "expert.npz", std=np.zeros(11))
    with pytest.raises(CheckpointError, match="holds std; wanted mean, var, activation"):
        load_agent(path, "Hopper-v5")
    np.savez(tmp_path / "expert.npz", activation="gelu")
    with pytest.raises(ConfigError, match="activation 'gelu': choose one of relu, tanh"):
        load_agent(path, "Hopper-v5")
    weights = {"mlp_extractor.policy_net.0.weight": torch.zeros(4, 11)}
    with pytest.raises(
        CheckpointError, match=r"x: no mlp_extractor\.policy_net\.0\.bias, action_net\.weight.*MlpPolicy"
    ):
        agent_of(weights, "Hopper-v5", "x")
    assert isinstance(agent_of(model_of("PPO", net_arch=[8]).policy.state_dict(), "Hopper-v5", "x"), Agent)
