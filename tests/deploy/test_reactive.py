"""A policy of stable-baselines3 as ONNX: equal to PyTorch, deterministic, clamped, and it drives its warehouse."""

import json
import shutil

import gymnasium as gym
import numpy as np
import onnx
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from common import cli
from common.engine.config import load_config
from common.errors import ConfigError
from deploy.reactive_export import difference, export_actor
from deploy.reactive_export_command import TOLERANCE, load_actor, observations_of, parity
from deploy.runtime.errors import InputError, ManifestError
from deploy.runtime.exported import open_policy
from deploy.runtime.policy import ActionError, StreamingPolicy
from deploy.runtime.reactive import ReactiveManifest, ReactivePolicy

CONFIG = "configs/control/agv/rnd_simple.py"
SMALL = {
    "environment.count": 4, "environment.backend": "kinematic", "environment.observe_pose": False, "total_steps": 512,
    "checkpoint_every": 512, "algorithm.n_steps": 32, "algorithm.batch_size": 64, "algorithm.warm_up": 3,
    "evaluation.episodes": 2, "algorithm.learning_rate": 3e-3,
}  # fmt: skip
OPTIONS = [f"{key}={value}" for key, value in SMALL.items()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folder of a short training and its export, made by the commands."""
    folder = tmp_path_factory.mktemp("reactive")
    assert cli.main(["train", CONFIG, "--work-dir", str(folder), "--seed", "1", "--cfg-options", *OPTIONS]) == 0
    export = ["export", CONFIG, str(folder / "iter_512.pth"), str(folder / "agv.onnx"), "--episodes", "5"]
    assert cli.main([*export, "--cfg-options", *OPTIONS]) == 0
    return folder


def test_the_graph_equals_the_policy_on_drawn_and_seen_observations_in_any_batch(exported):
    config = load_config(CONFIG, SMALL)
    actor, policy = load_actor(config, str(exported / "iter_512.pth")), ReactivePolicy(exported / "agv.onnx")
    observations = observations_of(actor, config, 1024)
    assert observations.shape == (2051, 43)
    actions = actor.act(observations)
    assert actions.std() > 0.05 and np.abs(actions).max() <= 1
    assert difference(actor.act, policy.act, observations, (1, 7, 256)) <= TOLERANCE
    found = parity(actor, policy, config, 64, 20)
    assert found.same == found.episodes == 20 and found.apart < 0.01


def test_one_changed_weight_is_seen_by_the_comparison(exported):
    config = load_config(CONFIG, SMALL)
    actor, policy = load_actor(config, str(exported / "iter_512.pth")), ReactivePolicy(exported / "agv.onnx")
    observations = observations_of(actor, config, 256)
    with torch.no_grad():
        actor.model.policy.mlp_extractor.policy_net[0].weight[0, 0] += 0.01
    assert difference(actor.act, policy.act, observations) > TOLERANCE


def test_the_graph_is_the_actor_alone(exported):
    graph = onnx.load(exported / "agv.onnx").graph
    assert not [node.op_type for node in graph.node if "Random" in node.op_type]
    assert [one.name for one in graph.input] == ["obs"] and [one.name for one in graph.output] == ["action"]
    weights = sum(int(np.prod(one.dims)) for one in graph.initializer)
    actor = 43 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2
    assert actor <= weights <= actor + 16


def test_a_mean_beyond_the_range_is_clamped_inside_the_graph(exported, tmp_path):
    actor = load_actor(load_config(CONFIG, SMALL), str(exported / "iter_512.pth"))
    with torch.no_grad():
        actor.model.policy.action_net.bias += torch.tensor([9.0, -9.0])
    export_actor(actor.model.policy, tmp_path / "far.onnx", rate_hz=5)
    actions = ReactivePolicy(tmp_path / "far.onnx").act(np.zeros((3, 43), np.float32))
    np.testing.assert_array_equal(actions, [[1, -1]] * 3)


def test_a_vecnormalize_is_inside_the_graph(tmp_path):
    class Scaled(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        action_space = gym.spaces.Box(-2, 2, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self._seen(), {}

        def step(self, action):
            return self._seen(), 0.0, False, False, {}

        def _seen(self):
            return (self.np_random.standard_normal(3) * (1, 10, 100) + 5).astype(np.float32)

    envs = VecNormalize(DummyVecEnv([Scaled]), clip_obs=1.5)
    model = PPO("MlpPolicy", envs, n_steps=64, batch_size=32, seed=0, device="cpu").learn(128)
    manifest = export_actor(model.policy, tmp_path / "scaled.onnx", rate_hz=10, normaliser=envs)
    raw = (np.random.default_rng(0).standard_normal((200, 3)) * (1, 10, 100) + 5).astype(np.float32)
    wanted = model.predict(envs.normalize_obs(raw), deterministic=True)[0]
    found = ReactivePolicy(tmp_path / "scaled.onnx").act(raw)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - model.predict(raw, deterministic=True)[0]).max() > 1e-3
    assert manifest.action_low == (-2.0,) and manifest.observations[0].low == ()


def test_the_export_drives_mujoco_through_the_runtime(exported, capsys):
    command = ["rollout", str(exported / "agv.onnx"), "AGVWarehouse-Simple-v0", "--episodes", "3"]
    assert cli.main([*command, "--out", str(exported / "episodes.json")]) == 0
    assert "over 3 episodes" in capsys.readouterr().out
    episodes = json.loads((exported / "episodes.json").read_text())
    assert all(one["info"]["is_collision"] or one["info"]["is_timeout"] or one["success"] for one in episodes)
    assert cli.main([*command, "--hz", "200"]) == 0
    assert "at 200 Hz" in capsys.readouterr().out


def test_the_bench_measures_it_beside_pytorch(exported, capsys):
    against = ["--against", CONFIG, str(exported / "iter_512.pth"), "--cfg-options", *OPTIONS]
    assert cli.main(["bench", str(exported / "agv.onnx"), "--steps", "20", "--hz", "200", *against]) == 0
    shown = capsys.readouterr().out
    assert "| torch |" in shown and "loop at 200 Hz" in shown and "1 network evaluations per action" in shown


def test_wrong_observations_and_actions_are_refused_by_name(exported, tmp_path):
    policy = open_policy(exported / "agv.onnx")
    policy.warm_up()
    policy.reset(0)
    for seen, told in (
        ({}, "'state' is missing"),
        ({"state": np.zeros(47, np.float32)}, r"\(47,\)"),
        ({"state": np.full(43, np.nan, np.float32)}, "finite: False"),
    ):
        with pytest.raises(InputError, match=told):
            policy.select_action(seen)
    with pytest.raises(InputError, match=r"wanted \(B, 43\)"):
        policy.act(np.zeros(43, np.float32))
    for name in ("agv.onnx", "agv.json"):
        shutil.copy(exported / name, tmp_path / name)
    manifest = json.loads((tmp_path / "agv.json").read_text())
    (tmp_path / "agv.json").write_text(json.dumps({**manifest, "action_low": [0.999, 0.999]}))
    with pytest.raises(ActionError, match="not sent"):
        ReactivePolicy(tmp_path / "agv.onnx").act(np.zeros((1, 43), np.float32))


def test_a_broken_manifest_or_another_file_is_named(exported, tmp_path):
    with pytest.raises(ManifestError, match="does not exist"):
        open_policy(tmp_path / "none.onnx")
    for name in ("agv.onnx", "agv.json"):
        shutil.copy(exported / name, tmp_path / name)
    manifest = json.loads((tmp_path / "agv.json").read_text())
    (tmp_path / "agv.json").write_text(json.dumps({**manifest, "observations": 2 * manifest["observations"]}))
    with pytest.raises(ManifestError, match="2 observations"):
        open_policy(tmp_path / "agv.onnx")
    (tmp_path / "agv.json").write_text(json.dumps({key: one for key, one in manifest.items() if key != "rate_hz"}))
    with pytest.raises(ManifestError, match="rate_hz"):
        ReactivePolicy(tmp_path / "agv.onnx")
    (tmp_path / "agv.json").write_text(json.dumps(manifest))
    with (tmp_path / "agv.onnx").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ManifestError, match="is not the file"):
        ReactiveManifest.load(tmp_path / "agv.onnx")
    with pytest.raises(ManifestError, match="schema is 'tutelage-reactive/1'"):
        StreamingPolicy(exported / "agv.onnx")


def test_spaces_that_are_no_plain_boxes_are_refused(tmp_path):
    class Picture(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (3, 8, 8), np.uint8)
        action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    model = PPO("MlpPolicy", DummyVecEnv([Picture]), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ConfigError, match="boxes of one dimension"):
        export_actor(model.policy, tmp_path / "a.onnx", rate_hz=1)
