#!/usr/bin/env bash
# What pip cannot install. Prints one line per missing thing, naming the Debian/Ubuntu package, and exits 1.
set -u
PYTHON="${PYTHON:-python3.11}"
missing=0
need() { echo "missing: $1 -- install it with: apt-get install $2" >&2; missing=1; }

if ! command -v "$PYTHON" >/dev/null; then
    need "$PYTHON" "python3.11 python3.11-venv python3.11-dev (newer Debian and Ubuntu do not package 3.11: build or \
download one and set PYTHON=/path/to/python3.11, which may lie anywhere)"
    exit 1
fi
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || { echo "missing: Python 3.11 ($PYTHON is $version) -- set PYTHON=/path/to/python3.11" >&2; exit 1; }
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || need "the venv module of $PYTHON" python3.11-venv

have_mmcv_wheel() {
    for folder in ${PIP_FIND_LINKS:-}; do
        compgen -G "${folder#file://}/mmcv-2.1.0-cp311-*.whl" >/dev/null && return 0
    done
    return 1
}
if ! have_mmcv_wheel; then
    command -v c++ >/dev/null || command -v g++ >/dev/null || need "a C++ compiler (mmcv is compiled)" g++
    header=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_paths()["include"] + "/Python.h")')
    [ -f "$header" ] || need "$header (mmcv is compiled)" python3.11-dev
fi

# Loaded, not looked up: that follows LD_LIBRARY_PATH and wants no ldconfig on the PATH.
for pair in libGL.so.1:libgl1 libX11.so.6:libx11-6 libgomp.so.1:libgomp1 libgthread-2.0.so.0:libglib2.0-0; do
    "$PYTHON" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "${pair%%:*}" 2>/dev/null ||
        need "${pair%%:*} (open3d and OpenCV load it)" "${pair##*:}"
done
exit $missing
