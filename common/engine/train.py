"""`tutelage train CONFIG`: mmengine's Runner underneath."""

import argparse
import os
import sys

from mmengine.config import Config

from common.engine.config import load_config, override, parse_options
from common.engine.launch import LAUNCHERS, build_runner, leave_processes, use_amp
from common.engine.runner import ResumableRunner


def train(cfg: Config | dict, *, resume: bool | str = False) -> ResumableRunner:
    """Train a config and return its runner (`runner.model` is the trained model with its raw weights).

    resume: True to go on from the newest whole checkpoint of `cfg.work_dir`, or the path of a checkpoint; by default
        what `cfg.resume` says.
    Raises: ConfigError, CheckpointError, FileNotFoundError.
    """
    runner = build_runner(cfg, resume=resume or cfg.get("resume", False))
    try:
        runner.train()
    finally:
        runner.stop_workers()
    return runner


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="tutelage train", description="Train a config.")
    parse.add_argument("config", help="config file")
    parse.add_argument("--work-dir", metavar="D", help="default: work_dirs/<config name>")
    parse.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CKPT",
        help="go on from the work directory's newest whole checkpoint, or from CKPT",
    )
    parse.add_argument("--seed", type=int, metavar="S", help="default: the config's, else drawn and recorded")
    parse.add_argument("--amp", action="store_true", help="automatic mixed precision")
    add_common_arguments(parse)
    return parse


def add_common_arguments(parse: argparse.ArgumentParser) -> None:
    """The arguments that `train` and `test` share."""
    parse.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        action="extend",
        metavar="K=V",
        help="override keys, e.g. model.depth=18 pipeline.0.scale=2; a key the config lacks is an error, +K=V adds it",
    )
    parse.add_argument("--launcher", choices=tuple(LAUNCHERS), default="none")
    parse.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)


def configure(args: argparse.Namespace) -> Config:
    """The config that the shared arguments describe."""
    cfg = load_config(args.config, parse_options(args.cfg_options))
    if args.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if args.launcher != "none":
        cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    return cfg


def _resume_last(argv: list[str]) -> list[str]:
    """`--resume CONFIG.py` asks to resume CONFIG, whatever order the words have: a checkpoint is no Python file."""
    for i, word in enumerate(argv[:-1]):
        if word == "--resume" and argv[i + 1].endswith(".py"):
            return [*argv[:i], *argv[i + 1 :], word]
    return argv


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(_resume_last(sys.argv[2:] if argv is None else argv))
    cfg = configure(args)
    if args.seed is not None:
        override(cfg, {"+randomness": {**(cfg.get("randomness") or {}), "seed": args.seed}})
    if args.amp:
        use_amp(cfg)
    runner = train(cfg, resume=args.resume)
    runner.logger.info(f"done: {runner.work_dir}")
    leave_processes()
    return 0
