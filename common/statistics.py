"""Intervals of rates and of paired differences."""

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(successes: int, count: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a rate. Raises ValueError without trials."""
    if not 0 <= successes <= count or count < 1:
        raise ValueError(f"{successes} successes of {count}: at least one trial is needed")
    rate, weight = successes / count, z**2 / count
    centre = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * np.sqrt(rate * (1 - rate) / count + weight / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    first: np.ndarray, second: np.ndarray, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of second - first and its bootstrap interval of a level: trainings and, for all of them, cases are redrawn.

    first, second (S, E): scores of S trainings on the same E cases, episodes or scenes (a single training may be (E,)).
    """
    gap = np.atleast_2d(np.asarray(second, float) - np.asarray(first, float))
    random = np.random.default_rng(seed)
    trainings, cases = gap.shape
    rows = _redrawn(random, draws, trainings)
    columns = _redrawn(random, draws, cases)  # the cases are the same for all trainings
    means = (rows @ gap * columns).sum(1) / gap.size
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(gap.mean()), float(low), float(high)


def _redrawn(random: np.random.Generator, draws: int, count: int) -> np.ndarray:
    """(draws, count): how often each of `count` comes among as many, drawn with replacement."""
    drawn = random.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * count).reshape(draws, count)
