import copy
import json
import math

import pytest
import torch

from common.errors import ConfigError
from deploy.bench import TorchStream, main, measure, memory, parity, table
from deploy.runtime.manifest import Manifest


@pytest.fixture(scope="module")
def report(detector, onnx_path, rig, one_thread):
    against = TorchStream(detector, Manifest.load(onnx_path), rig)
    return measure(onnx_path, rig, frames=5, hz=50, against=against, threads=1)


def test_both_engines_are_timed_on_the_same_number_of_frames(report):
    assert {values["n"] for engine in ("onnx", "torch") for values in report[engine].values()} == {5}
    assert set(report["onnx"]) == {"input", "geometry", "network", "decode", "total"}


def test_percentiles_are_ordered_and_the_parts_sum_to_the_total(report):
    for engine in ("onnx", "torch"):
        for values in report[engine].values():
            assert 0 <= values["p50_ms"] <= values["p90_ms"] <= values["p99_ms"] <= values["max_ms"]
    parts = sum(report["onnx"][name]["mean_ms"] for name in ("input", "geometry", "network", "decode"))
    assert parts == pytest.approx(report["onnx"]["total"]["mean_ms"], rel=1e-6)
    assert report["host_share"] == pytest.approx(
        1 - report["onnx"]["network"]["mean_ms"] / report["onnx"]["total"]["mean_ms"]
    )


def test_a_rate_nobody_can_keep_misses_every_deadline(onnx_path, rig):
    assert measure(onnx_path, rig, frames=3, hz=1e6, threads=1)["deadline"]["miss_rate"] == 1
    assert measure(onnx_path, rig, frames=2, hz=0.5, threads=1)["deadline"]["misses"] == 0


def test_moving_cameras_cost_geometry_time(onnx_path, rig, report):
    moving = measure(onnx_path, rig, frames=5, hz=50, threads=1, moving_cameras=True)
    assert moving["onnx"]["geometry"]["p50_ms"] > report["onnx"]["geometry"]["p50_ms"]


def test_the_command_writes_its_report_beside_the_file(onnx_path, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert (
        main([str(onnx_path), "--frames", "3", "--hz", "20", "--threads", "1", "--no-memory", "--out", str(out)]) == 0
    )
    report = json.loads(out.read_text())
    assert report["provider"] == "CPUExecutionProvider" and report["onnx"]["total"]["n"] == 3
    assert "| onnx total |" in capsys.readouterr().out


def test_memory_is_measured_in_a_process_of_its_own(onnx_path, rig, report):
    values = memory("onnx", onnx_path, rig, frames=2, threads=1)
    assert 10 < values["imports_mib"] < values["peak_mib"] < 2000
    assert "peak memory onnx" in table({**report, "memory": {"onnx": values}})


def test_parity_is_part_of_the_report_and_fails_for_other_weights(detector, onnx_path, rig, report):
    found = parity(detector, onnx_path, rig, frames=4, threads=1)
    assert found["passed"] and found["frames"] == 4 and found["starts"] == 2
    assert "4 frames, 2 starts" in table({**report, "parity": found}) and "passed" in table({**report, "parity": found})
    other = copy.deepcopy(detector)
    with torch.no_grad():
        other.core.head.shared_conv.conv.weight.mul_(1.5)
    assert not parity(other, onnx_path, rig, frames=4, threads=1)["passed"]


def test_a_file_that_is_no_export_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.onnx does not exist: write it with `tutelage export"):
        main([str(tmp_path / "x.onnx")])
    with pytest.raises(ConfigError, match="--frames 0"):
        main([str(tmp_path / "x.onnx"), "--frames", "0"])


def test_the_ratio_is_that_of_the_frames(report):
    ratio = report["torch_over_onnx"]
    assert all(math.isfinite(value) and value > 0 for value in ratio.values())
