"""Planners by the commands: export with its parity report, rollout of a task with returns, bench beside PyTorch."""

import json

import numpy as np
import pytest
import torch

from common import cli
from common.engine.config import load_config, parse_options
from control.demonstrations.store import Episode
from control.planning.diffuser.windows import PlanWindows
from control.policies.model import build
from deploy import rollout

CONFIG, TASK = "configs/control/planner/maze_umaze.py", "Maze2D-UMaze-v0"
SMALL = {
    "model.horizon": 8, "model.stride": 4, "model.net.horizon": 8, "model.net.width": 16, "model.net.depth": 1,
    "model.generator.width": 16, "model.generator.depth": 1, "model.generator.heads": 2, "model.generator.hidden": 16,
    "+model.inverse_widths": (16,), "+val_cfg.plans.refined.execute": 4, "+test_cfg.plans.refined.execute": 4,
    "+val_cfg.plans.refined.level": 3, "+test_cfg.plans.refined.level": 3,
}  # fmt: skip
OPTIONS = [f"{key}={value}" for key, value in SMALL.items()]


def checkpoint(path):
    """Of the small model, with statistics and random weights."""
    torch.manual_seed(0)
    model, draws = build(load_config(CONFIG, parse_options(OPTIONS)).model), np.random.default_rng(0)
    episodes = [
        Episode(
            observations={"state": draws.normal(size=(201, 4)).astype(np.float32)},
            actions=draws.uniform(-1, 1, (200, 2)).astype(np.float32),
            rewards=draws.uniform(0, 1, 200).astype(np.float32),
            terminated=False,
        )
    ]
    model.fit(PlanWindows(episodes, 8, 4))
    model.generator_error.fill_(0.1)
    torch.nn.init.normal_(model.generator.net.last.weight, std=0.1)
    torch.save({"state_dict": model.state_dict()}, path)
    return str(path)


@pytest.fixture(scope="module")
def exported(one_thread, tmp_path_factory):
    """(folder, checkpoint) of an export by the command."""
    folder = tmp_path_factory.mktemp("commands")
    weights = checkpoint(folder / "weights.pth")
    command = ["export", CONFIG, weights, str(folder / "maze.onnx"), "--plan", "refined", "--steps", "40"]
    assert cli.main([*command, "--cfg-options", *OPTIONS]) == 0
    return folder, weights


def test_the_export_tells_where_it_comes_from_and_how_it_plans(exported):
    manifest = json.loads((exported[0] / "maze.json").read_text())
    assert manifest["schema"] == "tutelage-planner/1" and manifest["task"] == TASK and manifest["rate_hz"] == 100
    assert manifest["source"]["plan"] == "refined" and manifest["source"]["checkpoint"] == "weights.pth"
    best = torch.load(exported[1], weights_only=True)["state_dict"]["return_high"]  # what the config asks for
    assert manifest["chain"]["levels"] == pytest.approx([0.03, 0.02, 0.01, 0])
    assert manifest["target"] == pytest.approx(float(best))
    assert manifest["horizon"] == 8 and manifest["stride"] == 4 and manifest["settings"]["execute"] == 4
    assert {"optimiser", "generator", "act"} == set(manifest["files"])


def test_a_wrong_graph_fails_the_export(exported, tmp_path, monkeypatch, capsys):
    from deploy import planner_export

    class Off(planner_export.Act):
        def forward(self, state, goal, gap):
            return super().forward(state, goal, gap) * 0.9

    real, calls = planner_export.graph, []

    def once(model, settings, role):
        calls.append(role)
        return Off(model).eval() if role == "act" and calls.count(role) == 1 else real(model, settings, role)

    monkeypatch.setattr(planner_export, "graph", once)
    command = ["export", CONFIG, exported[1], str(tmp_path / "off.onnx"), "--plan", "generator", "--steps", "12"]
    assert cli.main([*command, "--cfg-options", *OPTIONS]) == 1
    assert "act " in (shown := capsys.readouterr().out) and "on 12 observations" in shown


def test_plans_that_are_no_planners_are_named(exported, tmp_path, capsys):
    for plan, told in (("cloning", "that plan is no planner"), ("best", "no such plan")):
        command = ["export", CONFIG, exported[1], str(tmp_path / "a.onnx"), "--plan", plan]
        assert cli.main(command) == 1
        shown = capsys.readouterr().err
        assert told in shown and "generator, refined" in shown


def test_a_rollout_goes_on_after_a_success_and_tells_return_and_score(exported, capsys):
    folder = exported[0]
    out = folder / "episodes.json"
    assert cli.main(["rollout", str(folder / "maze.onnx"), TASK, "--episodes", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    episodes = json.loads(out.read_text())
    assert [one["steps"] for one in episodes] == [300, 300]
    mean = np.mean([one["info"]["return"] for one in episodes])
    assert f"return {mean:.1f}" in shown
    assert f"normalised score {100 * (mean - 23.85) / (161.86 - 23.85):.1f} (d4rl)" in shown


def test_rewards_reach_the_policies_that_ask_for_them(monkeypatch):
    told = []

    class Policy:
        def __init__(self, path):
            pass

        def reset(self, seed):
            pass

    class Told(Policy):
        def rewarded(self, reward):
            told.append(reward)

    for kind, wanted in ((Policy, []), (Told, [1.0, 2.0])):
        monkeypatch.setattr(rollout, "open_policy", kind)
        actor = rollout.RuntimeActor("a.onnx")
        actor.reset([0, 1, 2])
        actor.reset([3, 4])  # a smaller wave
        actor.rewarded(np.array([1.0, 2.0]))
        assert told == wanted


def test_the_bench_measures_it_beside_pytorch(exported, capsys):
    folder, weights = exported
    command = ["bench", str(folder / "maze.onnx"), "--steps", "12", "--hz", "20", "--against", CONFIG, weights]
    assert cli.main([*command, "--cfg-options", *OPTIONS]) == 0
    shown = capsys.readouterr().out
    assert "| torch |" in shown and "3.5 network evaluations per action" in shown  # (7 + 3) / 4 + 1
