"""`tutelage test CONFIG CHECKPOINT`: the metrics of a checkpoint, printed and written as JSON."""

import argparse
import json
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from common.engine.config import as_config, default_work_dir
from common.engine.launch import build_runner, leave_processes
from common.engine.train import add_common_arguments, configure
from common.errors import ConfigError


def test(cfg: Config | dict, checkpoint: str | os.PathLike, out: str | os.PathLike | None = None) -> dict:
    """Evaluate a checkpoint on the config's test set.

    The weights are the checkpoint's `state_dict`: the average, where training used the EMA hook.
    out: folder for metrics.json, the log and pictures; default <work_dir>/test.
    Returns: metric name -> value. Raises: ConfigError, CheckpointError, FileNotFoundError.
    """
    cfg = as_config(cfg)
    own = cfg.get("runner_type") is not None  # a runner of its own knows what it is tested on
    if not own and (cfg.get("test_dataloader") is None or cfg.get("test_evaluator") is None):
        raise ConfigError(
            f"{cfg.filename or 'the config'} has no test_dataloader and test_evaluator: nothing to test on"
        )
    if "://" not in str(checkpoint) and not Path(checkpoint).expanduser().is_file():
        raise FileNotFoundError(f"{checkpoint}: no such checkpoint")
    cfg.work_dir = str(out) if out is not None else os.path.join(default_work_dir(cfg), "test")
    cfg.load_from = str(checkpoint)
    runner = build_runner(cfg)
    try:
        metrics = {name: _plain(value) for name, value in runner.test().items()}
    finally:
        runner.stop_workers()
    if is_main_process():
        path = Path(cfg.work_dir) / "metrics.json"
        path.write_text(json.dumps({"checkpoint": str(checkpoint), "metrics": metrics}, indent=1) + "\n")
    return metrics


test.__test__ = False  # not a pytest test, wherever it is imported


def _plain(value):
    """Numbers of numpy and torch as Python's; everything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) in (1, ()) else value


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="tutelage test", description="Evaluate a checkpoint of a config.")
    parse.add_argument("config", help="config file")
    parse.add_argument("checkpoint", help="checkpoint file")
    parse.add_argument("--out", metavar="D", help="default: <work_dir>/test")
    parse.add_argument("--work-dir", metavar="D", help="of the training; default: work_dirs/<config name>")
    add_common_arguments(parse)
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    metrics = test(configure(args), args.checkpoint, args.out)
    if is_main_process():
        for name, value in metrics.items():
            print(f"{name:<40} {value:.4f}" if isinstance(value, float) else f"{name:<40} {value}")
    leave_processes()
    return 0
