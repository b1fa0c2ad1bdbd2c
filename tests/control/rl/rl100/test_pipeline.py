"""The whole pipeline, tiny, in a real task: stages in their order, a kill at any of them, refusals."""

import json

import numpy as np
import pytest
import torch

from common import cli
from common.engine.config import load_config
from common.engine.test import test as evaluate
from common.engine.train import train
from common.engine.workdir import read_metrics
from common.errors import CheckpointError, ConfigError, DataError
from control.policies.encoders import StandardStateEncoder
from control.rl.rl100.collect import TaskSpec, play
from control.rl.rl100.decisions import decisions_of
from control.rl.rl100.demonstrations import noisy_demonstrations
from control.rl.rl100.runner import RL100Runner, policy_of, read, settings_of
from control.rl.rl100.stages import ImitationSettings, imitate
from control.workers import local_pool

CONFIG = "configs/control/rl100/dial_turn.py"
SMALL = {
    "task.task": "TwoRoutes-v0", "task.max_steps": 100, "policy.net.width": 16, "policy.net.blocks": 1,
    "pipeline.demonstrations": 2, "pipeline.noise": 0.05, "pipeline.rounds": 1, "pipeline.collect": 4,
    "pipeline.retrain_iterations": 5, "pipeline.head_iterations": 5, "pipeline.imitation.iterations": 10,
    "pipeline.critic.iterations": 10, "pipeline.dynamics_iterations": 10, "pipeline.dynamics.widths": (16,),
    "pipeline.critics.widths": (16,), "pipeline.offline.updates": 4, "pipeline.offline.gate_every": 2,
    "pipeline.offline.gate_batch": 16, "pipeline.online.iterations": 2, "pipeline.online.lanes": 2,
    "pipeline.online.decisions": 4, "pipeline.online.minibatch": 4, "evaluation.episodes": 2, "workers": 1,
}  # fmt: skip
STAGES = ["demonstrations", "imitation", "critics/0", "improve/0", "collect/0", "retrain/0", "critics/last", "head",
          "online"]  # fmt: skip


def config(folder, **options):
    cfg = load_config(CONFIG, {**SMALL, **options})
    cfg.work_dir = str(folder)
    return cfg


def flat(tree, name="") -> dict:
    if isinstance(tree, dict):
        return {key: value for k, one in tree.items() for key, value in flat(one, f"{name}.{k}").items()}
    if isinstance(tree, list):
        return {key: value for i, one in enumerate(tree) for key, value in flat(one, f"{name}.{i}").items()}
    return {name: tree}


