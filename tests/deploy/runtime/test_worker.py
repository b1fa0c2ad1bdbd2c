"""One call at a time, in another thread."""

import threading
import time

import pytest

from deploy.runtime.worker import Worker


def test_a_call_runs_elsewhere_and_its_answer_and_end_are_handed_over():
    worker = Worker()
    assert worker.idle and not worker.wait(0)
    gate = threading.Event()

    def call():
        gate.wait(10)
        return threading.get_ident()

    worker.start(call)
    begin = time.perf_counter()
    assert not worker.idle and not worker.wait(0.05)
    assert time.perf_counter() - begin > 0.04
    gate.set()
    assert worker.wait(10)
    answer = worker.take()
    assert answer.value != threading.get_ident() and answer.error is None and begin < answer.ended < time.perf_counter()
    assert worker.idle
    worker.close()


def test_an_error_is_handed_over_and_the_thread_lives_on():
    worker = Worker()
    for number in range(3):
        worker.start(lambda: 1 / 0)
        assert worker.wait(10)
        assert isinstance(worker.take().error, ZeroDivisionError), number
    worker.close()


def test_there_is_one_slot():
    worker, gate = Worker(), threading.Event()
    worker.start(lambda: gate.wait(10))
    with pytest.raises(RuntimeError, match="take its answer before"):
        worker.start(lambda: None)
    with pytest.raises(RuntimeError, match="no answer yet"):
        worker.take()
    gate.set()
    assert worker.wait() and worker.take().value is True
    worker.close()


def test_a_closed_worker_leaves_no_thread_even_if_a_call_was_running():
    before = set(threading.enumerate())  # threads of other tests may end meanwhile: only ours are counted
    idle, busy, gate = Worker(), Worker(), threading.Event()
    busy.start(lambda: gate.wait(10))
    ours = [one for one in threading.enumerate() if one not in before]
    assert [one.name for one in ours] == ["policy-call"] * 2
    idle.close()
    busy.close()
    gate.set()
    for one in ours:
        one.join(10)
    assert not any(one.is_alive() for one in ours)
