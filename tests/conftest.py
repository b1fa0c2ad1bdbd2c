"""Seeds, threads, the data folder, and one small simulated nuScenes root for the whole session."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
if "TUTELAGE_DATA" not in os.environ and _DATA.is_dir():
    os.environ["TUTELAGE_DATA"] = str(_DATA)


@pytest.fixture(scope="session", autouse=True)
def _threads():
    try:
        import torch
    except ImportError:  # the runtime's tests need no torch
        return
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real samples ($TUTELAGE_DATA); skips where there is none."""
    folder = os.environ.get("TUTELAGE_DATA", "")
    if not Path(folder).is_dir() or not folder:
        pytest.skip("TUTELAGE_DATA names no folder with real samples")
    return Path(folder)


@pytest.fixture(scope="session")
def simulated_root(tmp_path_factory) -> Path:
    """A nuScenes root, v1.0-mini, profile tiny: 2 training and 1 validation scenes. Read only: tests share it."""
    from perception.simulation.generate import generate

    root = tmp_path_factory.mktemp("simulated") / "nuscenes"
    generate(root, profile="tiny", train=2, val=1, seed=7, workers=1, quiet=True)
    return root
