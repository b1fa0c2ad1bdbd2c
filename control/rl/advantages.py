"""The backward sum of generalised advantage estimation (arXiv 1506.02438)."""

import numpy as np


def discounted_sums(delta: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """(T, N): A_t = delta_t + factor_t A_{t+1}, with A_T = 0. factor: discount times lambda, 0 over an end."""
    found, running = np.zeros_like(delta), np.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        running = delta[t] + factor[t] * running
        found[t] = running
    return found
