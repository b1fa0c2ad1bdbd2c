"""`tutelage bench OUT.onnx`: the benchmark of whatever the export is, a detector, a policy or a completion."""

import sys
from importlib import import_module

from deploy.runtime.manifest import schema_of

BENCHES = {  # schema of the manifest -> module; else the detector's
    "tutelage-policy": "deploy.policy_bench",
    "tutelage-reactive": "deploy.policy_bench",
    "tutelage-planner": "deploy.policy_bench",
    "tutelage-completion": "deploy.completion_bench",
}


def bench(onnx: str) -> str:
    """Module that measures the export; a missing or broken manifest is left for it to report."""
    return BENCHES.get(schema_of(onnx).partition("/")[0], "deploy.bench")


def main(argv: list[str] | None = None) -> int:
    """Hand over; --help without a file is the detector's, with one its own."""
    args = sys.argv[2:] if argv is None else argv
    onnx = next((arg for arg in args if arg.endswith(".onnx")), None)
    return import_module(bench(onnx) if onnx else "deploy.bench").main(argv)
