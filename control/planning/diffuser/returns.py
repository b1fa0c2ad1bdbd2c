"""Returns-to-go of episodes, and what a planner asks for as an episode goes on."""

import numpy as np

from common.errors import ConfigError
from control.demonstrations.store import Episode


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


def stream_returns(
    episodes: list[Episode], discount: float = 1.0, within: int | None = None
) -> tuple[list[np.ndarray], list[int]]:
    """`returns_to_go` of every episode, and how many steps are known to follow its last one.

    Stretches of one continuing run, each of which begins at the very state where the one before was cut, are one
    stream: with `within`, a stretch's returns count the rewards of the next. Otherwise, and where an episode
    terminated, nothing follows.
    """
    found, following = [], []
    for stream in _streams(episodes) if within else [[one] for one in episodes]:
        whole = returns_to_go(np.concatenate([one.rewards for one in stream]), discount, within)
        begin, left = 0, sum(map(len, stream))
        for one in stream:
            found.append(whole[begin : begin + len(one) + 1])
            begin, left = begin + len(one), left - len(one)
            following.append(left)
    return found, following


def _streams(episodes: list[Episode]) -> list[list[Episode]]:
    streams: list[list[Episode]] = []
    for one in episodes:
        before = streams[-1][-1] if streams else None
        states = None if before is None else before.observations["state"]
        if before is not None and not before.terminated and np.array_equal(states[-1], one.observations["state"][0]):
            streams[-1].append(one)
        else:
            streams.append([one])
    return streams


def asked_next(asked: np.ndarray, reward: np.ndarray, discount: float = 1.0, floor: float = 0.0) -> np.ndarray:
    """What is left to ask for after a reward: (g - r) / discount, not below `floor` (Decision Transformer's rule; the
    floor is a third of the target in Trajectory Diffuser's release)."""
    return np.maximum((asked - reward) / discount, floor)
