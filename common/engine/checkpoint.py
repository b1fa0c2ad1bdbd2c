"""Checkpoints: loaded without running code, written whole or not at all."""

import os
import pickle
import pickletools
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import mmengine.runner.checkpoint as mm_checkpoint
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

from common.errors import CheckpointError


def _history_method(owner, name):
    """Stands for `getattr` in a pickle: mmengine's HistoryBuffer pickles its own methods that way, nothing else may."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError(f"Unsupported global: getattr({owner!r},{name!r})")
    return getattr(owner, name)


# What mmengine's MessageHub puts into a checkpoint besides tensors and plain containers. Names as they stand in the
# pickle: numpy 1 and numpy 2 spell their helpers differently.
SAFE_GLOBALS = [
    HistoryBuffer,
    (_history_method, "builtins.getattr"),
    np.ndarray,
    np.dtype,
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
    *(
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for core in ("core", "_core")
        for function in (np.core.multiarray._reconstruct, np.core.multiarray.scalar)
    ),
]


class CorruptCheckpointError(CheckpointError):
    """The file is cut short or damaged; an older checkpoint may still be good."""


def load_checkpoint(path: str | os.PathLike, map_location="cpu") -> dict:
    """Load a checkpoint file; nothing in it is executed.

    Raises: FileNotFoundError; CorruptCheckpointError if the file is cut short or damaged; CheckpointError if it holds
    an object that could run code (the message names file and class).
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if path.stat().st_size == 0:
        raise CorruptCheckpointError(f"{path}: empty file; the writer was interrupted: take an older checkpoint")
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        names = _unsafe_names(path)
        if not names and "Unsupported" not in str(error):
            raise CorruptCheckpointError(_damaged(path, error)) from error
        raise CheckpointError(
            f"{path}: refused: it holds {names or 'pickled objects'}, which could run code; a checkpoint holds "
            "tensors, numbers, strings and containers of them: have its author save the state_dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise CorruptCheckpointError(_damaged(path, error)) from error


def _unsafe_names(path: Path) -> str:
    """The classes and functions that a checkpoint would call, for the message; nothing is executed."""
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path))))
    except (RuntimeError, ValueError, pickle.UnpicklingError):
        return ", ".join(sorted(_names_in_pickle(path)))  # a bare pickle, or a checkpoint of before torch 1.6


def _names_in_pickle(path: Path) -> set[str]:
    names, strings = set(), []
    try:
        for opcode, value, _ in pickletools.genops(path.read_bytes()):
            if opcode.name == "GLOBAL":
                names.add(value.replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.add(".".join(strings[-2:]))
            elif isinstance(value, str):
                strings.append(value)
    except ValueError:
        pass  # the end of the pickle, or of what can be read of it
    return names


def _damaged(path: Path, error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0][:160]
    return (
        f"{path}: cut short or damaged ({path.stat().st_size} bytes; {type(error).__name__}: {first}): "
        "take an older checkpoint or copy the file again"
    )


def install_safe_loading() -> None:
    """Make mmengine load every checkpoint, local or over the network, through the rules of `load_checkpoint`.

    torch.hub's downloader, which mmengine uses for http(s), open-mmlab:// and torchvision://, has
    `weights_only=False` as its default; here it is told otherwise.
    """
    torch.serialization.add_safe_globals(SAFE_GLOBALS)
    loader = mm_checkpoint.CheckpointLoader
    loader.register_scheme(prefixes="", loader=load_from_local, force=True)
    mm_checkpoint.load_url = load_from_url


def load_from_url(url: str, **kwargs) -> dict:
    """torch.hub's download and load, refusing what could run code. Raises: CheckpointError naming the address."""
    try:
        return torch.hub.load_state_dict_from_url(url, weights_only=True, **kwargs)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{url}: refused: it holds objects that could run code ({error})") from error


def load_from_local(filename, map_location=None):
    """mmengine's loader for local files."""
    return load_checkpoint(filename, map_location=map_location)


def select_weights(checkpoint: Mapping, path: str | os.PathLike = "checkpoint", *, ema: bool | None = None) -> dict:
    """The weights of a checkpoint, without a wrapper's `module.` prefix.

    A training with the EMA hook stores the average under `state_dict` and the raw weights under `ema_state_dict`.
    ema: True for the average (an error if there is none), False for the raw weights, None for `state_dict` as it is.
    Raises: CheckpointError.
    """
    averaged = "ema_state_dict" in checkpoint
    if ema and not averaged:
        raise CheckpointError(
            f"{path} has no averaged weights (it holds {', '.join(map(str, checkpoint))}): "
            "pass ema=False, or train with the EMA hook"
        )
    if ema is False and averaged:
        raw = {k: v for k, v in checkpoint["ema_state_dict"].items() if k.startswith("module.")}
        return {**_without_module(checkpoint["state_dict"]), **_without_module(raw)}
    weights = checkpoint.get("state_dict", checkpoint)
    if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise CheckpointError(f"{path} has no 'state_dict' (it holds {', '.join(map(str, checkpoint))})")
    return _without_module(weights)


def _without_module(weights: Mapping) -> dict:
    return {key.removeprefix("module."): value for key, value in weights.items()}


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    ema: bool | None = None,
    strict: bool = True,
    prefix: str = "",
    map_location="cpu",
) -> None:
    """Load weights into a model in place.

    ema: see `select_weights`. prefix: take only the keys below it, e.g. "backbone.". strict: missing and unexpected
    keys are errors; a shape that differs always is.
    Raises: CheckpointError naming the file and the first keys that do not fit.
    """
    weights = select_weights(load_checkpoint(path, map_location), path, ema=ema)
    if prefix:
        weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        if not weights:
            raise CheckpointError(f"{path} has no weights that begin with {prefix!r}")
    own = model.state_dict()
    shapes = [
        f"{key} {tuple(value.shape)} where the model has {tuple(own[key].shape)}"
        for key, value in weights.items()
        if key in own and own[key].shape != value.shape
    ]
    if shapes:
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {_some(shapes)}")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if strict and (missing or unexpected):
        parts = [f"missing {_some(missing)}"] if missing else []
        parts += [f"unexpected {_some(unexpected)}"] if unexpected else []
        raise CheckpointError(f"{path} does not fit {type(model).__name__}: {'; '.join(parts)}")


