"""`kill -9` and `--resume` draw the curve of the uninterrupted run, bit for bit on the CPU."""

import multiprocessing
import shutil

import pytest
import torch

from common import cli
from common.engine.checkpoint import load_checkpoint
from common.engine.train import train
from common.engine.workdir import read_metrics, read_record

ITERATIONS = 24


def losses(work_dir):
    return {entry["step"]: entry["loss"] for entry in read_metrics(work_dir)}


def same(a, b):
    """Are two nested states equal, bit for bit?"""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_end(work_dir, reference):
    ours, theirs = (load_checkpoint(folder / f"iter_{ITERATIONS}.pth") for folder in (work_dir, reference))
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert same(ours[part], theirs[part]), part


@pytest.fixture
def interrupted(straight, tmp_path):
    """A copy of the finished run as a kill after iteration 20 would have left it."""
    folder = tmp_path / "interrupted"
    shutil.copytree(straight, folder)
    (folder / "iter_24.pth").unlink()
    (folder / "resume" / "iter_24.rank0.pth").unlink()
    (folder / "last_checkpoint").write_text(str(folder / "iter_20.pth"))
    return folder


def resume(tiny, folder, options=None):
    cfg = tiny.config("ignored", options)
    cfg.work_dir = str(folder)
    return train(cfg, resume=True)


def test_a_killed_and_resumed_run_draws_the_uninterrupted_curve_bit_for_bit(tiny, straight):
    work_dir = tiny.folder / "killed"
    # batches of 4: draw 62 is in the middle of iteration 15, after the checkpoint of 12 and the evaluation at 8
    command = ("common.cli", "train", str(tiny.path), "--work-dir", str(work_dir))
    killed = tiny.run(*command, TINY_KILL_AT_DRAW="62")
    assert killed.returncode == -9, killed.stderr
    assert max(losses(work_dir)) == 15 and not (work_dir / "iter_16.pth").exists()
    assert cli.main(["train", "--resume", str(tiny.path), "--work-dir", str(work_dir)]) == 0
    assert losses(work_dir) == losses(straight) and len(losses(work_dir)) == ITERATIONS
    errors = [[entry["line/error"] for entry in read_metrics(folder, "val")] for folder in (work_dir, straight)]
    assert errors[0] == errors[1] and len(errors[0]) == 3
    assert_same_end(work_dir, straight)


def test_a_cut_off_newest_checkpoint_gives_way_to_the_one_before_with_a_warning(tiny, interrupted, straight):
    newest = interrupted / "iter_20.pth"
    newest.write_bytes(newest.read_bytes()[:-500])
    runner = resume(tiny, interrupted)
    log = (interrupted / runner.timestamp / f"{runner.timestamp}.log").read_text()
    assert "iter_20.pth: cut short or damaged" in log and "trying the one before" in log
    assert_same_end(interrupted, straight)


def test_an_empty_last_checkpoint_file_loses_nothing(tiny, interrupted, straight):
    (interrupted / "last_checkpoint").write_text("")
    resume(tiny, interrupted)
    assert_same_end(interrupted, straight)


def test_without_the_kept_random_state_the_curve_is_another_and_the_log_says_so(tiny, interrupted, straight):
    shutil.rmtree(interrupted / "resume")
    runner = resume(tiny, interrupted)
    log = (interrupted / runner.timestamp / f"{runner.timestamp}.log").read_text()
    assert "iter_20.rank0.pth is missing" in log
    assert losses(interrupted)[21] != losses(straight)[21]


def test_a_sampler_with_set_start_is_placed_and_no_batch_is_read_again(tiny, interrupted):
    runner = resume(tiny, interrupted)
    assert runner.train_dataloader.sampler.started_at == [20]  # the iterator made before the resume read nothing


def test_an_ordinary_sampler_is_advanced_and_gives_the_same_curve(tiny):
    sampler = {"train_dataloader.sampler": {"_delete_": True, "type": "InfiniteSampler", "shuffle": True}}
    train(tiny.config("whole", sampler))
    train(tiny.config("parts", {**sampler, "train_cfg.max_iters": 12}))
    train(tiny.config("parts", sampler), resume=True)
    assert losses(tiny.folder / "parts") == losses(tiny.folder / "whole")