def same(a, b) -> bool:
    a, b = flat(a), flat(b)
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key] for key in a
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, and what a checkpoint after every stage would hold."""
    folder = tmp_path_factory.mktemp("rl100")
    kept = {}
    runner = RL100Runner
    save = runner.save

    def keeping(self, pipeline):
        path = save(self, pipeline)
        kept[path.name] = path.read_bytes()
        return path

    runner.save = keeping
    try:
        train(config(folder / "whole"))
    finally:
        runner.save = save
    return folder, kept


def test_the_stages_run_in_their_order_and_log_what_they_must(whole):
    rows = read_metrics(whole[0] / "whole")
    assert [row["stage"] for row in rows] == STAGES
    by = {row["stage"]: row for row in rows}
    assert by["improve/0"]["gates"] == 2 and by["improve/0"]["first_ratio_gap"] < 1e-3
    assert all(key in by["improve/0"]["gate_log"][0] for key in ("accepted", "gain", "error", "reason"))
    assert "q_max" in by["critics/0"] and by["collect/0"]["collected"] == 4
    assert by["online"]["online_log"][0]["first_ratio_gap"] < 1e-3 and by["online"]["env_steps"] > 0
    after = {row["after"]: row for row in read_metrics(whole[0] / "whole", "val")}
    assert {"imitation", "online"} <= set(after) and "one_step/success_low" in after["online"]
    found = json.loads((whole[0] / "whole" / "evaluation" / "online.json").read_text())
    assert len(found["mean"]) == 2 and found["mean"][0]["seed"] == found["one_step"][0]["seed"]


@pytest.mark.parametrize("killed_after", ["iter_1.pth", "iter_3.pth", "iter_4.pth", "iter_8.pth", "iter_9.pth"])
def test_a_pipeline_killed_at_any_stage_ends_the_same(whole, tmp_path, killed_after):
    folder, kept = whole
    (tmp_path / killed_after).write_bytes(kept[killed_after])
    train(config(tmp_path), resume=True)
    last = "iter_11.pth"
    assert same(read(tmp_path / last), read(folder / "whole" / last))


@pytest.mark.parametrize(("stage", "checkpoint"), [("imitation", "iter_2.pth"), ("online", "iter_11.pth")])
def test_what_a_kill_took_from_an_evaluation_is_made_up_for(whole, tmp_path, stage, checkpoint):
    folder, kept = whole
    (tmp_path / checkpoint).write_bytes(kept[checkpoint])
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "retrain_0.json").write_text("{}")  # of another run, before
    (tmp_path / "seconds.json").write_text(json.dumps({"imitation": 5.0, "improve/0": 1e6, "online": 9.0}))
    train(config(tmp_path), resume=True)
    for name in {stage, "online"}:
        ours, theirs = (one / "evaluation" / f"{name}.json" for one in (tmp_path, folder / "whole"))
        assert json.loads(ours.read_text()) == json.loads(theirs.read_text())
    assert [row["after"] for row in read_metrics(tmp_path, "val")][-1] == "online"
    if stage == "imitation":  # the clock of stages that are done stays, that of others begins anew
        clock = json.loads((tmp_path / "seconds.json").read_text())
        assert clock["imitation"] == 5.0 and clock["improve/0"] < 1e6 and clock.keys() == set(STAGES[1:])
        assert (tmp_path / "evaluation" / "retrain_0.json").read_text() != "{}"


def test_on_ray_it_ends_the_same(whole, tmp_path):
    pytest.importorskip("ray")
    train(config(tmp_path, ray="local", workers=2))
    assert same(read(tmp_path / "iter_11.pth"), read(whole[0] / "whole" / "iter_11.pth"))
    found = (one / "evaluation" / "online.json" for one in (tmp_path, whole[0] / "whole"))
    assert len({path.read_text() for path in found}) == 1


def test_seconds_of_a_resumed_online_stage_are_those_of_all_its_starts(whole, tmp_path):
    _, kept = whole
    (tmp_path / "iter_9.pth").write_bytes(kept["iter_9.pth"])  # after its first iteration
    (tmp_path / "seconds.json").write_text(json.dumps({"online": 1000.0}))
    train(config(tmp_path), resume=True)
    assert {row["stage"]: row["seconds"] for row in read_metrics(tmp_path)}["online"] > 1000


def test_a_checkpoint_is_tested_in_every_way(whole, tmp_path):
    found = evaluate(config(whole[0] / "whole"), whole[0] / "whole" / "iter_11.pth", tmp_path)
    assert {"explore/success", "mean/success", "one_step/success_high"} <= set(found)
    assert "best_of_n/success" not in found  # the encoder has moved away from the critics


@pytest.mark.parametrize(("change", "told"), [
    ({"task.task": "PointMaze-UMaze-v3"}, "task is 'TwoRoutes-v0', the config's 'PointMaze-UMaze-v3'"),
    ({"policy.chain.s_min": 0.01}, "family is .*deviations 0.08 to 0.8.* the config's .*0.01 to 0.8"),
    ({"pipeline.rounds": 0}, "the config's order"),
])  # fmt: skip
def test_a_checkpoint_of_something_else_is_refused_by_name(whole, tmp_path, change, told):
    with pytest.raises(ConfigError, match=told):
        train(config(tmp_path, **change), resume=str(whole[0] / "whole" / "iter_11.pth"))


def test_other_files_and_unknown_keys_are_named(tmp_path, capsys):
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no checkpoint of an RL-100 pipeline"):
        train(config(tmp_path / "run"), resume=str(tmp_path / "other.pth"))
    with pytest.raises(ConfigError, match=r"pipeline\.offline\.clipp: unknown; choose of updates"):
        settings_of({"offline": {"clipp": 0.2}})
    with pytest.raises(ConfigError, match="at most 250 demonstrations"):
        settings_of({"collect": 2000})
    with pytest.raises(ConfigError, match="imitated='some'"):
        settings_of({"imitated": "some"})
    with pytest.raises(ConfigError, match=r"head_target='other'.*same_noise, solver_step"):
        settings_of({"head_target": "other"})
    assert cli.main(["train", CONFIG, "--work-dir", str(tmp_path), "--cfg-options", "policy.net.widht=3"]) == 1
    assert "widht" in capsys.readouterr().err


@pytest.mark.parametrize(("sense", "shape"), [("points", (512, 3)), ("rgb", (96, 96, 3))])
def test_a_policy_of_clouds_or_pictures_sees_the_puck_in_them_alone(sense, shape):
    cfg = load_config(f"configs/control/rl100/push_{sense}.py")
    spec = TaskSpec(cfg.task.task, tuple(cfg.task.observe), 6)
    policy = policy_of(dict(cfg.policy), spec, 0).eval()
    found = play(policy_with_ranges(policy, spec), spec, [5], "explore")
    assert found[0].observations[sense].shape[1:] == shape and len(found[0]) == 6
    seen = {name: torch.as_tensor(found[0].observations[name][None, :1]) for name in ("state", sense)}
    before = policy.condition(seen)
    moved = seen["state"].clone()
    moved[..., 4:7] += 0.1  # the puck's place in the state
    assert torch.equal(policy.condition({**seen, "state": moved}), before)
    other = seen[sense] + 0.1 if sense == "points" else seen[sense].flip(2)
    assert not torch.equal(policy.condition({**seen, sense: other}), before)
    data = decisions_of(found, 4, 1, 0.99, 1, spec.observe)
    settings = ImitationSettings(iterations=2, batch=3, reconstruction=0.5)
    logged = imitate(policy, data, settings, torch.Generator().manual_seed(0))
    assert 0 < logged["imitation_loss"] < 100


def test_columns_of_a_state_are_within_it():
    with pytest.raises(ConfigError, match="the state has 39 numbers"):
        StandardStateEncoder(39, columns=(39,))


def policy_with_ranges(policy, spec):
    env = spec.make()
    seen = [env.reset(seed=seed)[0] for seed in range(3)]
    policy.fit({name: torch.as_tensor(np.stack([one[name] for one in seen])) for name in spec.observe},
               torch.tensor([[-1.0] * 4, [1.0] * 4]))  # fmt: skip
    return policy


def test_demonstrations_are_successes_under_noise_with_what_was_executed():
    spec = TaskSpec("TwoRoutes-v0", max_steps=100)
    with local_pool(1) as pool:
        found = noisy_demonstrations(spec, 3, 0.1, pool)
        again = noisy_demonstrations(spec, 3, 0.1, pool)
        with pytest.raises(DataError, match="succeeded in 0 of 8 layouts"):
            noisy_demonstrations(TaskSpec("TwoRoutes-v0", max_steps=3), 2, 0.1, pool)
    assert all(one.success and one.rewards[-1] == 1 for one in found)
    assert all((a.actions == b.actions).all() for a, b in zip(found, again, strict=True))
