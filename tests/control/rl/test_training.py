"""`tutelage train` and `test` of a warehouse config: work directory, resume to the same curve, refusals, learning."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import cli
from common.engine.config import load_config
from common.engine.launch import build_runner
from common.engine.test import test as evaluate
from common.engine.train import train
from common.engine.workdir import read_metrics
from common.errors import CheckpointError, ConfigError
from control.rl.rnd.warehouses import EVALUATION_SEED, arena, episodes, warehouses

CONFIG = "configs/control/agv/rnd_simple.py"


LOGGED = {
    "rollout/success_rate", "rollout/collision_rate", "rollout/ep_len_mean", "rollout/ep_rew_mean",
    "rnd/bonus_raw_mean", "rnd/bonus_raw_max", "rnd/bonus_norm_mean", "rnd/return_std", "rnd/predictor_loss",
    "rnd/target_feature_var", "rnd/input_clip_fraction", "rnd/coverage", "rnd/first_goal_step",
    "train/explained_variance_ext", "train/explained_variance_int", "train/adv_ratio", "train/std",
    "train/approx_kl", "time/fps",
}  # fmt: skip


def config(work_dir: Path, backend: str = "kinematic", **options):
    small = {
        "environment.count": 4, "environment.backend": backend, "total_steps": 256, "checkpoint_every": 128,
        "algorithm.n_steps": 16, "algorithm.batch_size": 32, "algorithm.warm_up": 3, "evaluation.episodes": 3,
    }  # fmt: skip
    cfg = load_config(CONFIG, {**small, **options})
    cfg.work_dir = str(work_dir)
    return cfg


def weights(path: Path) -> dict:
    return torch.load(path, weights_only=True)["state"]["policy"]


@pytest.mark.parametrize("backend", ["kinematic", "mujoco"])
def test_a_killed_training_resumes_to_the_same_weights_and_curve(tmp_path, backend):
    options = {"environment.layout": "SimpleDynamic", "environment.randomisation": True}
    whole = train(config(tmp_path / "whole", backend, **options))
    train(config(tmp_path / "killed", backend, **options))
    (tmp_path / "killed" / "iter_256.pth").unlink()
    train(config(tmp_path / "killed", backend, **options), resume=True)
    one, other = (weights(tmp_path / name / "iter_256.pth") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert whole.coverage.visits.sum() == 256
    curve = [row["rnd/coverage"] for row in read_metrics(tmp_path / "killed")]
    assert curve == [row["rnd/coverage"] for row in read_metrics(tmp_path / "whole")]


PAPER = {"+paper": {"every": 16}, "algorithm.int_coef": 0.0}


def test_the_papers_bonus_is_kept_and_resumed_as_well(tmp_path):
    train(config(tmp_path / "whole", **PAPER))
    train(config(tmp_path / "killed", **PAPER))
    (tmp_path / "killed" / "iter_256.pth").unlink()
    train(config(tmp_path / "killed", **PAPER), resume=True)
    one, other = (
        torch.load(tmp_path / name / "iter_256.pth", weights_only=True)["state"] for name in ("whole", "killed")
    )
    for part in ("policy", "bonus"):
        assert all(torch.equal(one[part][key], other[part][key]) for key in one[part]), part
    start = build_runner(config(tmp_path / "start", **PAPER)).model.bonus.state_dict()
    assert any(not torch.equal(value, one["bonus"][key]) for key, value in start.items() if "predictor" in key)


def test_a_bonus_in_two_places_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"set algorithm\.int_coef=0"):
        train(config(tmp_path, **{"+paper": {}}))
    with pytest.raises(ConfigError, match="beat"):
        train(config(tmp_path, **{"+paper": {"beat": 1}, "algorithm.int_coef": 0.0}))
    with pytest.raises(ConfigError, match=r"a divisor of algorithm\.n_steps=16"):
        train(config(tmp_path, **{"+paper": {"every": 10}, "algorithm.int_coef": 0.0}))


def test_a_distilled_planner_begins_as_the_clone_and_resumes_with_it(tmp_path):
    small = {
        "environment.count": 4, "environment.backend": "kinematic", "environment.layout": "Simple", "cloning.epochs": 5,
        "cloning.episodes": 8, "total_steps": 256, "checkpoint_every": 128, "algorithm.n_steps": 16,
        "algorithm.batch_size": 32, "evaluation.episodes": 3, "evaluation.environment": {},
    }  # fmt: skip

    def distilled(name):
        cfg = load_config("configs/control/agv/distilled_random.py", small)
        cfg.work_dir = str(tmp_path / name)
        return cfg

    whole = train(distilled("whole"))
    train(distilled("killed"))
    (tmp_path / "killed" / "iter_256.pth").unlink()
    train(distilled("killed"), resume=True)
    one, other = (weights(tmp_path / name / "iter_256.pth") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert whole.model.policy.divergence(torch.rand(5, 43)).max() > 0
    begun = read_metrics(tmp_path / "whole", "val")[0]
    assert begun["step"] == 0 and begun["cloned/driver_success"] > 0.8 and "cloned/success" in begun


def test_a_checkpoint_is_tested_with_intervals_and_pictures(tmp_path, capsys):
    train(config(tmp_path / "run"))
    found = evaluate(config(tmp_path / "run"), tmp_path / "run" / "iter_256.pth", tmp_path / "out")
    assert found["success"] + found["collision"] + found["timeout"] == pytest.approx(1)
    assert {"ways.png", "bonus.png", "coverage.png", "episodes.json", "metrics.json"} <= {
        one.name for one in (tmp_path / "out").iterdir()
    }
    assert len(json.loads((tmp_path / "out" / "episodes.json").read_text())) == 3
    again = config(tmp_path / "again", load_from=str(tmp_path / "run" / "iter_256.pth"))
    runner = build_runner(again)
    runner.test()
    kept = torch.load(tmp_path / "run" / "iter_256.pth", weights_only=True)["state"]["bonus"]
    assert all(torch.equal(value, kept[key]) for key, value in runner.model.bonus.state_dict().items())
    logged = set().union(*(row.keys() for row in read_metrics(tmp_path / "run")))
    assert logged >= LOGGED


def test_maps_are_drawn_on_the_way_and_change_nothing(tmp_path):
    plain = train(config(tmp_path / "plain"))
    drawn = train(config(tmp_path / "drawn", picture_every=2))
    one, other = (runner.model.policy.state_dict() for runner in (plain, drawn))
    assert all(torch.equal(one[key], other[key]) for key in one)
    pictures = sorted(one.name for one in (tmp_path / "drawn" / "pictures").iterdir())
    assert pictures == ["map_000000128.png", "map_000000256.png"] and not (tmp_path / "plain" / "pictures").exists()
    wide = Image.open(tmp_path / "drawn" / "pictures" / pictures[0])
    assert wide.size[0] > 2 * wide.size[1] and np.asarray(wide.convert("L")).std() > 10


def test_without_a_bonus_none_is_drawn_and_the_first_goal_is_logged(tmp_path):
    plain = {"picture_every": 4, "algorithm.int_coef": 0.0}
    train(config(tmp_path / "run", **plain))
    evaluate(config(tmp_path / "run", **plain), tmp_path / "run" / "iter_256.pth", tmp_path / "out")
    names = {one.name for one in (tmp_path / "out").iterdir()}
    assert "coverage.png" in names and "bonus.png" not in names
    assert Image.open(tmp_path / "run" / "pictures" / "map_000000256.png").size[0] < 700
    assert all(row["rnd/first_goal_step"] == -1 for row in read_metrics(tmp_path / "run"))


def test_a_checkpoint_of_other_observations_is_refused(tmp_path):
    train(config(tmp_path / "run"))
    blind = config(tmp_path / "blind", **{"environment.observe_pose": False})
    with pytest.raises(CheckpointError, match=r"observations have 47 numbers.*set observe_pose as in its training"):
        evaluate(blind, tmp_path / "run" / "iter_256.pth", tmp_path / "out")
    with pytest.raises(CheckpointError, match="trained with"):
        train(config(tmp_path / "run", **{"algorithm.features": "raw"}), resume=str(tmp_path / "run" / "iter_256.pth"))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("environment.count", 8, "set environment.count=4"),
        ("environment.backend", "mujoco", "another environment.backend"),
        ("environment.layout", "SimpleDynamic", "another layout than 'SimpleDynamic'"),
    ],
)
def test_running_episodes_of_another_kind_are_not_resumed(tmp_path, key, value, told):
    train(config(tmp_path / "run", total_steps=128))
    with pytest.raises(ConfigError, match=told):
        train(config(tmp_path / "run", **{key: value}), resume=str(tmp_path / "run" / "iter_128.pth"))


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path):
    train(config(tmp_path / "run"))
    newest = tmp_path / "run" / "iter_256.pth"
    kept = weights(newest)
    newest.write_bytes(newest.read_bytes()[:1000])
    train(config(tmp_path / "run"), resume=True)
    again = weights(newest)
    assert all(torch.equal(kept[key], again[key]) for key in kept)


def test_errors_name_the_key(tmp_path, capsys):
    with pytest.raises(ConfigError, match="features='pixels'"):
        train(config(tmp_path, **{"algorithm.features": "pixels"}))
    with pytest.raises(ConfigError, match="Simpel"):
        train(config(tmp_path, **{"environment.layout": "Simpel"}))
    with pytest.raises(ConfigError, match="0 episodes"):
        train(config(tmp_path, **{"evaluation.episodes": 0}))
    assert cli.main(["train", CONFIG, "--work-dir", str(tmp_path), "--cfg-options", "algorithm.speed=3"]) == 1
    assert "speed" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["kinematic", "mujoco"])
def test_every_unseen_layout_is_driven_once(backend):
    found = episodes(lambda seen: np.zeros((len(seen), 2)), 5, backend=backend, layout="Random", pool=(1000, 4),
                     max_steps=2)  # fmt: skip
    assert [one["layout_seed"] for one in found] == [1000, 1001, 1002, 1003, 1000]


def test_evaluation_episodes_do_not_depend_on_their_number():
    def act(observation):
        return np.stack([np.full(len(observation), 0.5), 0.3 * observation[:, 38]], -1)

    few, many = (episodes(act, count, layout="SimpleDynamic") for count in (2, 5))
    assert [one["path_length"] for one in few] == [one["path_length"] for one in many[:2]]
    assert EVALUATION_SEED > 100_000 and arena(warehouses(1, layout="Complex")) == (12.0, 12.0)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_with_the_bonus_the_simple_warehouse_is_learnt_on_the_twin(tmp_path, seed):
    """Gate G1 in small: 200k steps of the twin."""
    cfg = load_config(CONFIG, {"environment.backend": "kinematic", "total_steps": 196_608, "randomness.seed": seed})
    cfg.work_dir = str(tmp_path)
    train(cfg)
    rows = [row["rollout/success_rate"] for row in read_metrics(tmp_path) if "rollout/success_rate" in row]
    assert rows[-1] >= 0.7
