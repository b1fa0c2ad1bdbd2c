"""The last observations of every environment, as a policy sees them."""

from collections import deque

import numpy as np
import torch
from torch import Tensor


class ObservationHistory:
    """Keeps `observed` steps of B environments; an episode's first observation stands in for the steps before it.

    names: of the observations to keep. steps: one deque of {name: array} per environment, None before its first.
    """

    def __init__(self, names: list[str], observed: int, batch: int):
        self.names, self.observed = list(names), observed
        self.steps: list[deque | None] = [None] * batch

    def __len__(self) -> int:
        return len(self.steps)

    def restart(self, index: int) -> None:
        """Environment `index` begins an episode."""
        self.steps[index] = None

    def append(self, observation: dict[str, np.ndarray]) -> None:
        """Take {name: (B, ...)} of the current step. Raises ValueError naming what is missing, misshapen or not finite;
        nothing is taken then."""
        for name in self.names:
            if name not in observation:
                raise ValueError(f"observation {name!r} is missing; the policy observes {', '.join(self.names)}")
            values = np.asarray(observation[name])
            if len(values) != len(self) or not np.isfinite(values).all():
                raise ValueError(
                    f"observation {name!r} is {values.shape}, finite: {bool(np.isfinite(values).all())}; wanted finite "
                    f"values for {len(self)} environments"
                )
        for index, seen in enumerate(self.steps):
            now = {name: np.asarray(observation[name][index]) for name in self.names}
            if seen is None:
                self.steps[index] = deque([now] * self.observed, maxlen=self.observed)
            else:
                seen.append(now)

    def stacked(self, rows=None) -> dict[str, Tensor]:
        """{name: (rows, observed, ...)}, oldest first, of all environments or of some."""
        chosen = self.steps if rows is None else [self.steps[row] for row in rows]
        return {
            name: torch.from_numpy(np.stack([[step[name] for step in one] for one in chosen])) for name in self.names
        }
