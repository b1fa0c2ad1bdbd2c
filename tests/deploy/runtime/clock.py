from deploy.runtime.worker import Answer


class Clock:
    """A clock that moves when somebody sleeps or works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class SimulatedWorker:
    """`Worker` on a `Clock`: a call runs when it is started, and its answer is there when the clock has moved as far as
    the call moved it."""

    def __init__(self, clock):
        self.clock, self.answer, self.closed = clock, None, False

    @property
    def idle(self):
        return self.answer is None

    def start(self, call):
        assert self.idle, "one call at a time"
        begin, value, error = self.clock.now, None, None
        try:
            value = call()
        except BaseException as raised:
            error = raised
        self.answer = Answer(value, error, self.clock.now)
        self.clock.now = begin

    def wait(self, seconds=None):
        if self.answer is None:
            return False
        until = self.answer.ended if seconds is None else self.clock.now + max(0.0, seconds)
        self.clock.now = max(self.clock.now, min(until, self.answer.ended))
        return self.answer.ended <= self.clock.now

    def take(self):
        assert self.answer is not None and self.answer.ended <= self.clock.now
        answer, self.answer = self.answer, None
        return answer

    def close(self):
        self.closed = True