def _some(names: list[str], show: int = 6) -> str:
    more = f" and {len(names) - show} more" if len(names) > show else ""
    return ", ".join(names[:show]) + more


def replace_file(temporary: Path, final: Path) -> None:
    """Flush a finished file to the disk and give it its name: readers see the old file or the new one, never half."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, final)


def save_atomic(state: dict, path: str | os.PathLike) -> None:
    """torch.save that leaves either the whole new file or what was there before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save(state, temporary)
    replace_file(temporary, path)


def checkpoints_of(work_dir: str | os.PathLike) -> list[Path]:
    """The training checkpoints of a work directory, newest first (by iteration or epoch number).

    `last_checkpoint` is read only for a checkpoint of another name: a run killed while writing it loses nothing.
    """
    work_dir = Path(work_dir)
    numbered = [
        (int(match.group(1)), file)
        for file in work_dir.glob("*.pth")
        if (match := re.fullmatch(r"(?:iter|epoch)_(\d+)\.pth", file.name))
    ]
    found = [file for _, file in sorted(numbered, reverse=True)]
    pointer = work_dir / "last_checkpoint"
    if pointer.is_file():
        named = work_dir / Path(pointer.read_text().strip()).name
        if named.is_file() and named not in found:
            found.insert(0, named)
    return found


class NewestCheckpoints:
    """Keeps the newest of a run's own checkpoints and removes its older ones; another run's in the same folder stay.

    Args: own: those that the run has written before, e.g. `checkpoints_of` its folder where it resumes, newest first;
        count: how many are kept.
    """

    def __init__(self, own: Iterable[str | os.PathLike] = (), count: int = 2):
        self.paths, self.count = [Path(path) for path in own][::-1], count

    def add(self, path: Path) -> None:
        """Path has just been written."""
        self.paths = [*(one for one in self.paths if one != path), path]
        for old in self.paths[: -self.count]:
            old.unlink(missing_ok=True)
        self.paths = self.paths[-self.count :]


def latest_checkpoint(work_dir: str | os.PathLike) -> Path:
    """The newest training checkpoint of a work directory. Raises: CheckpointError if there is none."""
    found = checkpoints_of(work_dir)
    if not found:
        raise CheckpointError(f"{work_dir} holds no checkpoint (iter_N.pth, epoch_N.pth): train first")
    return found[0]
