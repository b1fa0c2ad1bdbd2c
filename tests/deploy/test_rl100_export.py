"""RL-100's head and mean chain as ONNX: equal to PyTorch in closed loop, run by everything that runs a policy."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from common import cli
from common.engine.config import load_config
from common.errors import ConfigError
from deploy.rl100_export import closed_loop_difference, export_policy
from deploy.rl100_export_command import load_policy
from deploy.runtime.errors import ManifestError
from deploy.runtime.policy import StreamingPolicy

CONFIG = "configs/control/rl100/dial_turn.py"
SMALL = {
    "task.task": "TwoRoutes-v0", "task.max_steps": 100, "policy.net.width": 16, "policy.net.blocks": 1,
    "policy.observed": 2, "policy.bottleneck": True, "pipeline.demonstrations": 2, "pipeline.noise": 0.05,
    "pipeline.rounds": 0, "pipeline.head_iterations": 20, "pipeline.imitation.iterations": 20,
    "pipeline.critic.iterations": 5, "pipeline.dynamics_iterations": 5, "pipeline.dynamics.widths": (16,),
    "pipeline.critics.widths": (16,), "pipeline.online.iterations": 0, "evaluation.episodes": 2, "workers": 1,
}  # fmt: skip
OPTIONS = [f"{key}={value}" for key, value in SMALL.items()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folder of a tiny pipeline and its two exports, made by the commands."""
    folder = tmp_path_factory.mktemp("rl100")
    assert cli.main(["train", CONFIG, "--work-dir", str(folder), "--cfg-options", *OPTIONS]) == 0
    for way in ("one_step", "mean"):
        command = ["export", CONFIG, str(folder / "iter_4.pth"), str(folder / f"{way}.onnx"), "--way", way]
        assert cli.main([*command, "--cfg-options", *OPTIONS]) == 0
    return folder


@pytest.mark.parametrize("way", ["one_step", "mean"])
def test_a_closed_loop_has_pytorchs_actions_and_another_head_has_not(exported, way):
    policy, spec, _ = load_policy(load_config(CONFIG, SMALL), str(exported / "iter_4.pth"))
    path = exported / f"{way}.onnx"
    assert closed_loop_difference(policy, path, way, spec.make, [100_003, 100_004], 60) < 1e-4
    with torch.no_grad():
        for net in (policy.head.net, policy.denoiser.net):
            net.last[-1].bias += 0.05
    assert closed_loop_difference(policy, path, way, spec.make, [100_003], 60) > 1e-3


@pytest.mark.parametrize("way", ["one_step", "mean"])
def test_64_robots_in_one_call_have_what_each_has_alone(exported, way, tmp_path):
    policy, spec, _ = load_policy(load_config(CONFIG, SMALL), str(exported / "iter_4.pth"))
    seen = spec.make().reset(seed=100_003)[0]
    manifest = export_policy(policy, seen, tmp_path / "fleet.onnx", way=way, rate_hz=10, batch=64)
    T, A = policy.shape
    draw = np.random.default_rng(0)
    observed = {one.name: draw.normal(size=(64, manifest.observed, *one.shape)).astype(one.dtype)
                for one in manifest.observations}  # fmt: skip
    fresh = draw.normal(size=(64, T, A)).astype(np.float32)
    with torch.no_grad():
        condition = policy.condition({name: torch.from_numpy(value) for name, value in observed.items()})
        ours = policy.to_robot(getattr(policy, way)(condition, torch.from_numpy(fresh))).numpy()

    def run(path, robots):
        given = {name: value[robots] for name, value in observed.items()}
        condition = ort.InferenceSession(path.with_name(path.stem + ".encoder.onnx")).run(None, given)[0]
        zero, one = np.zeros_like(fresh[robots]), np.ones((len(condition), T), np.float32)
        state = {"condition": condition, "buffer": zero, "level": one, "fresh": fresh[robots], "start_noise": zero,
                 "reset": np.ones(len(condition), bool)}  # fmt: skip
        return ort.InferenceSession(path).run(None, state)[0]

    fleet = run(tmp_path / "fleet.onnx", slice(64))
    assert np.ptp(fleet, axis=0).max() > 1e-2
    np.testing.assert_allclose(fleet, ours, atol=1e-4)
    np.testing.assert_allclose(fleet[5:6], run(exported / f"{way}.onnx", slice(5, 6)), atol=1e-4)
    with pytest.raises(ManifestError, match="batch of 64"):
        StreamingPolicy(tmp_path / "fleet.onnx")


def test_the_head_is_one_evaluation_and_draws_no_numbers(exported):
    manifests = {way: json.loads((exported / f"{way}.json").read_text()) for way in ("one_step", "mean")}
    assert manifests["one_step"]["evaluations"] == 1 and manifests["mean"]["evaluations"] == 5
    products = {
        way: sum(node.op_type in ("Gemm", "MatMul") for node in onnx.load(exported / f"{way}.onnx").graph.node)
        for way in manifests
    }
    assert products["mean"] > 3 * products["one_step"]
    policy = StreamingPolicy(exported / "one_step.onnx")
    assert policy.manifest.execute == 4 and policy.manifest.observed == 2


def test_rollouts_and_benches_run_it(exported, capsys):
    rollout = ["rollout", str(exported / "one_step.onnx"), "TwoRoutes-v0", "--episodes", "2"]
    assert cli.main(rollout) == 0 and "over 2 episodes" in capsys.readouterr().out
    bench = ["bench", str(exported / "mean.onnx"), "--steps", "20", "--hz", "100", "--against", CONFIG]
    assert cli.main([*bench, str(exported / "iter_4.pth"), "--cfg-options", *OPTIONS]) == 0
    shown = capsys.readouterr().out
    assert "1.25 network evaluations per action" in shown and "| torch |" in shown


def test_what_cannot_be_exported_is_named(exported, tmp_path):
    policy, spec, _ = load_policy(load_config(CONFIG, SMALL), str(exported / "iter_4.pth"))
    seen = spec.make().reset(seed=0)[0]
    with pytest.raises(ConfigError, match="way='explore'"):
        export_policy(policy, seen, tmp_path / "a.onnx", way="explore", rate_hz=10)
    with pytest.raises(ConfigError, match="family is"):
        load_policy(load_config(CONFIG, {**SMALL, "policy.chunk": 8}), str(exported / "iter_4.pth"))
