"""Returns-to-go of episodes, and what a planner asks for as an episode goes on."""

import numpy as np

from common.errors import ConfigError


def returns_to_go(rewards: np.ndarray, discount: float = 1.0, within: int | None = None) -> np.ndarray:
    """(T + 1,) float32: g_t = r_t + discount r_{t+1} + .. to the end of the episode, or over the next `within` rewards;
    the last, of the state behind the last action, is 0.

    Args: rewards (T,). Raises: ConfigError unless 0 < discount <= 1 and within >= 1.
    """
    if not 0 < discount <= 1 or (within is not None and within < 1):
        raise ConfigError(f"discount={discount}, within={within}: wanted 0 < discount <= 1, within at least 1")
    total = np.zeros(len(rewards) + 1)
    for t in range(len(rewards) - 1, -1, -1):
        total[t] = rewards[t] + discount * total[t + 1]
    if within is not None and within < len(rewards):
        total[: len(rewards) - within] -= discount**within * total[within : len(rewards)]
    return total.astype(np.float32)


def asked_next(asked: np.ndarray, reward: np.ndarray, discount: float = 1.0, floor: float = 0.0) -> np.ndarray:
    """What is left to ask for after a reward: (g - r) / discount, not below `floor` (Decision Transformer's rule; the
    floor is a third of the target in Trajectory Diffuser's release)."""
    return np.maximum((asked - reward) / discount, floor)
