"""Train and test: what they leave in the work directory, and what they say about a wrong input."""

import json

import pytest
import torch
from torch import nn

from common import cli
from common.engine.config import load_config
from common.engine.launch import use_amp
from common.engine.runner import ResumableRunner
from common.engine.test import test as evaluate
from common.engine.train import train
from common.engine.workdir import cpu_name, read_metrics, read_record, training_seconds
from common.errors import CheckpointError, ConfigError

SHORT = {"train_cfg.max_iters": 4}


def test_the_work_directory_holds_config_seed_versions_log_metrics_tensorboard_and_checkpoints(straight):
    record = read_record(straight)
    start = record["starts"][0]
    assert record["seed"] == 11 and start["versions"]["torch"] == torch.__version__
    assert {"python", "mmengine", "numpy"} <= start["versions"].keys() and start["command"]
    assert start["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name())
    assert load_config(straight / "tiny_config.py").train_cfg.max_iters == 24
    assert [entry["step"] for entry in read_metrics(straight)] == list(range(1, 25))
    assert [entry["step"] for entry in read_metrics(straight, "val")] == [8, 16, 24]
    for pattern in ("*/*.log", "*/vis_data/events.out.tfevents.*", "iter_24.pth", "last_checkpoint"):
        assert list(straight.glob(pattern)), pattern


def test_training_seconds_count_every_iteration_once_over_all_starts(tmp_path):
    assert training_seconds(tmp_path) == 0
    starts = {"a": [(10, 0.5), (20, 0.25)], "b": [(20, 0.125), (30, 1.0)]}  # killed after 20, resumed from 10
    for name, rows in starts.items():
        (tmp_path / name / "vis_data").mkdir(parents=True)
        lines = [json.dumps({"iter": step, "step": step, "loss": 1.0, "time": time}) for step, time in rows]
        (tmp_path / name / "vis_data" / "scalars.json").write_text("\n".join(lines) + "\n")
    assert training_seconds(tmp_path) == 10 * 0.5 + 10 * 0.125 + 10 * 1.0


def test_the_resolved_config_of_a_work_directory_trains_to_the_same_curve(tiny, straight):
    cfg = load_config(straight / "tiny_config.py", SHORT)
    cfg.work_dir = str(tiny.folder / "again")
    train(cfg)
    losses = [[entry["loss"] for entry in read_metrics(folder)][:4] for folder in (tiny.folder / "again", straight)]
    assert losses[0] == losses[1]


def test_train_leaves_the_config_that_it_was_given_alone(tiny):
    cfg = tiny.config("run", SHORT)
    before = cfg.to_dict()
    assert isinstance(train(cfg), ResumableRunner)
    assert cfg.to_dict() == before


def test_two_runs_within_a_second_do_not_share_their_histories(tiny):
    first, second = train(tiny.config("a", SHORT)), train(tiny.config("b", SHORT))
    assert first.message_hub is not second.message_hub
    assert len(second.message_hub.get_scalar("train/loss").data[0]) == 4


def test_the_metrics_of_a_checkpoint_are_those_of_its_averaged_weights(tiny):
    never = {"custom_hooks.1.at": 10**6, "train_cfg.max_iters": 8}  # a history would differ between stream and test
    train(tiny.config("run", never))
    in_training = read_metrics(tiny.folder / "run", "val")[-1]["line/error"]
    metrics = evaluate(tiny.config("run", never), tiny.folder / "run" / "iter_8.pth", out=tiny.folder / "out")
    assert metrics == {"line/error": pytest.approx(in_training, rel=1e-6)}
    written = json.loads((tiny.folder / "out" / "metrics.json").read_text())
    assert written["metrics"] == metrics


def test_testing_does_not_write_over_the_training_config(tiny, straight):
    before = (straight / "tiny_config.py").read_bytes()
    cfg = tiny.config("x")
    cfg.work_dir = str(straight)
    evaluate(cfg, straight / "iter_24.pth")
    assert (straight / "tiny_config.py").read_bytes() == before
    assert (straight / "test" / "metrics.json").is_file()


def test_the_test_verb_prints_the_metrics(tiny, straight, capsys):
    args = ["test", str(tiny.path), str(straight / "iter_24.pth"), "--out", str(tiny.folder / "out")]
    assert cli.main(args) == 0
    assert "line/error" in capsys.readouterr().out.splitlines()[-1]


def test_overrides_and_seed_of_the_command_line_reach_the_run(tiny):
    work_dir = tiny.folder / "run"
    options = ["train_cfg.max_iters=2", "optim_wrapper.optimizer.lr=0.5", "param_scheduler=[]"]
    args = ["train", str(tiny.path), "--work-dir", str(work_dir), "--seed", "5", "--cfg-options", *options]
    assert cli.main(args) == 0
    assert read_record(work_dir)["seed"] == 5
    assert [entry["lr"] for entry in read_metrics(work_dir)] == [0.5, 0.5]


def test_a_misspelt_override_is_one_line_and_exit_code_1(tiny, capsys):
    assert cli.main(["train", str(tiny.path), "--cfg-options", "train_cfg.max_iter=2"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("tutelage train: --cfg-options train_cfg.max_iter: ")
    assert "did you mean train_cfg.max_iters?" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_amp_without_a_gpu_is_refused_in_one_line(tiny, capsys):
    assert cli.main(["train", str(tiny.path), "--amp"]) == 1
    assert "--amp: mmengine's mixed precision wants a GPU" in capsys.readouterr().err.strip().splitlines()[-1]


def test_amp_of_a_wrapper_that_cannot_be_switched_is_refused(tiny):
    cfg = tiny.config("amp", {"optim_wrapper.type": "OptimWrapperDict"})
    with pytest.raises(ConfigError, match="optim_wrapper is a OptimWrapperDict"):
        use_amp(cfg)


@pytest.mark.gpu
def test_amp_trains_in_half_precision_near_the_full_curve(tiny):
    curves = []
    for amp in (False, True):
        cfg = tiny.config(f"amp{amp}", SHORT)
        if amp:
            use_amp(cfg)
        train(cfg)
        curves.append([entry["loss"] for entry in read_metrics(tiny.folder / f"amp{amp}")])
    assert curves[0] != curves[1] and curves[1] == pytest.approx(curves[0], rel=0.05)  # half floats keep 11 bits


def test_weights_that_do_not_fit_stop_a_test_with_file_and_keys(tiny):
    torch.save({"state_dict": nn.Linear(4, 8).state_dict()}, tiny.folder / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth does not fit Regressor.*unexpected.*weight.*missing.*first"):
        evaluate(tiny.config("run"), tiny.folder / "other.pth")


def test_fitting_weights_in_part_must_be_asked_for(tiny):
    state = {"first.weight": torch.full((8, 4), 0.25)}
    torch.save({"state_dict": state}, tiny.folder / "part.pth")
    options = {**SHORT, "load_from": str(tiny.folder / "part.pth")}
    with pytest.raises(CheckpointError, match="missing"):
        train(tiny.config("run", options))
    options |= {"+load_strict": False, "train_cfg.max_iters": 1, "optim_wrapper.optimizer.lr": 0.0}
    runner = train(tiny.config("run", options))
    assert runner.model.first.weight.eq(0.25).all()


def test_a_test_without_a_test_set_is_a_config_error(tiny):
    with pytest.raises(ConfigError, match="no test_dataloader"):
        evaluate(tiny.config("run", {"test_dataloader": None}), "any.pth")


@pytest.mark.parametrize("call", [lambda cfg: evaluate(cfg, "gone.pth"), lambda cfg: train(cfg, resume="gone.pth")])
def test_a_missing_checkpoint_is_named_before_anything_is_built(tiny, call):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such checkpoint"):
        call(tiny.config("run"))
    assert not (tiny.folder / "run").exists()


@pytest.mark.parametrize(("name", "key"), [(None, "param_scheduler.1"), ("student", "param_scheduler.student.1")])
def test_a_training_shorter_than_its_warm_up_is_refused_by_the_key(tiny, name, key):
    schedules = [dict(type="LinearLR", by_epoch=False, begin=0, end=100),
                 dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=40)]  # fmt: skip
    cfg = tiny.config("run")
    cfg.param_scheduler = {name: schedules} if name else schedules
    with pytest.raises(ConfigError, match=f"{key} begins at 100 and ends at 40: train for more than 100"):
        train(cfg)


def test_keeping_only_one_checkpoint_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"max_keep_ckpts=1 .* set it to 2"):
        train(tiny.config("run", {"default_hooks.checkpoint.max_keep_ckpts": 1}))
