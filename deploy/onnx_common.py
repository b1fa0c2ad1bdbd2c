"""What every export shares: the opset, quiet, the name of its file, and where it comes from."""

import argparse
import logging
from contextlib import contextmanager
from pathlib import Path

import torch

from common.errors import ConfigError
from deploy.runtime.manifest import sha256

BESIDE = "OUT.onnx; OUT.encoder.onnx and OUT.json are written beside it"
OPSET = 18  # 20 has another GridSample, which TensorRT 10.13 computes wrongly


@contextmanager
def quiet():
    """Mute the exporter's notes on operators of packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def export_parser(description: str, out: str = BESIDE) -> argparse.ArgumentParser:
    """The arguments that every export has: CONFIG CHECKPOINT OUT.onnx --cfg-options; out: what OUT's help says."""
    parse = argparse.ArgumentParser(prog="tutelage export", description=description)
    parse.add_argument("config")
    parse.add_argument("checkpoint")
    parse.add_argument("out", type=Path, help=out)
    parse.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V")
    return parse


def onnx_path(out: str | Path) -> Path:
    """The file to write. Raises ConfigError unless it is called .onnx."""
    if Path(out).suffix != ".onnx":
        raise ConfigError(f"{out}: the exported file must end in .onnx")
    return Path(out)


def provenance(config: str, checkpoint: str, **more) -> dict:
    """A manifest's `source`: names without folders, the checkpoint's hash, and torch's version."""
    named = {"config": Path(config).name, "checkpoint": Path(checkpoint).name, **more}
    return {**named, "checkpoint_sha256": sha256(checkpoint), "torch": torch.__version__}
