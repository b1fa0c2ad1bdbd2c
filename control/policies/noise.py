"""Random numbers of a vectorised rollout: one generator per environment, so that a batch is many separate runs."""

import numpy as np
import torch
from torch import Tensor


class NoiseSource:
    """Standard normals for B environments. Environment b's stream depends on its seed alone, not on its neighbours, so
    two policies (or a batch and a single run) that ask for the same shapes get the same numbers."""

    def __init__(self, seeds: list[int]):
        self.generators = [np.random.default_rng((int(seed), 0x401)) for seed in seeds]

    def draw(self, *shape: int, leading: bool = False) -> Tensor:
        """(B, *shape) float32, or (shape[0], B, *shape[1:]) with `leading` (one slice per evaluation)."""
        drawn = np.stack([g.standard_normal(shape, dtype=np.float32) for g in self.generators])
        return torch.from_numpy(np.ascontiguousarray(drawn.swapaxes(0, 1)) if leading else drawn)

    def rows(self, indices) -> "NoiseSource":
        """The streams of some environments, which go on in both."""
        chosen = NoiseSource([])
        chosen.generators = [self.generators[index] for index in indices]
        return chosen

    def restart(self, index: int, seed: int) -> None:
        """Environment `index` begins an episode with its own seed."""
        self.generators[index] = np.random.default_rng((int(seed), 0x401))
