"""How late answers come, in control steps, and the plan that was made for it."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

RECENT = 20  # calls: what was slow long ago is forgotten
HIGH = 95  # percentile


class DelayError(ValueError):
    """No plan waits as long as the answers take."""


class Planned(Protocol):
    """What has a manifest with `first`: its answers begin so many steps after their observation."""

    manifest: object


P = TypeVar("P", bound=Planned)


def delay_in_steps(seconds: Sequence[float], period: float) -> int:
    """Whole control steps of `period` seconds within which a call ends: the 95th percentile of the last 20 durations,
    rounded up; 0 where there are none."""
    recent = np.asarray(seconds[-RECENT:], np.float64)
    if not recent.size:
        return 0
    return int(np.ceil(np.percentile(recent, HIGH, method="higher") / period - 1e-9))


def choose(policies: Sequence[P], delay: int) -> P:
    """Of policies exported from the same weights with `delayed_plan(T, execute, d)` for several d, the one with the
    smallest d that is at least `delay` (d is `manifest.first`). Raises DelayError where all are too short.

    Choose before `reset`, not during an episode: positions that one plan counts as in flight are unfinished in another.
    """
    fitting = [one for one in policies if one.manifest.first >= delay]
    if not fitting:
        known = sorted(one.manifest.first for one in policies)
        raise DelayError(
            f"answers come {delay} control steps late, the plans are for {known or 'none'}: export "
            f"delayed_plan(horizon, execute, delay={delay}), lower the rate, or shrink the network"
        )
    return min(fitting, key=lambda one: one.manifest.first)
