"""A robot's control loop: actions carry the tick they are for, late ones are dropped, misses are held, counted, logged.

A tick is one control period. The policy sees the observation of every tick: its history was trained on consecutive
steps. It is called every `execute` ticks, in a thread of its own, one call at a time; a call made on the observation of
tick k returns actions for the ticks k + first, k + first + 1, ... The loop's thread never waits for a call beyond the
tick that the call is for, so every tick is answered while the network computes, however long that takes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .deadline import percentiles
from .delay import delay_in_steps
from .errors import InputError
from .policy import ActionError
from .worker import Worker


@dataclass
class Miss:
    """A tick without its own action. reason: "late" (the call overran), "refused" (`ActionError`) or "observation" (the
    sensors gave something that the policy does not take, `InputError`); milliseconds: of the newest call, so far."""

    tick: int
    reason: str
    milliseconds: float


@dataclass
class Gap:
    """A tick whose observation was refused, so that the policy's history does without it; message says why."""

    tick: int
    message: str


@dataclass
class ControlLoop:
    """Args:
    policy: with `prepare(observation) -> call`, `observe(observation)`, `stand_by(action)` and `manifest`; call() ->
        (execute, A) runs in the worker's thread, and observe() meanwhile in the loop's.
    read: () -> observation. send: (action (A,), tick) -> None.
    rate_hz: control rate; by default the manifest's.
    on_miss: "hold" repeats the last action, "extrapolate" continues the step between the last two actions of
        consecutive ticks within the manifest's limits, and holds where there are none.
    safe_action (A,): sent from `most_misses` misses in a row on, until calls are in time again; before a delayed plan's
        first answer; and when anything raises, just before the error is passed on.
    send_passed: also send what stands in for ticks that passed while reading or sending took too long. For a simulator,
        which moves only when it is sent something; a robot goes on by itself.
    worker: clock -> `Worker`, one per run.
    """

    policy: object
    read: Callable[[], dict]
    send: Callable[[np.ndarray, int], None]
    safe_action: np.ndarray
    rate_hz: float | None = None
    on_miss: str = "hold"
    most_misses: int = 3
    send_passed: bool = False
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    worker: Callable[[Callable[[], float]], Worker] = Worker
    misses: list[Miss] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    ticks: int = 0
    safe_ticks: int = 0
    dropped: int = 0

    def __post_init__(self):
        if self.on_miss not in ("hold", "extrapolate"):
            raise ValueError(f"on_miss={self.on_miss!r}: choose 'hold' or 'extrapolate'")
        manifest = self.policy.manifest
        self.rate_hz = self.rate_hz or manifest.rate_hz
        self.period = 1 / self.rate_hz
        self.safe_action = np.asarray(self.safe_action)
        self.policy.stand_by(self.safe_action)
        self._first, self._execute = manifest.first, manifest.execute
        self._limits = np.asarray([manifest.action_low, manifest.action_high], np.float32)

    @property
    def delay(self) -> int:
        """Control steps from an observation to its answer, rounded up: a high percentile of the last 20 calls, without
        the first call, which is slow. `delay.choose` wants it."""
        return delay_in_steps(self.ages[1:], 1.0)

    def run(self, ticks: int) -> "ControlLoop":
        """One episode of so many ticks in real time, fewer after `stop`; the policy has been reset.

        Returns when the last call has ended. Whatever `read`, `send` or a call raises is raised again, after the safe
        action has been sent; a call that still runs then is not waited for.
        """
        self._due: dict[int, np.ndarray] = {}
        self._failed: dict[int, str] = {}  # tick -> why its call gave no action
        self._real: list[tuple[int, np.ndarray]] = []  # the last two actions of the policy that were sent
        self._row = self._next_call = self._now = 0  # misses in a row; ticks
        self._call_tick, self._call_begin, self._stopped = 0, float("nan"), False
        self._worker = self.worker(self.clock)
        try:
            self._run(ticks)
        except BaseException:
            self.send(self.safe_action, self._now)
            raise
        finally:
            self._worker.close()
        return self

    def stop(self) -> None:
        """End the run after the present tick; from `send`, `read` or another thread."""
        self._stopped = True

    def _run(self, ticks: int) -> None:
        self._origin = self.clock()
        while self._now < ticks and not self._stopped:
            while (wait := self._begin(self._now) - self.clock()) > 0:
                self.sleep(wait)
            self.lateness.append(self.clock() - self._begin(self._now))
            self._tick(self._now)
            self._next_tick()
            while self._now < min(ticks, self._present()) and not self._stopped:  # passed while sensors held it up
                self._due.pop(self._now, None)
                self._missed(self._now)
                if self.send_passed:
                    self.send(self._replacement(), self._now)
                self._next_tick()
        if self._worker.wait():
            self._collect(self._now)

    def _begin(self, tick: int) -> float:
        return self._origin + tick * self.period

    def _present(self) -> int:
        return int((self.clock() - self._origin) / self.period + 1e-9)

    def _next_tick(self) -> None:
        self._failed.pop(self._now, None)
        self._now += 1
        self.ticks += 1

    def _tick(self, tick: int) -> None:
        """Send what is due, show the policy the observation, call it; wait only for an answer that is for this tick."""
        self._collect(tick)
        calling = self._worker.idle and tick >= self._next_call
        coming = self._first == 0 if calling else self._awaited(tick)
        acted = tick in self._due or not coming
        if acted:
            self._act(tick)
        observation = self.read()
        if calling:
            self._start(tick, observation)
        else:
            try:
                self.policy.observe(observation)
            except InputError as error:
                self.gaps.append(Gap(tick, str(error)))
        if not acted:
            if self._awaited(tick) and self._worker.wait(self._begin(tick + 1) - self.clock()):
                self._collect(tick)
            self._act(tick)

    def _awaited(self, tick: int) -> bool:
        """A running call's answer holds an action for the tick."""
        return not self._worker.idle and 0 <= tick - self._call_tick - self._first < self._execute

    def _start(self, tick: int, observation: dict) -> None:
        self._call_tick, self._call_begin = tick, self.clock()
        try:
            call = self.policy.prepare(observation)
        except InputError as error:
            self.gaps.append(Gap(tick, str(error)))
            self._fail("observation")
            return
        self._next_call = tick + self._execute
        self._failed = {at: why for at, why in self._failed.items() if at < tick + self._first}
        self._worker.start(call)

    def _fail(self, reason: str) -> None:
        """The newest call gives no actions: call again at once."""
        self._next_call = self._call_tick + 1
        first = self._call_tick + self._first
        self._failed.update(dict.fromkeys(range(first, first + self._execute), reason))

    def _collect(self, tick: int) -> None:
        """Take a call's answer, if it is there; of its actions, those before `tick` are too late."""
        if self._worker.idle or not self._worker.wait(0):
            return
        answer = self._worker.take()
        self.calls.append(answer.ended - self._call_begin)
        self.ages.append((answer.ended - self._begin(self._call_tick)) / self.period)
        if isinstance(answer.error, ActionError | InputError):
            self._fail("refused" if isinstance(answer.error, ActionError) else "observation")
            return
        if answer.error is not None:
            raise answer.error
        first = self._call_tick + self._first
        self.dropped += min(len(answer.value), max(0, tick - first))
        self._due = {at: action for at, action in self._due.items() if at >= tick}
        self._due.update({first + i: action for i, action in enumerate(answer.value) if first + i >= tick})

    def _act(self, tick: int) -> None:
        action = self._due.pop(tick, None)
        if action is not None:
            self._row = 0
            self._real = [*self._real[-1:], (tick, action)]
        elif tick < self._first:  # the first answer is for a later tick: no miss
            self.safe_ticks += 1
            action = self.safe_action
        else:
            self._missed(tick)
            action = self._replacement()
        self.send(action, tick)

    def _missed(self, tick: int) -> None:
        self._row += 1
        seconds = self.calls[-1] if self._worker.idle and self.calls else self.clock() - self._call_begin
        self.misses.append(Miss(tick, self._failed.get(tick, "late"), 1e3 * seconds))

    def _replacement(self) -> np.ndarray:
        """Of the tick that was missed last."""
        if self._row >= self.most_misses or not self._real:
            self.safe_ticks += 1
            return self.safe_action
        (before, first), (last, second) = self._real[0], self._real[-1]
        if self.on_miss == "hold" or last - before != 1:
            return second
        return np.clip(second + (self.misses[-1].tick - last) * (second - first), *self._limits)

    def summary(self) -> dict[str, float]:
        """Percentiles of the calls, misses and their part of all ticks, jitter, ticks on the safe action, refused
        observations, actions that came too late, and the measured delay."""
        return {
            **percentiles(self.calls),
            "period_ms": 1e3 * self.period,
            "ticks": self.ticks,
            "misses": len(self.misses),
            "miss_rate": len(self.misses) / max(1, self.ticks),
            "safe_ticks": self.safe_ticks,
            "observation_gaps": len(self.gaps),
            "dropped_actions": self.dropped,
            "delay": self.delay,
            "worst_lateness_ms": 1e3 * max(self.lateness, default=float("nan")),
        }
