"""A loop that has to finish each round before the next one is due, and counts the rounds that did not."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


def percentiles(seconds) -> dict[str, float]:
    """{"n", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms"} of durations in seconds; NaN where there are none."""
    ms = 1e3 * np.asarray(seconds, np.float64)
    if ms.size == 0:
        return {"n": 0, **dict.fromkeys(("mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms"), float("nan"))}
    p50, p90, p99 = np.percentile(ms, (50, 90, 99))
    return {"n": int(ms.size), "mean_ms": float(ms.mean()), "p50_ms": float(p50), "p90_ms": float(p90),
            "p99_ms": float(p99), "max_ms": float(ms.max())}  # fmt: skip


@dataclass
class DeadlineLoop:
    """Runs rounds at a fixed period.

    A round is due at `start + i * period_s` and misses its deadline if it ends after the next round is due. A round
    that starts late because its predecessor overran has less time left. Rounds that fell due entirely while another
    was still running are skipped and counted in `skipped`: a robot takes the newest frame, it keeps no queue.
    """

    period_s: float
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    durations: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    misses: int = 0
    skipped: int = 0

    def run(self, work: Callable[[int], object], rounds: int) -> "DeadlineLoop":
        """Call work(i) for i in range(rounds). `lateness` is how late each round began, in seconds (the jitter)."""
        origin, slot = self.clock(), 0
        for i in range(rounds):
            due = origin + slot * self.period_s
            while (wait := due - self.clock()) > 0:
                self.sleep(wait)
            begin = self.clock()
            work(i)
            end = self.clock()
            self.durations.append(end - begin)
            self.lateness.append(begin - due)
            self.misses += end > due + self.period_s
            behind = int(max(0.0, end - due) // self.period_s)
            self.skipped += max(0, behind - 1)
            slot += max(1, behind)
        return self

    def summary(self) -> dict[str, float]:
        """Percentiles of the durations, plus period, misses, miss rate, skipped rounds and worst lateness."""
        rounds = max(1, len(self.durations))
        return {
            **percentiles(self.durations),
            "period_ms": 1e3 * self.period_s,
            "misses": self.misses,
            "miss_rate": self.misses / rounds,
            "skipped": self.skipped,
            "worst_lateness_ms": 1e3 * max(self.lateness, default=float("nan")),
        }
