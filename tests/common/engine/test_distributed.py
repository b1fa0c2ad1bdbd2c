"""Two gloo processes train as one process with twice the batch, and resume as they were."""

import socket

import pytest
import torch
from mmengine.config import Config

from common.engine.checkpoint import load_checkpoint, load_weights
from common.engine.config import load_config
from common.engine.launch import start_processes
from common.engine.test import test
from common.engine.train import train
from common.engine.workdir import read_metrics, read_record
from common.errors import ConfigError

# Batch statistics, dropout, unseeded noise and the stream's history differ between processes by their nature.
PLAIN = {
    "model.dropout": 0.0,
    "model.batch_norm": False,
    "train_dataloader.dataset.unseeded_noise": 0.0,
    "custom_hooks.1.at": 1000000,
    "train_cfg.max_iters": 12,
    "train_cfg.val_interval": 100,
}


def torchrun(tiny, work_dir, options, *extra):
    command = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()), "-m", "common.cli"]
    pairs = [f"{key}={value}" for key, value in options.items()]
    verb = ["train", str(tiny.path), "--launcher", "pytorch", "--work-dir", str(work_dir), *extra]
    done = tiny.run(*command, *verb, "--cfg-options", *pairs, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def final_loss(work_dir, iteration):
    """The loss of a checkpoint's raw weights over the whole training set, without augmentation."""
    from tiny_regression import LineData, Regressor

    model = Regressor(dropout=0.0, batch_norm=False)
    load_weights(model, work_dir / f"iter_{iteration}.pth", ema=False)
    data = LineData(augment=False)
    with torch.no_grad():
        return float(model.eval().double()(data.x.double(), data.y.double(), mode="loss")["loss"])


def test_two_processes_end_with_the_loss_of_one_with_twice_the_batch(tiny):
    train(tiny.config("one", PLAIN))
    halves = {"train_dataloader.batch_size": 2, "train_dataloader.sampler.batch_size": 2}
    torchrun(tiny, tiny.folder / "two", PLAIN | halves)
    one, two = final_loss(tiny.folder / "one", 12), final_loss(tiny.folder / "two", 12)
    assert two == pytest.approx(one, rel=1e-6)
    assert read_record(tiny.folder / "two")["starts"][0]["world_size"] == 2
    alone = final_loss_of_half_the_data(tiny, PLAIN | halves)
    assert abs(alone - one) > 1e-3 * one  # what it would be had the processes not talked to each other


def test_every_process_evaluates_the_statistics_that_the_checkpoint_holds(tiny):
    # batch norm without synchronisation: each process has its own; half of the validation set is scored by each
    options = {"train_cfg.max_iters": 8, "default_hooks.checkpoint.interval": 8, "custom_hooks.1.at": 1000000}
    torchrun(tiny, tiny.folder / "two", options)
    logged = read_metrics(tiny.folder / "two", "val")[-1]["line/error"]
    found = test(tiny.config("one", options), tiny.folder / "two" / "iter_8.pth")["line/error"]
    assert found == pytest.approx(logged, rel=1e-6)


def final_loss_of_half_the_data(tiny, options):
    cfg = load_config(tiny.path, options)
    cfg.work_dir = str(tiny.folder / "half")
    train(cfg)
    return final_loss(tiny.folder / "half", 12)


@pytest.mark.parametrize(
    ("launcher", "env", "says"),
    [
        ("pytorch", {}, r"wants torchrun .* LOCAL_RANK is not set"),
        ("slurm", {}, r"wants srun .* SLURM_PROCID is not set"),
        ("none", {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, r"each train alone: --launcher pytorch"),
        ("mpi", {}, r"launcher 'mpi': one of none, pytorch, slurm"),
    ],
)
def test_a_launcher_that_does_not_match_how_the_process_was_started_is_refused(monkeypatch, launcher, env, says):
    for name in ("LOCAL_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says.replace(" .* ", ".*")):
        start_processes(Config({"launcher": launcher}))


@pytest.mark.slow
def test_two_processes_resume_with_each_ones_own_random_state_and_history(tiny):
    options = {"train_cfg.max_iters": 24}
    torchrun(tiny, tiny.folder / "whole", options)
    torchrun(tiny, tiny.folder / "parts", {"train_cfg.max_iters": 12})
    histories = [load_checkpoint(tiny.folder / "parts" / "resume" / f"iter_12.rank{r}.pth") for r in (0, 1)]
    assert not torch.equal(histories[0]["model"]["history"], histories[1]["model"]["history"])
    torchrun(tiny, tiny.folder / "parts", options, "--resume")
    curves = [[entry["loss"] for entry in read_metrics(tiny.folder / name)] for name in ("whole", "parts")]
    assert curves[0] == curves[1] and len(curves[0]) == 24
