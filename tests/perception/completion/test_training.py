"""Completion by the commands: teacher, student and refinement trained, killed and resumed, tested, drawn, exported."""

import pytest
import torch
from PIL import Image

from common import cli
from common.engine.checkpoint import load_checkpoint
from common.engine.config import load_config
from common.engine.train import train

FOLDER = "configs/perception/completion"


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    return tmp_path_factory.mktemp("towns")


def config(name, towns, work_dir, iterations, **options):
    few = {f"{part}_dataloader.dataset.count": 2 for part in ("train", "val", "test")}
    few |= {"param_scheduler.0.end": 2, "param_scheduler.1.begin": 2}
    given = {"profile": "ci", "radius": 8.0, "towns": str(towns), "iterations": iterations, **few}
    cfg = load_config(f"{FOLDER}/{name}_town.py", {**given, "default_hooks.checkpoint.interval": 5, **options})
    cfg.work_dir = str(work_dir)
    return cfg


def resumed_equals_whole(name, towns, folder, iterations=10, **options):
    """Train in one go, and in two parts; all weights of model and average must agree."""
    train(config(name, towns, folder / "whole", iterations, **options))
    stopped = config(name, towns, folder / "parts", iterations, **options)
    stopped.train_cfg.max_iters, stopped.train_cfg.val_interval = 5, 100
    train(stopped)
    train(config(name, towns, folder / "parts", iterations, **options), resume=True)
    a, b = (load_checkpoint(folder / part / f"iter_{iterations}.pth") for part in ("whole", "parts"))
    for kind in ("state_dict", "ema_state_dict"):
        assert a[kind].keys() == b[kind].keys()
        for key, value in a[kind].items():
            assert torch.equal(value, b[kind][key]), (kind, key)
    return a


@pytest.fixture(scope="module")
def teacher(towns, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    resumed_equals_whole("teacher", towns, folder)
    return folder / "whole" / "iter_10.pth"


def test_a_killed_distillation_resumes_with_assistants_turns_and_average(towns, teacher, tmp_path):
    options = {"model.checkpoint": str(teacher), "model.steps": 2}
    found = resumed_equals_whole("student", towns, tmp_path, **options)
    state = found["state_dict"]
    assert int(state["updates"]) == 10
    weights = {
        name: torch.cat([v.flatten() for key, v in state.items() if key.startswith(f"networks.{name}.")])
        for name in ("student", "winner", "loser")
    }
    frozen = load_checkpoint(teacher)["state_dict"]
    taught = torch.cat([v.flatten() for key, v in state.items() if key.startswith("teacher.")])
    assert torch.equal(taught, torch.cat([v.flatten() for key, v in frozen.items() if key.startswith("predict.")]))
    assert all((one - taught).abs().max() > 0 for one in weights.values())
    assert not torch.equal(weights["winner"], weights["loser"])


@pytest.mark.slow
def test_a_teacher_is_tested_drawn_and_exported_with_its_refinement(towns, teacher, tmp_path, capsys):
    refined = config("refinement", towns, tmp_path / "refinement", 5)
    train(refined)
    cfg = config("teacher", towns, tmp_path / "run", 10, **{"model.steps": 2, "test_evaluator.transport": False})
    cfg.dump(str(tmp_path / "resolved.py"))
    refined.dump(str(tmp_path / "refinement.py"))
    assert cli.main(["test", str(tmp_path / "resolved.py"), str(teacher), "--out", str(tmp_path / "test")]) == 0
    assert "completion/cd " in capsys.readouterr().out
    pictures = sorted((tmp_path / "test").glob("scene_*.png"))
    assert [one.name for one in pictures] == ["scene_1000000.png", "scene_1000001.png"]
    assert Image.open(pictures[0]).size[0] > 1000
    out = tmp_path / "completion.onnx"
    more = ["--refinement", str(tmp_path / "refinement.py"), str(tmp_path / "refinement" / "iter_5.pth")]
    assert cli.main(["export", str(tmp_path / "resolved.py"), str(teacher), str(out), *more]) == 0
    told = capsys.readouterr().out
    assert "refined points differ by at most" in told and "predicted noise differs by at most" in told
    assert out.with_name("completion.refinement.onnx").is_file()
