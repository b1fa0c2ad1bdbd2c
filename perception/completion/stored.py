"""Pairs of scan and scene on disk, and samples drawn from them."""

import os
import zipfile
from pathlib import Path

import numpy as np
import torch

from common.errors import DataError
from perception.completion.profiles import Profile
from perception.completion.samples import make_sample


def keep(path: Path, scan: np.ndarray, scene: np.ndarray) -> None:
    """Write a pair whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(beside, scan=scan, scene=scene)
    os.replace(beside, path)


def kept(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scan and scene of a file. Raises: DataError where it is damaged."""
    try:
        with np.load(path) as stored:
            return stored["scan"], stored["scene"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}): remove it, and it is made again") from error


def drawn(scan, scene, profile: Profile, index: int, train: bool, name: str, dense: int) -> dict:
    """A sample as tensors: training draws anew every time, evaluation always the same."""
    seed = int(torch.randint(2**62, ())) if train else index
    sample = make_sample(scan, scene, profile, np.random.default_rng(seed), train, name, dense)
    return {key: torch.from_numpy(value) for key, value in sample.items()} | {"seed": index}
