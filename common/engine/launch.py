"""From a config to a runner: work directory, processes, seed, loggers."""

import itertools
import os
import subprocess
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import get_world_size, init_dist, is_distributed, is_main_process, sync_random_seed
from mmengine.registry import RUNNERS

from common.engine.checkpoint import checkpoints_of
from common.engine.config import as_config, default_work_dir
from common.engine.runner import ResumableRunner
from common.engine.seeding import draw_seed
from common.engine.workdir import read_record, write_record
from common.errors import ConfigError

# launcher: (the command that starts the processes, a variable that it sets)
LAUNCHERS = {
    "none": ("", ""),
    "pytorch": ("torchrun --nproc_per_node N", "LOCAL_RANK"),
    "slurm": ("srun python", "SLURM_PROCID"),
}
_built = itertools.count()


def build_runner(cfg: Config | dict, *, resume: bool | str = False) -> ResumableRunner:
    """A runner of a config, mmengine's or the one that its `runner_type` names; the config itself is not changed.

    resume: True for the newest whole checkpoint of the work directory, or the path of one.
    Without a seed in `randomness` one is drawn; a resumed run takes the seed of its work directory.
    Raises: ConfigError, CheckpointError, FileNotFoundError.
    """
    cfg = as_config(cfg)
    cfg.work_dir = default_work_dir(cfg)
    _resume_into(cfg, resume)
    _check_checkpoint_hook(cfg)
    _check_schedules(cfg)
    start_processes(cfg)
    _fix_seed(cfg, resume)
    _logging_defaults(cfg)
    if is_main_process():
        write_record(
            cfg.work_dir,
            config=cfg.filename,
            seed=cfg.randomness["seed"],
            world_size=get_world_size(),
            resume=resume,
        )
    runner = RUNNERS.build(cfg) if cfg.get("runner_type") else ResumableRunner.from_cfg(cfg)
    if resume is True and not cfg.resume:
        runner.logger.warning(f"{cfg.work_dir} holds no checkpoint to resume from: starting at iteration 0")
    return runner


def _resume_into(cfg: Config, resume: bool | str) -> None:
    cfg.resume = bool(resume)
    if isinstance(resume, str | os.PathLike) and "://" not in str(resume):
        if not Path(resume).expanduser().is_file():
            raise FileNotFoundError(f"--resume {resume}: no such checkpoint")
        cfg.load_from = str(resume)
    elif resume is True and not checkpoints_of(cfg.work_dir):
        cfg.resume = False  # nothing to go on from: the run begins, from `load_from` where the config names one
    elif resume:
        # `load_from` is where a run begins; a resumed run goes on from its own checkpoint
        cfg.load_from = None if resume is True else resume


def _check_checkpoint_hook(cfg: Config) -> None:
    hook = (cfg.get("default_hooks") or {}).get("checkpoint")
    if hook and hook.get("max_keep_ckpts", -1) == 1:
        raise ConfigError(
            "default_hooks.checkpoint.max_keep_ckpts=1 deletes the only checkpoint before the next one is written; "
            "set it to 2"
        )


def _check_schedules(cfg: Config) -> None:
    """A training shorter than its warm-up leaves the next schedule nothing: say so by its key."""
    given = cfg.get("param_scheduler") or []
    if isinstance(given, dict) and "type" in given:
        given = [given]
    groups = given if isinstance(given, dict) else {"": given}  # of one optimiser, or by the names of several
    for name, schedules in groups.items():
        several = isinstance(schedules, list | tuple)
        for i, one in enumerate(schedules if several else [schedules]):
            begin, end = one.get("begin", 0), one.get("end")
            if end is not None and end <= begin:
                key = ".".join(part for part in ("param_scheduler", name, str(i) if several else "") if part)
                raise ConfigError(
                    f"{key} begins at {begin} and ends at {end}: train for more than {begin}, or set {key}.begin and "
                    "the end of the warm-up before it to less"
                )


