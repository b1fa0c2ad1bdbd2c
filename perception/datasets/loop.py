"""The training loop of mmengine, resumed by moving the sampler instead of loading and dropping every past batch."""

from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop

from common.errors import ConfigError


class _FromIteration:
    """Batches of `dataloader` from iteration `start` on; the first `start` calls, which skip the past, load nothing."""

    def __init__(self, dataloader, start: int):
        self._past, self._batches = start, iter(dataloader)

    def __iter__(self):
        return self

    def __next__(self):
        if self._past > 0:
            self._past -= 1
            return None
        return next(self._batches)


@LOOPS.register_module()
class SequenceTrainLoop(IterBasedTrainLoop):
    """IterBasedTrainLoop for `SequenceBatchSampler`: a resumed run gets exactly the batches it would have had."""

    def run(self):
        """Train; see IterBasedTrainLoop. Raises: ConfigError if a resumed run's sampler cannot be moved."""
        if self._iter > 0:
            sampler = self.dataloader.batch_sampler
            if not hasattr(sampler, "set_start"):
                raise ConfigError(
                    f"train_dataloader.batch_sampler is {type(sampler).__name__}: to resume exactly, use "
                    "sampler=dict(type=SequenceSampler), batch_sampler=dict(type=SequenceBatchSampler)"
                )
            sampler.set_start(self._iter)
            self.dataloader_iterator = _FromIteration(self.dataloader, self._iter)
        return super().run()
