"""RL-100's head and mean chain as ONNX: equal to PyTorch in closed loop, run by everything that runs a policy."""

import json

import onnx
import pytest
import torch

from common import cli
from common.engine.config import load_config
from common.errors import ConfigError
from deploy.rl100_export import closed_loop_difference, export_policy
from deploy.rl100_export_command import load_policy
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
