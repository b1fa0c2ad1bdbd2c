"""Hooks: weight averaging, switches at an iteration, and the state that makes a resumed run the same run."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.dist import broadcast, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from common.engine.checkpoint import load_checkpoint, save_atomic
from common.engine.loops import unwrap
from common.engine.seeding import rng_state, set_rng_state
from common.errors import CheckpointError, ConfigError


def ema_decay(t: float, decay: float = 0.999, gamma: float = 2000.0, power: float | None = None) -> float:
    """decay * (1 - exp(-t / gamma)): 0 at the start, `decay` in the end (VCD's released recipe). With `power`:
    min(decay, 1 - (1 + t)^-power), 0.75 and 0.9999 in Diffusion Policy."""
    if power is not None:
        return min(decay, 1 - (1 + t) ** -power)
    return decay * (1 - math.exp(-t / gamma))


@torch.no_grad()
def ema_update(average: Mapping[str, Tensor], state: Mapping[str, Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * state, in place; integers (counters) are copied."""
    floating = [key for key, value in average.items() if value.dtype.is_floating_point]
    torch._foreach_lerp_([average[key] for key in floating], [state[key] for key in floating], 1 - decay)
    for key in average.keys() - set(floating):
        average[key].copy_(state[key])


class EMAHook(Hook):
    """Exponential moving average of all floating state, buffers included, after every iteration.

    A config names it by import; the bare string "EMAHook" is mmengine's own hook.

    The decay of the n-th update (n = 1, 2, ...) is `ema_decay(n + offset)`; the average starts from the weights that
    training starts from. Evaluations use the average, of rank 0 in all processes. A checkpoint holds it as
    `state_dict`, so that what is deployed is what was evaluated, and the raw weights as `ema_state_dict` (mmengine's
    layout).

    Only the model's own state is averaged: a frozen teacher that is not a registered submodule is not copied.
    """

    priority = "NORMAL"

    def __init__(self, decay: float = 0.999, gamma: float = 2000.0, offset: int = 0, power: float | None = None):
        if not 0 < decay < 1 or gamma <= 0 or offset < 0 or (power is not None and power <= 0):
            raise ConfigError(
                f"EMAHook(decay={decay}, gamma={gamma}, offset={offset}, power={power}): 0 < decay < 1, gamma > 0, "
                "offset >= 0, power > 0 or None"
            )
        self.decay, self.gamma, self.offset, self.power = decay, gamma, offset, power
        self.steps = 0
        self.average: dict[str, Tensor] | None = None

    def before_train(self, runner) -> None:
        state = unwrap(runner.model).state_dict()
        if self.average is None:
            self.average = {key: value.detach().clone() for key, value in state.items()}
        else:
            self.average = {key: self.average[key].to(value.device) for key, value in state.items()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.steps += 1
        decay = ema_decay(self.steps + self.offset, self.decay, self.gamma, self.power)
        ema_update(self.average, unwrap(runner.model).state_dict(), decay)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        if self.average is None:  # a test of a loaded checkpoint: its state_dict is the average already
            return
        for key, value in unwrap(model).state_dict().items():
            raw = value.clone()
            value.copy_(self.average[key])
            self.average[key].copy_(raw)

    def _share_buffers(self, model: nn.Module) -> None:
        """Every process evaluates rank 0's averaged buffers, those that the checkpoint holds: without SyncBN each has
        statistics of its own."""
        if self.average is not None and get_world_size() > 1:
            for name, _ in unwrap(model).named_buffers():
                if name in self.average:
                    broadcast(self.average[name])

    def before_val_epoch(self, runner) -> None:
        self._share_buffers(runner.model)
        self._swap(runner.model)

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._swap(runner.model)

    def before_test_epoch(self, runner) -> None:
        self._swap(runner.model)

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._swap(runner.model)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        raw = checkpoint["state_dict"]
        saved = type(raw)((key, self.average[key].detach().cpu().clone()) for key in raw)
        saved._metadata = getattr(raw, "_metadata", {})
        checkpoint["ema_state_dict"] = {
            "steps": torch.tensor(self.steps),
            **{f"module.{key}": value for key, value in raw.items()},
        }
        checkpoint["state_dict"] = saved

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if not runner._resume:
            return
        if "ema_state_dict" not in checkpoint:
            raise CheckpointError(
                f"{runner._load_from or runner.work_dir}: cannot resume the average: the checkpoint was written "
                "without EMAHook; start from it with load_from, or take the hook out of the config"
            )
        stored = checkpoint["ema_state_dict"]
        self.steps = int(stored["steps"])
        self.average = {key: value.clone() for key, value in checkpoint["state_dict"].items()}
        raw = {key.removeprefix("module."): value for key, value in stored.items() if key.startswith("module.")}
        checkpoint["state_dict"] = type(checkpoint["state_dict"])(raw)


class _AtIteration(Hook):
    """Acts once, before iteration `at` (the first is 0); a run resumed from beyond `at` acts before it goes on."""

    def __init__(self, at: int):
        if at < 0:
            raise ConfigError(f"{type(self).__name__}: at is {at}; iterations count from 0")
        self.at = at
        self._done = False

    def before_train(self, runner) -> None:
        self._done = False
        if runner.iter > self.at:
            self._act_once(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter >= self.at:
            self._act_once(runner)

    def _act_once(self, runner) -> None:
        if not self._done:
            self._done = True
            self.act(unwrap(runner.model))


def _reach(model: nn.Module, path: str, hook: str):
    """The object that holds the last part of a dotted path, and that part's name."""
    owner = model
    *parents, name = path.split(".")
    for part in [*parents, None]:
        wanted = name if part is None else part
        if not hasattr(owner, wanted):
            raise ConfigError(f"{hook}: {type(owner).__name__} has no {wanted!r} (of {path!r})")
        owner = owner if part is None else getattr(owner, part)
    return owner, name


@HOOKS.register_module()
class CallAtHook(_AtIteration):
    """Calls a method of the model at an iteration: `dict(type=CallAtHook, at=3998, method="enable_history")`.

    method may be dotted ("head.freeze"); arguments are passed by name.
    """

    def __init__(self, at: int, method: str, arguments: dict | None = None):
        super().__init__(at)
        self.method, self.arguments = method, dict(arguments or {})

    def act(self, model: nn.Module) -> None:
        owner, name = _reach(model, self.method, "CallAtHook")
        getattr(owner, name)(**self.arguments)


@HOOKS.register_module()
class SetAtHook(_AtIteration):
    """Sets an existing attribute of the model: `dict(type=SetAtHook, at=100, attribute="weight", value=0.5)`."""

    def __init__(self, at: int, attribute: str, value):
        super().__init__(at)
        self.attribute, self.value = attribute, value

    def act(self, model: nn.Module) -> None:
        owner, name = _reach(model, self.attribute, "SetAtHook")
        setattr(owner, name, self.value)


def state_file(work_dir, checkpoint_name: str, rank: int) -> Path:
    """Where a process keeps what only it knows at a checkpoint: resume/<checkpoint>.rank<r>.pth."""
    return Path(work_dir) / "resume" / f"{Path(checkpoint_name).stem}.rank{rank}.pth"


@HOOKS.register_module()
class RuntimeStateHook(Hook):
    """Keeps, for every process, random states and the model's `runtime_state()` beside each resumable checkpoint.

    `runtime_state() -> dict` (tensors, numbers; e.g. the BEV history of each batch slot) and
    `load_runtime_state(dict)` are optional methods of the model. The files stand apart from the checkpoint, so that
    what is published stays small, and are written before it: a checkpoint that exists has its state files.
    ResumableRunner registers this hook by itself.
    """

    priority = "VERY_LOW"

    def __init__(self):
        self._resumed: dict | None = None

    def save(self, runner, out_dir, checkpoint_name: str) -> None:
        """Called by the runner on every process before a resumable checkpoint is written."""
        model = unwrap(runner.model)
        state = {
            "world_size": get_world_size(),
            "rng": rng_state(),
            "model": model.runtime_state() if hasattr(model, "runtime_state") else {},
        }
        save_atomic(state, state_file(out_dir, checkpoint_name, get_rank()))

    def load(self, runner, checkpoint_path) -> None:
        """Called by the runner on every process when it resumes from a checkpoint."""
        path = Path(checkpoint_path)
        file = state_file(path.parent, path.name, get_rank())
        if not file.is_file():
            self._skip(runner, f"{file} is missing")
            return
        state = load_checkpoint(file)
        if state["world_size"] != get_world_size():
            self._skip(
                runner, f"{file} is of a run with {state['world_size']} processes, this one has {get_world_size()}"
            )
            return
        self._resumed = state

    def _skip(self, runner, why: str) -> None:
        runner.logger.warning(
            f"{why}: random states and the stream's history start afresh; the curve goes on, but is not the one "
            "that an uninterrupted run would have drawn"
        )

    def after_data_positioned(self, runner) -> None:
        """Called by ResumableIterLoop once the data stands where it stood: nothing draws random numbers any more."""
        if self._resumed is None:
            return
        model = unwrap(runner.model)
        if hasattr(model, "load_runtime_state"):
            model.load_runtime_state(self._resumed["model"])
        set_rng_state(self._resumed["rng"])
        self._resumed = None

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.after_data_positioned(runner)  # for loops that do not call it
