"""mmengine's Runner with checkpoints that load safely, are written whole, and resume to the same curve."""

import os
from pathlib import Path

import torch.distributed as dist
from mmengine.dist import is_distributed, is_main_process
from mmengine.runner import BaseLoop, Runner

from common.engine.checkpoint import CorruptCheckpointError, checkpoints_of, install_safe_loading, replace_file
from common.engine.hooks import RuntimeStateHook
from common.errors import CheckpointError


class ResumableRunner(Runner):
    """Runner that

    - loads checkpoints strictly (`load_strict=False` in the config loosens `load_from`) and without running code;
    - writes a checkpoint under a temporary name and renames it, after every process has kept its own state;
    - resumes from the newest checkpoint that is whole, with a warning for each that is not.
    """

    def __init__(self, *args, **kwargs):
        install_safe_loading()
        super().__init__(*args, **kwargs)

    def register_hooks(self, default_hooks=None, custom_hooks=None) -> None:
        super().register_hooks(default_hooks, custom_hooks)
        found = [hook for hook in self.hooks if isinstance(hook, RuntimeStateHook)]
        self._state_hook = found[0] if found else RuntimeStateHook()
        if not found:
            self.register_hook(self._state_hook)

    def save_checkpoint(self, out_dir, filename, file_client_args=None, save_optimizer=True, **kwargs) -> None:
        """As mmengine's; called on every process."""
        local = "://" not in str(out_dir)
        if local and save_optimizer:
            self._state_hook.save(self, out_dir, filename)
            if is_distributed():
                dist.barrier()
        if not local:
            super().save_checkpoint(out_dir, filename, file_client_args, save_optimizer=save_optimizer, **kwargs)
            return
        temporary = f".{filename}.tmp"
        super().save_checkpoint(out_dir, temporary, file_client_args, save_optimizer=save_optimizer, **kwargs)
        if is_main_process():
            replace_file(Path(out_dir) / temporary, Path(out_dir) / filename)
            self._remove_stale_states(Path(out_dir))

    @staticmethod
    def _remove_stale_states(out_dir: Path) -> None:
        for file in (out_dir / "resume").glob("*.rank*.pth"):
            if not (out_dir / f"{file.name.split('.rank')[0]}.pth").is_file():
                file.unlink(missing_ok=True)

    def load_checkpoint(self, filename, map_location="cpu", strict: bool | None = None, **kwargs):
        """As mmengine's, but strict, with errors that name the file."""
        if strict is None:
            strict = self._resume or self.cfg.get("load_strict", True)
        try:
            return super().load_checkpoint(filename, map_location=map_location, strict=strict, **kwargs)
        except RuntimeError as error:
            if isinstance(error, NotImplementedError) or "state dict" not in str(error):
                raise
            raise CheckpointError(f"{filename} does not fit {self._model_name}: {_shorten(error)}") from error

    def _init_model_weights(self) -> None:
        """As mmengine's; a run that goes on takes all weights from its checkpoint, none from a file."""
        if not (self._resume and (self._load_from or checkpoints_of(self.work_dir))):
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        if self._has_loaded or not self._resume or self._load_from is not None:
            super().load_or_resume()
            return
        candidates = checkpoints_of(self.work_dir)
        for path in candidates:
            try:
                self.resume(str(path))
                return
            except CorruptCheckpointError as error:
                self.logger.warning(f"{error}; trying the one before")
        if candidates:
            raise CheckpointError(f"{self.work_dir}: none of its {len(candidates)} checkpoints is whole: train anew")
        self.logger.warning(f"{self.work_dir} holds no checkpoint to resume from: starting at iteration 0")

    def resume(self, filename, *args, **kwargs) -> None:
        if "://" not in str(filename):
            self._state_hook.load(self, os.path.expanduser(filename))
        super().resume(filename, *args, **kwargs)

    def stop_workers(self) -> None:
        """End the loader processes of all loops; a loop that runs again starts new ones.

        Left to the garbage collector they would live as long as the runner, and each could take 5 s to end.
        """
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            if not isinstance(loop, BaseLoop):
                continue
            endless = getattr(loop, "dataloader_iterator", None)
            for iterator in (getattr(endless, "_iterator", None), getattr(loop.dataloader, "_iterator", None)):
                if hasattr(iterator, "_shutdown_workers"):
                    iterator._shutdown_workers()
            loop.dataloader._iterator = None


def _shorten(error: RuntimeError, limit: int = 600) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = "; ".join(line for line in lines if "do not match exactly" not in line)
    return text if len(text) <= limit else text[:limit] + " ..."
