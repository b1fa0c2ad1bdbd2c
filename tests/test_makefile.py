"""`make` on a machine that lacks something says one line that names the package, before it installs anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBGL = "missing: libGL.so.1 (open3d and OpenCV load it) -- install it with: apt-get install libgl1"


def run_preflight(path: Path, **env):
    """deploy/preflight.sh with nothing on the PATH but what lies in `path`."""
    bash = shutil.which("bash")
    environment = {"PATH": str(path), "HOME": str(path), "PYTHON": sys.executable, **env}
    return subprocess.run([bash, "deploy/preflight.sh"], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def bare(tmp_path):
    """A folder for the PATH without any compiler."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


@pytest.fixture
def with_compiler(bare):
    (bare / "g++").write_text("#!/bin/sh\n")
    (bare / "g++").chmod(0o755)
    return bare


def header_present():
    import sysconfig

    return Path(sysconfig.get_paths()["include"], "Python.h").is_file()


needs_headers = pytest.mark.skipif(not header_present(), reason="this Python came without its headers")


@needs_headers
def test_a_machine_that_has_everything_passes_in_silence(with_compiler):
    done = run_preflight(with_compiler)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_headers
def test_a_missing_compiler_is_one_line_that_names_the_package(bare):
    done = run_preflight(bare)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(lines) == 1 and "C++ compiler" in lines[0] and lines[0].endswith("apt-get install g++")


def test_no_compiler_is_needed_where_pip_finds_a_wheel_of_mmcv(bare, tmp_path):
    (tmp_path / "mmcv-2.1.0-cp311-cp311-linux_x86_64.whl").touch()
    done = run_preflight(bare, PIP_FIND_LINKS=f"/nowhere {tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_python_is_one_line_that_names_its_packages(with_compiler):
    done = run_preflight(with_compiler, PYTHON="python3.11-that-is-not-here")
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert len(lines) == 1 and "python3.11-venv" in lines[0] and "PYTHON=/path/to/python3.11" in lines[0]


def test_another_python_version_is_refused_with_its_number(with_compiler):
    other = with_compiler / "other-python"
    other.write_text("#!/bin/sh\necho 3.9\n")
    other.chmod(0o755)
    done = run_preflight(with_compiler, PYTHON=str(other))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"missing: Python 3.11 ({other} is 3.9) -- set PYTHON=/path/to/python3.11"]


@needs_headers
def test_a_missing_library_is_one_line_that_names_the_package(with_compiler):
    python = with_compiler / "python-without-libgl"  # the real Python, on a machine where libGL does not load
    python.write_text(f'#!/bin/sh\ncase "$*" in *libGL.so.1*) exit 1 ;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = run_preflight(with_compiler, PYTHON=str(python))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [LIBGL]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_stops_at_the_missing_compiler_and_installs_nothing(bare, tmp_path):
    shutil.copytree(ROOT / "deploy", tmp_path / "copy" / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / "copy" / name)
    for tool in ("bash", "sh"):
        (bare / tool).symlink_to(shutil.which(tool))
    environment = {"PATH": str(bare), "HOME": str(tmp_path)}
    make = [shutil.which("make"), "test", f"PYTHON={sys.executable}"]
    done = subprocess.run(make, cwd=tmp_path / "copy", env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert sum("missing:" in line for line in done.stderr.splitlines()) == 1
    assert not os.path.exists(tmp_path / "copy" / ".venv")
