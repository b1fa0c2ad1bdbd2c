"""The training loop that continues where it was killed."""

import contextlib

import torch
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator

from common.engine.seeding import preserved_rng
from common.engine.workdir import read_metrics


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside a distributed wrapper, or the model itself."""
    return model.module if is_model_wrapper(model) else model


@contextlib.contextmanager
def undisturbed(model: torch.nn.Module):
    """The body (an evaluation) leaves no trace: generators and the model's `runtime_state` are put back."""
    model = unwrap(model)
    keeps_state = hasattr(model, "runtime_state")
    with preserved_rng():
        state = model.runtime_state() if keeps_state else None
        try:
            yield
        finally:
            if keeps_state:
                model.load_runtime_state(state)


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """mmengine's iteration-based loop with three differences.

    - A sampler or batch sampler with `set_start(iteration)` is told where to go on; without one the data loader is
      advanced batch by batch, as mmengine does.
    - Validation leaves random states and the training stream's history as it found them, so the curve does not depend
      on how often one validates.
    - An evaluation that was due when the run was killed is made up for on resume.
    """

    def run(self):
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        if self._iter > 0:
            self._continue_data()
        self.runner.call_hook("after_data_positioned")
        if self._iter > 0 and self._validation_due() and not self._validation_done():
            self._validate()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._validation_due():
                self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _continue_data(self) -> None:
        batch_sampler = self.dataloader.batch_sampler
        for sampler in (batch_sampler, getattr(batch_sampler, "sampler", None), self.dataloader.sampler):
            if hasattr(sampler, "set_start"):
                sampler.set_start(self._iter)
                self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
                return
        print_log(
            f"{type(self.dataloader.sampler).__name__} has no set_start(iteration): reading {self._iter} batches again "
            "to get where the run was",
            logger="current",
        )
        for _ in range(self._iter):
            next(self.dataloader_iterator)

    def _validation_due(self) -> bool:
        if self.runner.val_loop is None or self._iter < self.val_begin:
            return False
        return self._iter % self.val_interval == 0 or self._iter == self._max_iters

    def _validation_done(self) -> bool:
        """Rank 0 looks for the line that an evaluation writes and tells the others."""
        done = [any(entry["step"] == self._iter for entry in read_metrics(self.runner.work_dir, "val"))]
        broadcast_object_list(done)
        return done[0]

    def _validate(self) -> None:
        with undisturbed(self.runner.model):
            self.runner.val_loop.run()
