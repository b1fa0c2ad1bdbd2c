"""Samplers that know where a resumed run goes on."""

from collections.abc import Iterator

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class EndlessShuffle:
    """Epoch after epoch in a new order, dealt to the ranks in turn; a pure function of (seed, position).

    batch_size: per process, as the data loader's; `set_start(n)` makes the next iteration begin with batch n.
    """

    def __init__(self, dataset, batch_size: int, seed: int | None = None):
        self.count, self.batch_size = len(dataset), batch_size
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world = get_dist_info()
        self.start = 0

    def set_start(self, iteration: int) -> None:
        self.start = iteration * self.batch_size * self.world

    def __iter__(self) -> Iterator[int]:
        epoch, place = divmod(self.start + self.rank, self.count)
        order = self._order(epoch)
        while True:
            while place >= self.count:
                epoch, place = epoch + 1, place - self.count
                order = self._order(epoch)
            yield int(order[place])
            place += self.world

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 0xE9, epoch)).permutation(self.count)

    def __len__(self) -> int:
        return self.count