def test_loader_processes_that_read_ahead_are_placed_as_well(tiny):
    workers = {"train_dataloader.num_workers": 2, "+train_dataloader.persistent_workers": True}
    options = {**workers, "train_dataloader.dataset.unseeded_noise": 0.0}  # their own generators are seeded anew
    train(tiny.config("whole", options))
    train(tiny.config("parts", {**options, "train_cfg.max_iters": 12}))
    train(tiny.config("parts", options), resume=True)
    assert losses(tiny.folder / "parts") == losses(tiny.folder / "whole")
    assert_same_end(tiny.folder / "parts", tiny.folder / "whole")
    assert not multiprocessing.active_children()


def test_how_often_one_evaluates_does_not_change_the_curve(tiny, straight):
    train(tiny.config("often", {"train_cfg.val_interval": 3}))
    assert losses(tiny.folder / "often") == losses(straight)


def test_an_evaluation_that_the_kill_prevented_is_made_up_for(tiny, straight, tmp_path):
    folder = tmp_path / "no_last_evaluation"
    shutil.copytree(straight, folder)
    scalars = next(folder.glob("*/vis_data/scalars.json"))
    lines = scalars.read_text().splitlines(keepends=True)
    scalars.write_text("".join(lines[:-1]))
    assert [entry["step"] for entry in read_metrics(folder, "val")] == [8, 16]
    resume(tiny, folder)
    redone, reference = read_metrics(folder, "val"), read_metrics(straight, "val")
    assert [entry["step"] for entry in redone] == [8, 16, 24]
    assert redone[-1]["line/error"] == reference[-1]["line/error"]


def test_a_finished_run_is_not_evaluated_again(tiny, straight, tmp_path):
    folder = tmp_path / "finished"
    shutil.copytree(straight, folder)
    resume(tiny, folder)
    assert len(list(folder.glob("*/vis_data/scalars.json"))) == 1


def test_a_run_without_a_seed_resumes_with_the_seed_it_drew(tiny):
    options = {"randomness.seed": None, "train_cfg.max_iters": 8}
    train(tiny.config("unseeded", options))
    seed = read_record(tiny.folder / "unseeded")["seed"]
    runner = train(tiny.config("unseeded", options), resume=True)
    assert runner.seed == seed
    assert train(tiny.config("another", options)).seed != seed


def test_resuming_a_folder_without_a_checkpoint_begins_at_zero_and_says_so(tiny):
    runner = train(tiny.config("fresh", {"train_cfg.max_iters": 2}), resume=True)
    log = (tiny.folder / "fresh" / runner.timestamp / f"{runner.timestamp}.log").read_text()
    assert "holds no checkpoint to resume from" in log and runner.iter == 2


def test_a_config_that_says_resume_goes_on_and_asks_for_no_file_of_the_beginning(
    tiny, interrupted, straight, monkeypatch
):
    from tiny_regression import Regressor

    def init_weights(self):
        raise FileNotFoundError("pretrained.pth")

    monkeypatch.setattr(Regressor, "init_weights", init_weights)
    cfg = tiny.config("ignored", {"resume": True})
    cfg.work_dir = str(interrupted)
    train(cfg)
    assert losses(interrupted) == losses(straight)
    cfg.work_dir = str(tiny.folder / "new")
    with pytest.raises(FileNotFoundError, match=r"pretrained\.pth"):
        train(cfg)


def test_states_of_deleted_checkpoints_are_deleted_with_them(straight):
    kept = {file.stem for file in straight.glob("iter_*.pth")}
    assert kept == {"iter_16", "iter_20", "iter_24"}
    assert {file.name for file in (straight / "resume").iterdir()} == {f"{name}.rank0.pth" for name in kept}


def test_nothing_temporary_is_left_beside_the_checkpoints(straight):
    assert not [file for file in straight.rglob("*") if ".tmp" in file.name]
