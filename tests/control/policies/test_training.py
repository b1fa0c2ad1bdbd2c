"""A policy through `tutelage train`, killed and resumed, tested by rollouts, exported and driven."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from common import cli
from common.engine.config import load_config
from common.engine.test import test as evaluate
from common.engine.train import train
from common.engine.workdir import read_metrics
from control.demonstrations.collect import Settings, collect
from control.workers import local_pool

CONFIG = "configs/control/sdp/streaming_metaworld_state.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demonstrations") / "two"
    collect(Settings("TwoRoutes-v0"), folder, 6, pool=local_pool(1), progress=False)
    return folder


def config(data, work_dir, iterations=8):
    options = {
        "task": "TwoRoutes-v0",
        "demonstrations": str(data),
        "iterations": iterations,
        "batch_size": 16,
        "model.action_dim": 2,
        "model.encoders.state.width": 10,
        "model.net.widths": (8, 16),
        "model.net.level_width": 8,
        "param_scheduler.0.end": 2,
        "param_scheduler.1.begin": 2,
        "default_hooks.checkpoint.interval": 4,
        "val_dataloader.dataset.count": 2,
        "test_dataloader.dataset.count": 3,
    }
    cfg = load_config(CONFIG, options)
    cfg.work_dir = str(work_dir)
    cfg.train_cfg.val_interval = 100
    return cfg


def weights(work_dir, iteration):
    from common.engine.checkpoint import load_checkpoint

    return load_checkpoint(work_dir / f"iter_{iteration}.pth")["state_dict"]


def test_a_resumed_training_ends_with_the_same_weights_and_average(data, tmp_path):
    train(config(data, tmp_path / "whole"))
    stopped = config(data, tmp_path / "parts")
    stopped.train_cfg.max_iters = 4
    train(stopped)
    train(config(data, tmp_path / "parts"), resume=True)
    a, b = (weights(tmp_path / name, 8) for name in ("whole", "parts"))
    assert a.keys() == b.keys() and not torch.isnan(a["actions.low"]).any()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


def test_a_checkpoint_is_tested_by_rollouts_exported_and_driven(data, tmp_path, capsys, monkeypatch):
    cfg = config(data, tmp_path / "run", iterations=4)
    train(cfg)
    checkpoint = tmp_path / "run" / "iter_4.pth"
    cfg.test_evaluator.out_dir = str(tmp_path / "episodes")
    metrics = evaluate(cfg, checkpoint)
    for plan in ("DDIM10", "streaming"):
        assert 0 <= metrics[f"{plan}/success_low"] <= metrics[f"{plan}/success"] <= metrics[f"{plan}/success_high"] <= 1
    episodes = json.loads((tmp_path / "episodes" / "episodes.json").read_text())
    assert [one["seed"] for one in episodes["DDIM10"]] == [100_000, 100_001, 100_002]
    assert metrics["streaming/gain"] == pytest.approx(metrics["streaming/success"] - metrics["DDPM100/success"])
    assert metrics["streaming/gain_low"] <= metrics["streaming/gain"] <= metrics["streaming/gain_high"]
    assert "DDPM100/gain" not in metrics  # the first plan is what the others are held against
    for plan in cfg.test_cfg.plans:
        assert Image.open(tmp_path / "run" / "test" / f"{plan}_100000.png").size == (6 * 240 + 5 * 4, 180)
    cfg.dump(str(tmp_path / "resolved.py"))
    out = tmp_path / "policy.onnx"
    arguments = [str(tmp_path / "resolved.py"), str(checkpoint), str(out), "--plan", "streaming", "--episodes", "1"]
    command = ["export", *arguments]
    assert cli.main(command) == 0
    assert "actions differ by at most" in capsys.readouterr().out
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["task"] == "TwoRoutes-v0" and manifest["rate_hz"] == 20 and manifest["execute"] == 1
    assert cli.main(["rollout", str(out), "TwoRoutes-v0", "--episodes", "2", "--out", str(tmp_path / "o.json")]) == 0
    assert "(95 % Wilson) over 2 episodes" in capsys.readouterr().out
    driven = json.loads((tmp_path / "o.json").read_text())
    # the same two layouts through PyTorch: same outcome, same number of steps
    for one, other in zip(driven, episodes["streaming"], strict=False):
        assert (one["seed"], one["success"], one["steps"]) == (other["seed"], other["success"], other["steps"])


@pytest.mark.slow
def test_the_ranges_of_a_loaded_checkpoint_are_kept(data, tmp_path):
    train(config(data, tmp_path / "first", iterations=4))
    other = tmp_path / "other"
    collect(Settings("TwoRoutes-v0"), other, 2, seed=50, pool=local_pool(1), progress=False)
    cfg = config(other, tmp_path / "second", iterations=4)
    cfg.load_from = str(tmp_path / "first" / "iter_4.pth")
    train(cfg)
    a, b = (weights(tmp_path / name, 4)["encoder.encoders.state.normaliser.low"] for name in ("first", "second"))
    np.testing.assert_array_equal(a, b)


def test_behaviour_cloning_is_trained_and_rolled_out_by_the_same_commands(data, tmp_path):
    options = {
        "task": "TwoRoutes-v0",
        "demonstrations": str(data),
        "iterations": 120,
        "batch_size": 64,
        "model.action_dim": 2,
        "model.encoders.state.width": 10,
        "val_dataloader.dataset.count": 3,
    }
    cfg = load_config("configs/control/sdp/cloning_metaworld_state.py", options)
    cfg.work_dir = str(tmp_path)
    runner = train(cfg)
    metrics = {name: scalar.current() for name, scalar in runner.message_hub.log_scalars.items()}
    assert 0 <= metrics["val/BC/success"] <= 1
    losses = [row["loss"] for row in read_metrics(tmp_path)]
    assert losses[-1] < 0.5 * losses[0] if len(losses) > 1 else losses[0] < 0.5
