"""What every export shares: the opset, and quiet."""

import logging
from contextlib import contextmanager

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
