"""`tutelage doctor`: one line per thing that training, export or the robot needs; exit 1 if something is in the way.

Nothing heavy is imported before it is looked at, so that a broken installation is described instead of crashing this.
"""

import argparse
import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = ("common", "perception", "control", "deploy")
REQUIRED_EXTRAS = ("perception", "deploy")
LIBRARIES = {  # file: (what loads it, Debian package)
    "libGL.so.1": ("OpenCV and open3d", "libgl1"),
    "libX11.so.6": ("open3d", "libx11-6"),
    "libgomp.so.1": ("open3d", "libgomp1"),
    "libgthread-2.0.so.0": ("OpenCV", "libglib2.0-0"),
}


@dataclass(frozen=True)
class Finding:
    """status: "ok", "note" (works, worth knowing) or "bad" (prevents work)."""

    status: str
    item: str
    text: str

    def __str__(self) -> str:
        mark = {"ok": "ok  ", "note": "note", "bad": "BAD "}[self.status]
        return f"{mark}  {self.item:<24}{self.text}"


def check_versions(extras: Iterable[str] = REQUIRED_EXTRAS) -> list[Finding]:
    """Installed versions against the pins that the distribution itself declares."""
    from packaging.requirements import Requirement

    try:
        declared = metadata.requires("tutelage") or []
    except metadata.PackageNotFoundError:
        return [Finding("bad", "tutelage", "is not installed: pip install -e '.[perception,deploy,dev]'")]
    pins: dict[str, list] = {}
    for line in declared:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            pins.setdefault(requirement.name, []).append(requirement.specifier)
    findings = []
    for name, specifiers in sorted(pins.items()):
        wanted = ",".join(sorted({str(specifier) for specifier in specifiers if str(specifier)}))
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            findings.append(Finding("bad", name, f"missing: pip install '{name}{wanted}'"))
            continue
        if all(specifier.contains(installed, prereleases=True) for specifier in specifiers):
            findings.append(Finding("ok", name, installed))
        else:
            findings.append(Finding("bad", name, f"is {installed}, wanted {wanted}: pip install '{name}{wanted}'"))
    return findings


def check_python() -> list[Finding]:
    version = sys.version_info
    text = f"{version.major}.{version.minor}.{version.micro}"
    if version[:2] == (3, 11):
        return [Finding("ok", "python", text)]
    return [Finding("bad", "python", f"is {text}, wanted 3.11: make setup PYTHON=/path/to/python3.11")]


