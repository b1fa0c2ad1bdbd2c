"""Who may import whom, read from the imports (docs: design). A lazy import inside a function counts as an import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "perception", "control", "deploy", "benchmarks")
FORBIDDEN = {  # package: what it may not import, among our own
    "common": {"perception", "control", "deploy", "benchmarks"},
    "perception": {"control", "deploy", "benchmarks"},
    "control": {"perception", "deploy", "benchmarks"},
    "deploy": {"benchmarks"},
}
RUNTIME_MAY_IMPORT = {"numpy", "onnxruntime", *sys.stdlib_module_names}
MOST_LINES = 420


def sources(folder: str) -> list[Path]:
    return sorted(file for file in (ROOT / folder).rglob("*.py"))


def imported(file: Path, source: str | None = None) -> set[str]:
    """Absolute dotted names that a file imports, relative imports resolved."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(file.read_text() if source is None else source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            names |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return names


def violations(file: Path, forbidden: set[str], source: str | None = None) -> list[str]:
    tops = {name.split(".")[0] for name in imported(file, source)}
    return [f"{file.relative_to(ROOT)} imports {name}" for name in sorted(tops & forbidden)]


# The doctor asks the arm's info checker whether a data set fits, if that arm is installed; nothing else of common does.
COMMON_MAY_ASK = {"common/engine/doctor.py": {"perception"}}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_downwards(package):
    found = []
    for file in sources(package):
        lent = COMMON_MAY_ASK.get(str(file.relative_to(ROOT)), set())
        found += violations(file, FORBIDDEN[package] - lent)
    assert not found, found


def test_the_runtime_imports_numpy_onnxruntime_and_the_standard_library_alone():
    found = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sources("deploy/runtime")
        for name in imported(file)
        if name.split(".")[0] not in RUNTIME_MAY_IMPORT and not name.startswith("deploy.runtime")
    ]
    assert not found, found


def test_nothing_imports_the_tests():
    found = [
        f"{file.relative_to(ROOT)}" for package in PACKAGES for file in sources(package) if "tests" in imported(file)
    ]
    assert not found, found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("common/x.py", "import perception.detection"),
        ("common/x.py", "def f():\n    from deploy import export"),
        ("common/engine/x.py", "from importlib import import_module\nimport_module('control.envs')"),
        ("perception/detection/x.py", "from ...deploy import export"),
        ("perception/x.py", "if True:\n    import control"),
        ("deploy/x.py", "from benchmarks.bev_pool import run"),
    ],
)
def test_the_rule_catches_an_upward_import(file, source):
    assert violations(ROOT / file, FORBIDDEN[file.split("/")[0]], source)


def test_files_stay_readable_in_one_sitting():
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for package in PACKAGES
        for file in sources(package)
    }
    long = {file: lines for file, lines in lengths.items() if lines > MOST_LINES}
    assert not long, f"over {MOST_LINES} lines: {long}"


def test_the_runtime_works_in_a_process_without_torch():
    """A finder refuses torch and the training stack; importing every module of the runtime must not notice."""
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in sources("deploy/runtime")
    ]
    assert modules, "deploy/runtime holds no module"
    script = f"""
import sys, importlib
BLOCKED = {{"torch", "mmengine", "mmcv", "mmdet", "mmdet3d", "common", "perception", "control", "cv2", "onnx"}}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Refuse())
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the block does not hold")
for name in {modules!r}:
    importlib.import_module(name)
print(len(BLOCKED & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"
