"""Several trainings side by side, each a `tutelage train` of its own: skipped when finished, resumed when killed."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from common.engine.workdir import read_metrics
from common.errors import ConfigError

RESULT = "result.json"


@dataclass(frozen=True)
class Job:
    """One training and its final evaluation.

    options override the config; needs: names of the jobs that must be done first; processes: more than one trains
    data-parallel on this machine, each with the config's batch size; counter: the config's key for the iterations,
    None where the config itself decides them.
    """

    name: str
    config: str
    work_dir: Path
    iterations: int
    options: dict = field(default_factory=dict)
    seed: int = 0
    needs: tuple[str, ...] = ()
    processes: int = 1
    counter: str | None = "iterations"

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint; its `state_dict` holds the averaged weights."""
        return self.work_dir / f"iter_{self.iterations}.pth"

    def result(self) -> dict | None:
        """Metrics of the finished job, or None. A job with other options than the finished one is not finished."""
        path = self.work_dir / RESULT
        if not path.is_file() or not self.checkpoint.is_file():
            return None
        found = json.loads(path.read_text())
        return found["metrics"] if found["job"] == self._identity() else None

    def _identity(self) -> dict:
        options = {key: str(value) for key, value in sorted(self.options.items())}
        identity = {"config": self.config, "iterations": self.iterations, "seed": self.seed, "options": options}
        return {**identity, "processes": self.processes}

    def command(self) -> list[str]:
        """The command a user would type."""
        options = {**({self.counter: self.iterations} if self.counter else {}), **self.options}
        pairs = [f"{key}={value}" for key, value in options.items()]
        launch = ["-m", "common.cli", "train"]
        if self.processes > 1:
            several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes)]
            launch = [*several, *launch, "--launcher", "pytorch"]
        return [sys.executable, *launch, self.config, "--work-dir", str(self.work_dir), "--seed", str(self.seed),
                "--resume", "--cfg-options", *pairs]  # fmt: skip

    def claim(self) -> None:
        """Mark the folder as this job's, so that another job never resumes from its checkpoints.

        Raises: ConfigError when the folder is another's.
        """
        path = self.work_dir / "job.json"
        if path.is_file() and json.loads(path.read_text()) != self._identity():
            raise ConfigError(
                f"{self.work_dir} holds a training with other settings: remove it, or choose another folder"
            )
        self.work_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._identity(), indent=1) + "\n")

    def finish(self, seconds: float) -> dict:
        """Read the metrics of the evaluation that ended the training and mark the job as done."""
        rows = read_metrics(self.work_dir, "val")
        if not rows:
            raise RuntimeError(f"{self.work_dir} has no evaluation in its metrics; see {self.work_dir}/train.log")
        metrics = {key: value for key, value in rows[-1].items() if isinstance(value, int | float)}
        record = {"job": self._identity(), "metrics": metrics, "seconds": round(seconds, 1)}
        (self.work_dir / RESULT).write_text(json.dumps(record, indent=1) + "\n")
        return metrics


def tutelage(*arguments: str, echo: bool = True, threads: int | None = None) -> str:
    """Run the command as a user would and return its standard output.

    echo: show the command and what it prints; else a failure shows the end of it. Raises RuntimeError when it fails.
    """
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    process = subprocess.Popen(
        [sys.executable, "-m", "common.cli", *arguments], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=None if echo else subprocess.STDOUT,
    )  # fmt: skip
    if echo:
        print(f"$ tutelage {' '.join(arguments)}", flush=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if echo:
            print(line, end="", flush=True)
    if process.wait():
        told = "see above" if echo else "".join(lines)[-2000:]
        raise RuntimeError(f"tutelage {' '.join(arguments)} failed with exit code {process.returncode}: {told}")
    return "".join(lines)


def run(jobs: list[Job], *, parallel: int = 2) -> dict[str, dict]:
    """Run jobs, at most `parallel` processes at a time; those that run together share the cores evenly.

    Returns: metrics by job name. Raises RuntimeError with the end of the log when a job fails; the others are stopped,
    and a second call goes on where this one ended. Raises ConfigError when a folder holds another job.
    """
    done = {job.name: metrics for job in jobs if (metrics := job.result()) is not None}
    waiting = [job for job in jobs if job.name not in done]
    for job in waiting:
        job.claim()
    cores = len(os.sched_getaffinity(0))
    running: dict[str, tuple] = {}
    total = tqdm(total=len(jobs), initial=len(done), desc="trainings", position=0, dynamic_ncols=True)
    try:
        while waiting or running:
            ready = [job for job in waiting if all(name in done for name in job.needs)]
            while ready and (not running or _used(running) + ready[0].processes <= parallel):
                together = min(parallel, _used(running) + sum(job.processes for job in ready))
                job = ready.pop(0)
                waiting.remove(job)
                threads = max(1, cores // max(together, job.processes))
                running[job.name] = _start(job, threads, 1 + _free_row(running, parallel))
            for name, (job, process, bar, begun) in list(running.items()):
                _advance(job, bar)
                if process.poll() is None:
                    continue
                bar.close()
                del running[name]
                if process.returncode:
                    raise RuntimeError(
                        f"{name} failed ({' '.join(job.command())}):\n{_tail(job.work_dir / 'train.log')}"
                    )
                done[name] = job.finish(time.time() - begun)
                total.update()
            time.sleep(0.5)
    finally:
        for _, process, _, _ in running.values():
            process.terminate()
        for _, process, bar, _ in running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            bar.close()
        total.close()
    return done


def _used(running: dict) -> int:
    return sum(job.processes for job, *_ in running.values())


def _free_row(running: dict, parallel: int) -> int:
    taken = {-bar.pos for _, _, bar, _ in running.values()}
    return next(row for row in range(parallel) if row + 1 not in taken)


def _start(job: Job, threads: int, row: int):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads that spin would starve the neighbour
    with open(job.work_dir / "train.log", "ab") as log:
        process = subprocess.Popen(
            job.command(), stdout=log, stderr=subprocess.STDOUT, env=environment, preexec_fn=_end_with(os.getpid())
        )
    bar = tqdm(total=job.iterations, desc=job.name, position=row, leave=False, dynamic_ncols=True)
    return job, process, bar, time.time()


def _end_with(parent: int):
    """What a new process runs first so that it ends when `parent` does, however that ends: a training that outlived its
    benchmark would write into the folder that the next start resumes. Linux only; elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, set_death_signal = ctypes.CDLL(None).prctl, 1

    def before_exec() -> None:
        prctl(set_death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # it ended meanwhile
            os._exit(1)

    return before_exec


def _advance(job: Job, bar: tqdm) -> None:
    rows = read_metrics(job.work_dir)
    if rows and rows[-1]["step"] > bar.n:
        bar.update(rows[-1]["step"] - bar.n)
        if "loss" in rows[-1]:
            bar.set_postfix(loss=f"{rows[-1]['loss']:.2f}")


def _tail(path: Path, lines: int = 25) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.is_file() else f"no log {path}"
