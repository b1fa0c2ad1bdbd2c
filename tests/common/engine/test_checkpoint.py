"""Checkpoints run no code when loaded, by us or by mmengine, and say what does not fit."""

import argparse
import functools
import http.server
import os
import pickle
import threading

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint as mmengine_load
from torch import nn

from common.engine.checkpoint import (
    CorruptCheckpointError,
    NewestCheckpoints,
    checkpoints_of,
    install_safe_loading,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    save_atomic,
    select_weights,
)
from common.errors import CheckpointError

install_safe_loading()


class Payload:
    """Unpickled without care, it makes a file: harmless, and proof that code ran."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "code_ran"


@pytest.fixture
def trojan(tmp_path, mark):
    path = tmp_path / "trojan.pth"
    torch.save({"state_dict": nn.Linear(2, 2).state_dict(), "meta": Payload(mark)}, path)
    return path


def test_the_payload_does_run_where_nobody_takes_care(trojan, mark):
    torch.load(trojan, weights_only=False)
    assert mark.exists()


def test_a_pickle_that_would_run_code_is_refused_naming_file_and_function(trojan, mark):
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(trojan)
    assert "trojan.pth" in str(raised.value) and "io.open" in str(raised.value)
    assert not isinstance(raised.value, CorruptCheckpointError) and not mark.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_bare_pickle_is_refused_too(tmp_path, mark, protocol):
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps({"a": Payload(mark)}, protocol=protocol))
    with pytest.raises(CheckpointError, match=r"bare\.pth: refused.*io\.open"):
        load_checkpoint(path)
    assert not mark.exists()


def test_a_whole_pickled_module_is_refused_with_its_class(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=r"module\.pth.*torch\.nn\.modules\.linear\.Linear"):
        load_checkpoint(tmp_path / "module.pth")


def test_the_stand_in_for_getattr_reaches_nothing_but_the_history_buffers_own_methods(tmp_path):
    class Reach:
        def __reduce__(self):
            return (getattr, (HistoryBuffer, "__init__"))

    torch.save({"a": Reach()}, tmp_path / "reach.pth")
    with pytest.raises(CheckpointError, match=r"reach\.pth"):
        load_checkpoint(tmp_path / "reach.pth")


def test_what_mmengine_keeps_in_a_checkpoint_loads(tmp_path):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    torch.save(
        {"h": buffer, "f": np.float64(2.5), "i": np.int64(7), "a": np.arange(3), "s": np.array(["x"])}, tmp_path / "m"
    )
    loaded = load_checkpoint(tmp_path / "m")
    assert loaded["h"].mean() == 2.0 and loaded["f"] == 2.5 and loaded["i"] == 7
    assert loaded["a"].tolist() == [0, 1, 2] and loaded["s"].tolist() == ["x"]


@pytest.mark.parametrize("env", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}])
def test_mmengines_own_loading_refuses_as_well(trojan, mark, monkeypatch, env):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match=r"trojan\.pth"):
        mmengine_load(nn.Linear(2, 2), str(trojan))
    assert not mark.exists()


def test_pretrained_weights_of_a_config_are_loaded_with_the_same_care(trojan, mark):
    class Net(BaseModule):
        def __init__(self, init_cfg):
            super().__init__(init_cfg)
            self.layer = nn.Linear(2, 2)

    with pytest.raises(CheckpointError, match=r"trojan\.pth"):
        Net({"type": "Pretrained", "checkpoint": str(trojan)}).init_weights()
    assert not mark.exists()


def test_downloaded_weights_are_loaded_with_the_same_care(trojan, mark, tmp_path, monkeypatch):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(trojan.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(CheckpointError, match=r"(?s)http://.*trojan\.pth: refused.*open"):
            mmengine_load(nn.Linear(2, 2), f"http://127.0.0.1:{server.server_port}/trojan.pth")
    finally:
        server.shutdown()
        server.server_close()
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 10, 300, 0.5, 0.98])
def test_a_file_cut_short_is_called_cut_short(tmp_path, keep):
    torch.save(nn.Linear(8, 8).state_dict(), tmp_path / "cut.pth")
    data = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(CorruptCheckpointError, match=r"cut\.pth.*older checkpoint"):
        load_checkpoint(tmp_path / "cut.pth")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such checkpoint"):
        load_checkpoint(tmp_path / "gone.pth")


def trained_with_average(tmp_path):
    """state_dict holds the average (ones), ema_state_dict the raw weights (twos)."""
    average, raw = nn.Linear(2, 1).state_dict(), nn.Linear(2, 1).state_dict()
    average = {key: torch.ones_like(value) for key, value in average.items()}
    raw = {f"module.{key}": torch.full_like(value, 2.0) for key, value in raw.items()}
    torch.save({"state_dict": average, "ema_state_dict": {"steps": torch.tensor(5), **raw}}, tmp_path / "both.pth")
    return tmp_path / "both.pth"


@pytest.mark.parametrize(("ema", "value"), [(None, 1.0), (True, 1.0), (False, 2.0)])
def test_the_average_or_the_raw_weights_can_be_asked_for(tmp_path, ema, value):
    model = nn.Linear(2, 1)
    load_weights(model, trained_with_average(tmp_path), ema=ema)
    assert model.weight.eq(value).all() and model.bias.eq(value).all()


def test_an_average_that_is_not_there_is_an_error():
    with pytest.raises(CheckpointError, match=r"x\.pth has no averaged weights"):
        select_weights({"state_dict": {}}, "x.pth", ema=True)


def test_weights_that_do_not_fit_are_named_with_the_file(tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(1, 2), "extra": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth does not fit Linear: missing bias; unexpected extra"):
        load_weights(nn.Linear(2, 1), tmp_path / "w.pth")
    load_weights(nn.Linear(2, 1), tmp_path / "w.pth", strict=False)
    with pytest.raises(CheckpointError, match=r"weight \(1, 2\) where the model has \(1, 3\)"):
        load_weights(nn.Linear(3, 1), tmp_path / "w.pth", strict=False)


def test_a_part_of_a_checkpoint_is_loaded_by_prefix(tmp_path):
    whole = nn.ModuleDict({"backbone": nn.Linear(2, 1), "head": nn.Linear(1, 1)})
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "w.pth")
    part = nn.Linear(2, 1)
    load_weights(part, tmp_path / "w.pth", prefix="backbone.")
    assert torch.equal(part.weight, whole["backbone"].weight)
    with pytest.raises(CheckpointError, match=r"no weights that begin with 'neck\.'"):
        load_weights(part, tmp_path / "w.pth", prefix="neck.")


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "state.pth"
    save_atomic({"a": torch.ones(3)}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_atomic({"a": lambda: None}, path)
    assert load_checkpoint(path)["a"].sum() == 3
    save_atomic({"a": torch.zeros(3)}, path)
    assert load_checkpoint(path)["a"].sum() == 0


def test_checkpoints_are_listed_newest_first_by_number(tmp_path):
    for name in ("iter_9.pth", "iter_100.pth", "iter_20.pth", "best_x.pth", "iter_3.rank0.pth"):
        (tmp_path / name).touch()
    assert [file.name for file in checkpoints_of(tmp_path)] == ["iter_100.pth", "iter_20.pth", "iter_9.pth"]
    assert latest_checkpoint(tmp_path).name == "iter_100.pth"
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        latest_checkpoint(tmp_path / "empty")


def test_a_moved_work_directory_still_finds_its_checkpoint(tmp_path):
    (tmp_path / "final.pth").touch()
    (tmp_path / "last_checkpoint").write_text(os.path.join("/an/older/place", "final.pth"))
    assert latest_checkpoint(tmp_path) == tmp_path / "final.pth"


def test_objects_of_harmless_looking_classes_are_refused_by_name(tmp_path):
    torch.save({"args": argparse.Namespace(lr=1)}, tmp_path / "args.pth")
    with pytest.raises(CheckpointError, match=r"argparse\.Namespace"):
        load_checkpoint(tmp_path / "args.pth")


def test_a_run_keeps_its_newest_checkpoints_and_leaves_another_runs_alone(tmp_path):
    def write(number):
        path = tmp_path / f"iter_{number}.pth"
        path.write_bytes(b"x")
        return path

    others = [write(47), write(48)]
    fresh = NewestCheckpoints()
    for number in (1, 2, 3, 3):
        fresh.add(write(number))
    assert checkpoints_of(tmp_path) == [*others[::-1], tmp_path / "iter_3.pth", tmp_path / "iter_2.pth"]
    resumed = NewestCheckpoints(checkpoints_of(tmp_path))
    resumed.add(write(49))
    assert checkpoints_of(tmp_path) == [tmp_path / "iter_49.pth", tmp_path / "iter_48.pth"]
