"""Samplers that walk through sequences: endless shuffled walks for training, whole scenes for evaluation.

In a config:
    train: sampler=dict(type=SequenceSampler), batch_sampler=dict(type=SequenceBatchSampler), batch_size=B
    val:   sampler=dict(type=SceneSampler), batch_size=1
"""

import heapq
from collections.abc import Iterator

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS

from common.errors import ConfigError

from .nuscenes import SequenceItem


class Walks:
    """The endless deal of sequences to slots; a pure function of (lengths, slots, seed).

    Epoch e is a random permutation of all sequences. The slots take sequences from it in turn; a slot whose sequence
    has ended takes the next one nobody has taken yet. Slot s at step n gives draw number n * slots + s.

    Args: lengths: frames of every sequence. slots: number of walkers, at most the number of sequences.
    """

    def __init__(self, lengths, slots: int, seed: int):
        self.lengths, self.slots, self.seed = [int(n) for n in lengths], slots, int(seed)
        if slots > len(self.lengths):
            raise ConfigError(
                f"{slots} batch slots (batch size x ranks) but only {len(self.lengths)} sequences: every slot walks "
                f"through its own sequence. Use a global batch of at most {len(self.lengths)}, raise split_sequences, "
                "or use more scenes"
            )
        if min(self.lengths) < 1:
            raise ConfigError("a sequence has no frames: make the info file again")

    def _sequence(self, walk: int) -> int:
        epoch, place = divmod(walk, len(self.lengths))
        if getattr(self, "_epoch", None) != epoch:
            rng = np.random.default_rng((self.seed, 0x5E9, epoch))
            self._epoch, self._order = epoch, rng.permutation(len(self.lengths))
        return int(self._order[place])

    def steps(self, start: int = 0) -> Iterator[list[tuple[int, int, int]]]:
        """From step `start` on: per step one (sequence, frame within it, walk) for every slot.

        Jumping costs one heap operation per sequence dealt before `start`, whatever the number of frames.
        """
        ends = [(0, slot) for slot in range(self.slots)]  # (step at which the slot needs a new sequence, slot)
        current, walk = [None] * self.slots, 0
        step = start
        while True:
            while ends[0][0] <= step:
                begin, slot = ends[0]
                sequence = self._sequence(walk)
                current[slot] = (sequence, begin, walk)
                heapq.heapreplace(ends, (begin + self.lengths[sequence], slot))
                walk += 1
            yield [(sequence, step - begin, number) for sequence, begin, number in current]
            step += 1


@DATA_SAMPLERS.register_module()
class SequenceSampler:
    """Holds the data set's sequences, the seed and the position; `SequenceBatchSampler` makes batches of it.

    Alone it is the endless sampler of batch size 1. `set_start(n)` makes the next iteration begin with batch n.
    """

    def __init__(self, dataset, seed: int | None = None):
        if not hasattr(dataset, "sequences"):
            raise ConfigError(f"{type(dataset).__name__} has no sequences: use NuScenesSequenceDataset")
        self.sequences = dataset.sequences
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        self.start = 0

    def set_start(self, iteration: int) -> None:
        """Begin with batch `iteration` (number of batches every rank has already had); loads nothing."""
        self.start = int(iteration)

    def batches(self, batch_size: int) -> Iterator[list[SequenceItem]]:
        """This rank's batches without end. Global slot = rank * batch_size + position in the batch."""
        slots = batch_size * self.world_size
        walks = Walks([len(sequence) for sequence in self.sequences], slots, self.seed)
        first = self.rank * batch_size
        for step, dealt in enumerate(walks.steps(self.start), self.start):
            yield [
                SequenceItem(self.sequences[sequence][frame], frame == 0, step * slots + slot, walk, self.seed)
                for slot, (sequence, frame, walk) in list(enumerate(dealt))[first : first + batch_size]
            ]

    def __iter__(self) -> Iterator[SequenceItem]:
        return (batch[0] for batch in self.batches(1))

    def __len__(self) -> int:
        return sum(len(sequence) for sequence in self.sequences) // self.world_size


@DATA_SAMPLERS.register_module()
class SequenceBatchSampler:
    """Endless batches in which position i always continues the sequence of position i in the batch before."""

    def __init__(self, sampler: SequenceSampler, batch_size: int, drop_last: bool = True):
        if not isinstance(sampler, SequenceSampler):
            raise ConfigError(
                f"SequenceBatchSampler needs sampler=dict(type=SequenceSampler), got {type(sampler).__name__}"
            )
        self.sampler, self.batch_size = sampler, batch_size
        Walks([len(sequence) for sequence in sampler.sequences], batch_size * sampler.world_size, sampler.seed)

    def set_start(self, iteration: int) -> None:
        """See `SequenceSampler.set_start`."""
        self.sampler.set_start(iteration)

    def __iter__(self) -> Iterator[list[SequenceItem]]:
        return self.sampler.batches(self.batch_size)

    def __len__(self) -> int:
        return max(1, len(self.sampler) // self.batch_size)


@DATA_SAMPLERS.register_module()
class SceneSampler:
    """Evaluation: every rank gets whole scenes, frames in order, so that scores do not depend on the number of ranks.

    Scenes are dealt contiguously, balanced by frames. Use batch_size=1: a batch is one step of one sequence.
    """

    def __init__(self, dataset, seed: int | None = None):
        if not hasattr(dataset, "sequences"):
            raise ConfigError(f"{type(dataset).__name__} has no sequences: use NuScenesSequenceDataset")
        rank, world_size = get_dist_info()
        self.sequences = contiguous_share(dataset.sequences, rank, world_size)

    def __iter__(self) -> Iterator[SequenceItem]:
        for walk, sequence in enumerate(self.sequences):
            for frame, index in enumerate(sequence):
                yield SequenceItem(index, frame == 0, index, walk)

    def __len__(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)


def contiguous_share(sequences: list, rank: int, world_size: int) -> list:
    """The sequences of `rank`: a scene belongs to the rank in whose equal share of the frames its middle lies."""
    lengths = np.array([len(sequence) for sequence in sequences])
    middles = np.cumsum(lengths) - lengths / 2
    owner = np.minimum((middles * world_size / max(1, lengths.sum())).astype(int), world_size - 1)
    return [sequence for sequence, own in zip(sequences, owner, strict=True) if own == rank]
