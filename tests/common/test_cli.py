"""The command: verbs only, quick to say what it can do, one line for what a user did wrong."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from common import cli
from common.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[2]


def tutelage(*args, **env):
    return subprocess.run([sys.executable, "-m", "common.cli", *args], cwd=ROOT, capture_output=True, text=True, **env)


def test_help_imports_neither_torch_nor_mmengine_nor_numpy():
    script = (
        "import sys; from common import cli; code = cli.main(['--help']); "
        "print([name for name in ('torch', 'mmengine', 'mmcv', 'numpy') if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert all(verb in done.stdout for verb in cli.VERBS)


def test_help_takes_no_longer_than_half_a_second():
    took = []
    for _ in range(3):
        begin = time.perf_counter()
        assert tutelage("--help").returncode == 0
        took.append(time.perf_counter() - begin)
    assert min(took) < 0.5


@pytest.mark.parametrize(
    ("typo", "meant"), [("trian", "train"), ("docter", "doctor"), ("simulate", "simulate-driving")]
)
def test_a_misspelt_verb_is_answered_with_the_nearest_one(typo, meant, capsys):
    assert cli.main([typo]) == 2
    error = capsys.readouterr().err
    assert error == f"tutelage: no verb {typo!r}; did you mean {meant!r}?\n"


def test_a_verb_like_none_is_answered_with_all_of_them(capsys):
    assert cli.main(["xyz"]) == 2
    error = capsys.readouterr().err
    assert all(verb in error for verb in cli.VERBS) and len(error.splitlines()) == 1


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("image a.jpg is cut short: restore it\nor skip")


def test_a_missing_config_is_one_line_and_exit_code_1():
    done = tutelage("train", "configs/nothing.py")  # a process of its own: nothing else may write to stderr after it
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "tutelage train: configs/nothing.py: no such config"
    assert "Traceback" not in done.stderr


def test_debug_shows_where_an_error_came_from(capsys, monkeypatch):
    assert cli.main(["--debug", "train", "configs/nothing.py"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("TUTELAGE_DEBUG", "1")
    assert cli.main(["train", "configs/nothing.py"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_several_lines_becomes_one(capsys, monkeypatch):
    def fail(_):
        raise ConfigError("first\n  second\n")

    monkeypatch.setattr(cli, "_verb_main", lambda verb: fail)
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == "tutelage train: first; second\n"


def test_an_error_from_a_loader_worker_is_its_message_and_not_the_traceback(capsys, monkeypatch):
    def load(_):
        list(DataLoader(Broken(), num_workers=1))

    monkeypatch.setattr(cli, "_verb_main", lambda verb: load)
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == "tutelage train: image a.jpg is cut short: restore it; or skip\n"


def test_a_fault_of_ours_is_not_swallowed(monkeypatch):
    def fail(_):
        raise AttributeError("a fault of ours")

    monkeypatch.setattr(cli, "_verb_main", lambda verb: fail)
    with pytest.raises(AttributeError):
        cli.main(["train"])


def test_a_missing_dependency_names_the_extra_that_brings_it(capsys, monkeypatch):
    def absent(module):
        raise ModuleNotFoundError("No module named 'mmengine'", name="mmengine.config")

    monkeypatch.setattr(cli, "import_module", absent)
    assert cli.main(["train", "x.py"]) == 1
    assert (
        capsys.readouterr().err == "tutelage train: needs the module 'mmengine': pip install 'tutelage[perception]'\n"
    )


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(verb):
    module = cli.VERBS[verb][0]
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), f"{module} does not exist"
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