def check_mmcv_ops() -> list[Finding]:
    """Runs a compiled operator: the overlap of a box with itself is 1, with a far one 0."""
    try:
        import torch
        from mmcv.ops import box_iou_rotated, nms_rotated

        boxes = torch.tensor([[0.0, 0, 4, 2, 0.3], [50, 0, 4, 2, 0.3]])
        overlap = box_iou_rotated(boxes, boxes)
        kept = nms_rotated(boxes[[0, 0, 1]], torch.tensor([0.9, 0.8, 0.7]), 0.5)[1]
        right = torch.allclose(overlap, torch.eye(2), atol=1e-4) and kept.tolist() == [0, 2]
    except (ImportError, RuntimeError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [Finding("bad", "mmcv ops", f"{first}: rebuild mmcv with MMCV_WITH_OPS=1 --no-build-isolation")]
    if not right:
        return [Finding("bad", "mmcv ops", f"wrong results ({overlap.tolist()}): rebuild mmcv against this torch")]
    return [Finding("ok", "mmcv ops", "box_iou_rotated and nms_rotated right on the CPU")]


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def check_libraries(loads: Callable[[str], bool] = _loads) -> list[Finding]:
    findings = []
    for name, (user, package) in LIBRARIES.items():
        if loads(name):
            findings.append(Finding("ok", name, "loads"))
        else:
            findings.append(Finding("bad", name, f"missing ({user} loads it): apt-get install {package}"))
    if loads("libEGL.so.1"):
        findings.append(Finding("ok", "libEGL.so.1", "loads"))
    else:
        findings.append(Finding("note", "libEGL.so.1", "missing; only off-screen GPU rendering wants it: libegl1"))
    return findings


def check_gpu() -> list[Finding]:
    try:
        import torch
    except ImportError as error:
        return [Finding("bad", "torch", str(error))]
    if not torch.cuda.is_available():
        return [Finding("note", "gpu", f"none (torch {torch.__version__}); the sim configs train on the CPU")]
    count = torch.cuda.device_count()
    names = ", ".join(
        f"{torch.cuda.get_device_name(i)} {torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB"
        for i in range(count)
    )
    return [Finding("ok", "gpu", f"{count}: {names}")]


def check_providers() -> list[Finding]:
    try:
        import onnxruntime
    except ImportError as error:
        return [Finding("bad", "onnxruntime", str(error))]
    return [Finding("ok", "onnxruntime", ", ".join(onnxruntime.get_available_providers()))]


def check_collisions(packages: Iterable[str] = OWN_PACKAGES, root: Path = ROOT) -> list[Finding]:
    """Do the names `common`, `perception`, `control`, `deploy` mean ours? Another distribution may bring the same."""
    findings = []
    importlib.invalidate_caches()
    for name in packages:
        if not (root / name).is_dir():
            continue
        spec = find_spec(name)
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
        found = [Path(place).resolve() for place in places if place]
        if any(root / name in (place, place.parent) for place in found):
            continue
        where = found[0] if found else "nothing"
        owner = ", ".join(metadata.packages_distributions().get(name, [])) or "another package"
        findings.append(
            Finding("bad", name, f"`import {name}` finds {where} ({owner}), not {root / name}: use a venv of its own")
        )
    try:
        other = metadata.version("control")
        findings.append(
            Finding("bad", "control", f"python-control {other} has the same import name: pip uninstall control")
        )
    except metadata.PackageNotFoundError:
        pass
    return findings or [Finding("ok", "names", "common, perception, control and deploy are ours")]


def check_data(roots: Iterable[str]) -> list[Finding]:
    """nuScenes roots: which versions, and whether their info files are of the convention that the data sets want."""
    findings = []
    for root in map(Path, roots):
        if not root.is_dir():
            findings.append(Finding("bad", "data", f"{root}: no such folder"))
            continue
        tables = sorted(file.parent.name for file in root.glob("v1.0-*/sample.json"))
        if not tables:
            findings.append(
                Finding("note", "data", f"{root}: no nuScenes tables (v1.0-mini/sample.json or v1.0-trainval/...) here")
            )
            continue
        findings.append(Finding("ok", "data", f"{root}: nuScenes {', '.join(tables)}"))
        findings.extend(_check_infos(root))
    return findings


def _check_infos(root: Path) -> list[Finding]:
    files = sorted(root.glob("*infos*.pkl"))
    if not files:
        return [
            Finding("note", "infos", f"{root}: none yet: python -m perception.datasets.converter {root} --version V")
        ]
    try:
        infos = importlib.import_module("perception.datasets.infos")
    except ImportError as error:
        return [Finding("note", "infos", f"{root}: {len(files)} files, not checked ({error})")]
    findings = []
    for file in files:
        try:
            loaded = infos.load_infos(file)
            infos.check_infos(loaded, file)
            findings.append(Finding("ok", "infos", f"{file.name}: {len(loaded['data_list'])} samples"))
        except (ValueError, OSError) as error:
            findings.append(Finding("bad", "infos", " ".join(str(error).split())))
    return findings


def examine(*, quick: bool = False, data: Iterable[str] = ()) -> list[Finding]:
    """All findings. quick leaves out what reads whole files."""
    findings = check_python() + check_versions() + check_collisions() + check_libraries()
    if not any(f.status == "bad" and f.item in ("torch", "mmcv", "mmengine") for f in findings):
        findings += check_mmcv_ops()
    findings += check_gpu() + check_providers()
    if not quick:
        findings += check_data(data)
    return findings


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(prog="tutelage doctor", description="Check the installation.")
    parse.add_argument("--quick", action="store_true", help="installation only, no data sets; some seconds")
    parse.add_argument(
        "--data", nargs="+", action="extend", default=[], metavar="ROOT", help="nuScenes folders (or TUTELAGE_NUSCENES)"
    )
    args = parse.parse_args(argv)
    data = args.data or [root for root in os.environ.get("TUTELAGE_NUSCENES", "").split(os.pathsep) if root]
    findings = examine(quick=args.quick, data=data)
    for finding in findings:
        print(finding)
    bad = sum(finding.status == "bad" for finding in findings)
    print(f"{bad} in the way" if bad else "nothing in the way")
    return 1 if bad else 0