def start_processes(cfg: Config) -> None:
    """Join the process group of `cfg.launcher`: NCCL with CUDA, gloo without. Raises: ConfigError."""
    cfg.launcher = launcher = cfg.get("launcher") or "none"
    if launcher not in LAUNCHERS:
        raise ConfigError(f"launcher {launcher!r}: one of {', '.join(LAUNCHERS)}")
    if launcher == "none":
        if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ConfigError("torchrun started several processes, which would each train alone: --launcher pytorch")
        return
    starter, variable = LAUNCHERS[launcher]
    if variable not in os.environ:
        raise ConfigError(f"--launcher {launcher} wants {starter} -m common.cli train ... ({variable} is not set)")
    if torch.cuda.is_available():
        if not is_distributed():
            init_dist(launcher, **dict((cfg.get("env_cfg") or {}).get("dist_cfg") or {}))
        return
    if launcher == "slurm":
        _slurm_environment()
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    # DistributedDataParallel wants no device ids for modules on the CPU; mmengine gives it LOCAL_RANK
    wrapper = dict(cfg.get("model_wrapper_cfg") or {})
    wrapper.setdefault("type", "MMDistributedDataParallel")
    wrapper.setdefault("broadcast_buffers", False)
    wrapper.setdefault("find_unused_parameters", cfg.get("find_unused_parameters", False))
    wrapper["device_ids"] = None
    cfg.model_wrapper_cfg = wrapper


def _slurm_environment() -> None:
    env = os.environ
    env.setdefault("RANK", env["SLURM_PROCID"])
    env.setdefault("WORLD_SIZE", env["SLURM_NTASKS"])
    env.setdefault("LOCAL_RANK", env.get("SLURM_LOCALID", "0"))
    env.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in env:
        names = subprocess.run(["scontrol", "show", "hostname", env["SLURM_NODELIST"]], capture_output=True, text=True)
        env["MASTER_ADDR"] = names.stdout.split()[0] if names.stdout else "localhost"


def _fix_seed(cfg: Config, resume) -> None:
    randomness = dict(cfg.get("randomness") or {})
    if randomness.get("seed") is None:
        record = read_record(cfg.work_dir) if resume else None
        seed = record["seed"] if record else draw_seed()
        randomness["seed"] = seed if get_world_size() == 1 else (record["seed"] if record else sync_random_seed())
    cfg.randomness = randomness


def _logging_defaults(cfg: Config) -> None:
    if cfg.get("visualizer") is None:
        backends = [{"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}]
        cfg.visualizer = {"type": "Visualizer", "vis_backends": backends}
    train_cfg = cfg.get("train_cfg")
    if train_cfg and "max_iters" in train_cfg:
        hooks = cfg.setdefault("default_hooks", {})
        logger = hooks.setdefault("logger", {"type": "LoggerHook"})
        logger.setdefault("log_metric_by_epoch", False)  # evaluations are logged at their iteration
    # mmengine keeps logger, message hub and visualizer by name: a second run of this process would write into the
    # first one's files, whatever name the config gives
    stem = Path(cfg.filename).stem if cfg.filename else "run"
    number = next(_built)
    cfg.experiment_name = stem if number == 0 else f"{stem}-{number}"
    if isinstance(cfg.visualizer, dict):
        cfg.visualizer["name"] = cfg.experiment_name


def use_amp(cfg: Config) -> None:
    """Switch a config's optimiser wrapper to automatic mixed precision, in place. Raises: ConfigError."""
    wrapper = cfg.get("optim_wrapper")
    if wrapper is None:
        raise ConfigError("--amp: the config has no optim_wrapper")
    name = wrapper.get("type", "OptimWrapper")
    name = name if isinstance(name, str) else name.__name__
    name = name.rsplit(".", 1)[-1]
    if name == "AmpOptimWrapper":
        return
    if name != "OptimWrapper":
        raise ConfigError(f"--amp: optim_wrapper is a {name}; only OptimWrapper can be switched: set its type yourself")
    if not torch.cuda.is_available():
        raise ConfigError("--amp: mmengine's mixed precision wants a GPU; train without it on the CPU")
    wrapper["type"] = "AmpOptimWrapper"
    wrapper.setdefault("loss_scale", "dynamic")


def leave_processes() -> None:
    """Leave the process group, if there is one."""
    if is_distributed():
        dist.barrier()
        dist.destroy_process_group()
