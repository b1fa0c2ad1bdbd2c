"""Writes benchmarks/results/NAME.md: heading, command, commit, device, seeds, then the body."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def write_report(
    name: str,
    title: str,
    body: str,
    *,
    seeds: Iterable[int],
    device: str | None = None,
    command: str | None = None,
    folder: Path = RESULTS,
) -> Path:
    """Write `folder`/`name`.md and return its path.

    Args: body, Markdown; seeds, all that were used; device, default this CPU and PyTorch; command, default the one
    that runs now; folder, default benchmarks/results.
    """
    threads = [f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"] if "OMP_NUM_THREADS" in os.environ else []
    command = command or " ".join([*threads, "python", *(_relative(argument) for argument in sys.argv)])
    lines = [
        f"# {title}",
        "",
        f"    {command}",
        "",
        f"- commit: {commit()}",
        f"- device: {device or describe_device()}",
        f"- seeds: {', '.join(map(str, seeds))}",
        "",
        body.strip(),
        "",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text("\n".join(lines))
    return path


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def training_cost(jobs: Iterable, seconds: Callable[[Path], float] | None = None) -> str:
    """A line: commits and devices of the trainings (all starts, from their run.json), where they were evaluated, and
    hours of training and of the longest one. seconds: of a work directory's training, where it is no loop of
    iterations."""
    from common.engine.workdir import read_record, training_seconds

    seconds = seconds or training_seconds
    commits, devices, evaluated, hours = set(), {}, {}, []
    for job in jobs:
        starts = read_record(job.work_dir)["starts"]
        for start in starts:
            source = start["source"] or {"commit": "unknown", "clean": True}
            commits.add(source["commit"][:12] + ("" if source["clean"] else " (dirty)"))
        devices[starts[0].get("device", "unknown")] = evaluated[starts[-1].get("device", "unknown")] = None
        hours.append(seconds(job.work_dir) / 3600)
    return (
        f"Trainings at commit {', '.join(sorted(commits))}, begun on {', '.join(devices)}, evaluated on "
        f"{', '.join(evaluated)}; {sum(hours):.2f} hours of training over all jobs, the longest "
        f"{60 * max(hours):.0f} minutes, evaluations not counted."
    )


def commit() -> str:
    """Short hash and whether tracked files outside benchmarks/results differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git repository)"
    return f"{head} ({'dirty' if changed.strip() else 'clean'})"


def describe_device(device: str = "cpu") -> str:
    """Model, threads and versions, for a reader who wants to repeat the numbers."""
    import torch

    from common.engine.workdir import cpu_name

    versions = f"PyTorch {torch.__version__}, Python {platform.python_version()}"
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {versions}"
    return f"{cpu_name()}, {torch.get_num_threads()} threads, {versions}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _relative(argument: str) -> str:
    path = Path(argument)
    return str(path.resolve().relative_to(ROOT)) if path.is_absolute() and path.is_relative_to(ROOT) else argument
