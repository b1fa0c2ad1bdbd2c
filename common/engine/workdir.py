"""What a work directory says about its run: run.json (seed, versions, device, commit) and the metrics as JSON lines."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

RECORD = "run.json"
PACKAGES = ("torch", "mmengine", "mmcv", "mmdet", "mmdet3d", "numpy", "onnx", "onnxruntime", "tutelage")


def versions() -> dict[str, str]:
    """Installed versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "torch" in sys.modules:  # with its build (+cpu, +cu130), which the package's metadata may leave out
        found["torch"] = str(sys.modules["torch"].__version__)
    return found


def commit() -> dict | None:
    """{"commit": hash, "clean": bool} of the source tree, or None where it is not a git checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*args):
        return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True)

    try:
        if Path(git("rev-parse", "--show-toplevel").stdout.strip()) != root:
            return None
        head = git("rev-parse", "HEAD").stdout.strip()
        return {"commit": head, "clean": not git("status", "--porcelain", "--untracked-files=no").stdout.strip()}
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def device_name() -> str:
    """The GPU that mmengine trains on where torch sees one, else the CPU."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else cpu_name()


def write_record(work_dir: str | os.PathLike, *, config: str | None, seed: int, world_size: int, resume) -> None:
    """Append one start of a run to run.json: {"seed", "starts": [{time, command, versions, device, source, ...}]}."""
    path = Path(work_dir) / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    record = read_record(work_dir) or {"starts": []}
    record["seed"] = seed
    record["config"] = config
    record["starts"].append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "seed": seed,
            "world_size": world_size,
            "resume": resume if isinstance(resume, bool) else str(resume),
            "versions": versions(),
            "device": device_name(),
            "source": commit(),
        }
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(temporary, path)


def read_record(work_dir: str | os.PathLike) -> dict | None:
    path = Path(work_dir) / RECORD
    return json.loads(path.read_text()) if path.is_file() else None


def training_seconds(work_dir: str | os.PathLike) -> float:
    """Time that the iterations of a run took over all its starts, from the logged means per iteration; evaluations and
    start-up are not in it, and an iteration that a resumed run repeats counts once."""
    total, before = 0.0, 0
    for row in read_metrics(work_dir):
        total += row.get("time", 0.0) * (row["step"] - before)
        before = row["step"]
    return total


def read_metrics(work_dir: str | os.PathLike, kind: str = "train") -> list[dict]:
    """The curve of a run over all its starts, by step; where a resumed run repeats a step, the later line stands.

    kind: "train" for lines with a loss and an iteration, "val" for the metrics of evaluations.
    A last line cut off by a kill is left out.
    """
    if kind not in ("train", "val"):
        raise ValueError(f"kind is {kind!r}: 'train' or 'val'")
    by_step = {}
    for file in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        for line in file.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if ("iter" in entry) == (kind == "train"):
                by_step[entry["step"]] = entry
    return [by_step[step] for step in sorted(by_step)]
