"""Functions run side by side, in processes of this machine or as Ray tasks; results come as they are ready."""

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any, Protocol


class Pool(Protocol):
    """A context manager. workers: how many tasks run at a time."""

    workers: int

    def submit(self, function: Callable, *arguments) -> None: ...

    def next(self) -> Any:
        """The next result, in any order. Raises what the function raised."""

    def __enter__(self): ...

    def __exit__(self, *error): ...


class local_pool:
    """Processes of this machine, one thread each; by default one per core. One worker runs in this very process."""

    def __init__(self, workers: int | None = None):
        self.workers = workers or len(os.sched_getaffinity(0))

    def __enter__(self):
        self._tasks: set = set()
        self._ready: list = []
        if self.workers > 1:
            # spawn: simulators and thread pools of the parent do not survive a fork
            self._pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _one_thread)
        return self

    def __exit__(self, *error):
        if self.workers > 1:
            self._pool.shutdown(wait=error[0] is None, cancel_futures=True)

    def submit(self, function: Callable, *arguments) -> None:
        if self.workers == 1:
            self._ready.append(function(*arguments))
        else:
            self._tasks.add(self._pool.submit(function, *arguments))

    def next(self) -> Any:
        if not self._ready:
            done, self._tasks = wait(self._tasks, return_when=FIRST_COMPLETED)
            self._ready = [task.result() for task in done]
        return self._ready.pop()


class ray_pool:
    """Ray tasks: on the cluster at `address`, or on a Ray of this machine for "local". Needs the extra `ray`."""

    def __init__(self, address: str, workers: int | None = None):
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ImportError("--ray needs the package ray: pip install 'tutelage[ray]'") from error
        self._ray, self._address, self._wanted = ray, address, workers

    def __enter__(self):
        if self._address == "local":
            self._ray.init(num_cpus=self._wanted, include_dashboard=False, log_to_driver=False)
        else:
            self._ray.init(address=self._address)
        self.workers = self._wanted or int(self._ray.cluster_resources().get("CPU", 1))
        self._tasks: list = []
        return self

    def __exit__(self, *error):
        self._ray.shutdown()

    def submit(self, function: Callable, *arguments) -> None:
        self._tasks.append(self._ray.remote(function).remote(*arguments))

    def next(self) -> Any:
        done, self._tasks = self._ray.wait(self._tasks, num_returns=1)
        return self._ray.get(done[0])


def in_order(pool: Pool, function: Callable, calls: list[tuple], seen: Callable[[Any], None] | None = None) -> list:
    """Results of function(*call) in the order of the calls, as many at a time as the pool, entered, has workers.
    seen: called with every result as it comes, in any order."""
    found, left, running = {}, list(enumerate(calls)), 0
    while left or running:
        while left and running < pool.workers:
            number, call = left.pop(0)
            pool.submit(_numbered, number, function, call)
            running += 1
        number, result = pool.next()
        found[number] = result
        running -= 1
        if seen:
            seen(result)
    return [found[number] for number in range(len(calls))]


def _numbered(number: int, function: Callable, call: tuple) -> tuple[int, Any]:
    return number, function(*call)


def _one_thread() -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
