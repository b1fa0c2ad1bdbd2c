"""A robot's control loop: actions carry the tick they are for, late ones are dropped, misses are held, counted, logged.

A tick is one control period. The policy sees the observation of every tick: its history was trained on consecutive
steps. It is called every `execute` ticks; a call made on the observation of tick k returns actions for the ticks
k + first, k + first + 1, ...; whatever has passed when it returns is not sent.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .deadline import percentiles
from .errors import InputError
from .policy import ActionError


@dataclass
class Miss:
    """A tick without its own action. reason: "late" (the call overran), "refused" (`ActionError`) or "observation" (the
    sensors gave something that the policy does not take, `InputError`)."""

    tick: int
    reason: str
    milliseconds: float


@dataclass
class ControlLoop:
    """Args:
    policy: with `step(observation) -> (execute, A)`, `observe(observation)` and `manifest`.
    read: () -> observation. send: (action (A,), tick) -> None.
    rate_hz: control rate; by default the manifest's.
    on_miss: "hold" repeats the last action, "extrapolate" continues its last step.
    safe_action (A,): sent from `most_misses` misses in a row on, until calls are in time again.
    """

    policy: object
    read: Callable[[], dict]
    send: Callable[[np.ndarray, int], None]
    safe_action: np.ndarray
    rate_hz: float | None = None
    on_miss: str = "hold"
    most_misses: int = 3
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    misses: list[Miss] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    safe_ticks: int = 0

    def __post_init__(self):
        if self.on_miss not in ("hold", "extrapolate"):
            raise ValueError(f"on_miss={self.on_miss!r}: choose 'hold' or 'extrapolate'")
        self.rate_hz = self.rate_hz or self.policy.manifest.rate_hz
        self.period = 1 / self.rate_hz
        self._due: dict[int, np.ndarray] = {}
        self._sent: list[np.ndarray] = []
        self._row = 0  # misses in a row
        self._next_call = 0  # tick

    @property
    def delay(self) -> int:
        """Measured delay in ticks: of the recent calls, at least the time one takes, rounded up."""
        recent = self.calls[-20:]
        return int(np.ceil(np.mean(recent) / self.period)) if recent else 0

    def run(self, ticks: int) -> "ControlLoop":
        """Run so many ticks in real time. An overrunning call swallows the ticks that pass meanwhile."""
        origin, tick = self.clock(), 0
        while tick < ticks:
            while (wait := origin + tick * self.period - self.clock()) > 0:
                self.sleep(wait)
            self.lateness.append(self.clock() - origin - tick * self.period)
            reason = self._plan(tick)
            now = int((self.clock() - origin) / self.period + 1e-9)
            for passed in range(tick, min(now, ticks)):  # nothing was sent while the call ran over
                self._missed(passed, reason or "late")
            tick = max(tick, now)
            if tick < ticks:
                self._act(tick, reason)
            tick += 1
        return self

    def _plan(self, tick: int) -> str | None:
        """Show the policy this tick's observation and call it when a call is due; returns why it gave no actions."""
        observation, manifest = self.read(), self.policy.manifest
        if tick < self._next_call:
            try:
                self.policy.observe(observation)
            except InputError:  # this tick's action is there already; the history does without the step
                return "observation"
            return None
        self._next_call = tick + 1  # again at once, if this call fails
        begin = self.clock()
        try:
            chunk = self.policy.step(observation)
        except (ActionError, InputError) as error:
            return "refused" if isinstance(error, ActionError) else "observation"
        finally:
            self.calls.append(self.clock() - begin)
            self.delays.append(int((self.clock() - begin) / self.period))
        self._next_call = tick + manifest.execute
        self._due = {at: action for at, action in self._due.items() if at >= tick}
        self._due.update({tick + manifest.first + i: action for i, action in enumerate(chunk)})
        return None

    def _act(self, tick: int, reason: str | None) -> None:
        action = self._due.pop(tick, None)
        if action is not None:
            self._row = 0
        elif tick < self.policy.manifest.first and reason is None:  # the first answer is for a later tick: no miss
            self.safe_ticks += 1
            action = np.asarray(self.safe_action)
        else:
            self._missed(tick, reason or "late")
            action = self._replacement()
        self.send(action, tick)
        self._sent = [*self._sent[-1:], action]

    def _missed(self, tick: int, reason: str) -> None:
        self._row += 1
        self.misses.append(Miss(tick, reason, 1e3 * self.calls[-1]))

    def _replacement(self) -> np.ndarray:
        if self._row >= self.most_misses or not self._sent:
            self.safe_ticks += 1
            return np.asarray(self.safe_action)
        if self.on_miss == "extrapolate" and len(self._sent) == 2:
            return 2 * self._sent[-1] - self._sent[-2]
        return self._sent[-1]

    def summary(self) -> dict[str, float]:
        """Percentiles of the calls, miss rate, jitter and the ticks on the safe action."""
        ticks = max(1, len(self.lateness))
        return {
            **percentiles(self.calls),
            "period_ms": 1e3 * self.period,
            "misses": len(self.misses),
            "miss_rate": len(self.misses) / ticks,
            "safe_ticks": self.safe_ticks,
            "worst_lateness_ms": 1e3 * max(self.lateness, default=float("nan")),
        }
