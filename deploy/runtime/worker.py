"""One call at a time in a thread of its own: who sends a robot its actions never waits longer than it wants to."""

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """Of a call that has ended: what it returned, or the error it raised, and the clock's time then."""

    value: Any
    error: BaseException | None
    ended: float


class Worker:
    """A single slot: `start` a call, `wait` for its end, `take` its answer, and only then start the next one.

    The thread lives until `close`. It is a daemon: a call that never returns does not keep the process alive.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._calls, self._answers = SimpleQueue(), SimpleQueue()
        self._busy, self._answer = False, None
        threading.Thread(target=self._serve, name="policy-call", daemon=True).start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            value = error = None
            try:
                value = call()
            except BaseException as raised:  # handed to whoever takes the answer
                error = raised
            self._answers.put(Answer(value, error, self._clock()))

    @property
    def idle(self) -> bool:
        """No call is running and no answer waits."""
        return not self._busy

    def start(self, call: Callable[[], Any]) -> None:
        """Begin a call. Raises RuntimeError while the slot is taken."""
        if self._busy:
            raise RuntimeError("the worker has a call already: take its answer before starting another")
        self._busy = True
        self._calls.put(call)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait so long, or without end, for the call to end; whether its answer is there."""
        if self._busy and self._answer is None:
            try:
                self._answer = self._answers.get(timeout=None if seconds is None else max(0.0, seconds))
            except Empty:
                return False
        return self._answer is not None

    def take(self) -> Answer:
        """The answer of the call that has ended; the slot is free again. Raises RuntimeError where there is none."""
        if not self.wait(0):
            raise RuntimeError("no answer yet: wait() for the call to end before take()")
        answer, self._answer, self._busy = self._answer, None, False
        return answer

    def close(self) -> None:
        """End the thread, at once or after the call that still runs."""
        self._calls.put(None)
