"""The tiny training (tiny_config.py, tiny_regression.py) that the engine's tests run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


class Tiny:
    """Loads the tiny config with a work directory below a temporary folder, in this process or another."""

    path = HERE / "tiny_config.py"

    def __init__(self, folder: Path):
        self.folder = folder

    def config(self, name: str, options: dict | None = None):
        from common.engine.config import load_config

        cfg = load_config(self.path, options)
        cfg.work_dir = str(self.folder / name)
        return cfg

    def run(self, *command: str, timeout: int = 120, **env) -> subprocess.CompletedProcess:
        """`python -m ...` with the tiny modules on the path."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1", **env}
        full = [sys.executable, "-m", *command]
        return subprocess.run(full, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums over two threads differ in the last bit from sums over one, which `Tiny.run` uses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return Tiny(tmp_path)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, one_thread):
    """The uninterrupted run of the tiny config, once for all tests of a module that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        from common.engine.train import train

        tiny = Tiny(tmp_path_factory.mktemp("straight"))
        train(tiny.config("run"))
        yield tiny.folder / "run"
