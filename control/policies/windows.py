"""Training windows of episodes: O observed steps and T actions around each step."""

import numpy as np
import torch
from torch.utils.data import Dataset

from common.errors import ConfigError, DataError
from control.demonstrations.store import Episode


class WindowDataset(Dataset):
    """Windows of T actions and the O observations up to the step that acts ("now").

    Position p of a window is the action of step now - offset + p. What lies before an episode repeats its first
    observation and action, what lies behind its last action; `after` is how far a window may reach behind (Diffusion
    Policy: execute - 1).

    Args: episodes; observed O; horizon T; offset: 0 aligns position 0 with now, O - 1 with the oldest observation
        (Diffusion Policy's alignment); names of the observations; limit: the first so many episodes.
    `dataset[i]` and `dataset.__getitems__(indices)` return {"observation": {name: (O, ...)}, "action": (T, A)}.
    """

    def __init__(
        self,
        episodes: list[Episode],
        horizon: int,
        observed: int = 2,
        offset: int = 0,
        after: int = 7,
        names: tuple[str, ...] = ("state",),
        limit: int | None = None,
    ):
        episodes = episodes[:limit]
        if not episodes:
            raise DataError("no episodes to make windows of: collect demonstrations first")
        if horizon < 1 or observed < 1 or offset < 0:
            raise ConfigError(f"windows: horizon {horizon}, observed {observed}, offset {offset} must be positive")
        missing = [name for name in names if name not in episodes[0].observations]
        if missing:
            raise DataError(f"the demonstrations lack {missing}; they hold {sorted(episodes[0].observations)}")
        lengths = np.array([len(e) for e in episodes])
        self.observations = {
            name: torch.as_tensor(np.concatenate([e.observations[name][: len(e)] for e in episodes])) for name in names
        }
        self.actions = torch.as_tensor(np.concatenate([e.actions for e in episodes]).astype(np.float32))
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        now, low, high = [], [], []
        for begin, length in zip(first, lengths, strict=True):
            latest = max(begin, begin + length + after - (horizon - offset))  # the last action still worth a window
            steps = np.arange(begin, min(begin + length, latest + 1))
            now.append(steps)
            low.append(np.full(len(steps), begin))
            high.append(np.full(len(steps), begin + length - 1))
        self.now, self.low, self.high = (torch.as_tensor(np.concatenate(part)) for part in (now, low, high))
        self.observed, self.horizon, self.offset = observed, horizon, offset

    def __len__(self) -> int:
        return len(self.now)

    def batch(self, indices) -> dict:
        """Windows stacked: {"observation": {name: (B, O, ...)}, "action": (B, T, A)}."""
        indices = torch.as_tensor(indices)
        now, low, high = self.now[indices, None], self.low[indices, None], self.high[indices, None]
        seen = (now + torch.arange(1 - self.observed, 1)).clamp(low, high)
        acts = (now - self.offset + torch.arange(self.horizon)).clamp(low, high)
        return {
            "observation": {name: values[seen] for name, values in self.observations.items()},
            "action": self.actions[acts],
        }

    def __getitems__(self, indices: list[int]) -> dict:
        return self.batch(indices)

    def __getitem__(self, index: int) -> dict:
        one = self.batch([index])
        return {"observation": {k: v[0] for k, v in one["observation"].items()}, "action": one["action"][0]}


def whole_batch(batch: dict) -> dict:
    """Collate function for what `__getitems__` has already stacked."""
    return batch
