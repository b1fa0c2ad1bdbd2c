"""The exported file computes what the network computes (spec check 26), for any rig, frame after frame."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from common.errors import ConfigError
from deploy.export import check_accumulation, describe, export
from deploy.export_command import exporter_of
from deploy.frames import drawn_frames, surround_rig
from deploy.parity import check, streams
from deploy.runtime.manifest import Manifest


@pytest.fixture(scope="module")
def report(detector, onnx_path, one_thread):
    return check(detector, onnx_path, streams(Manifest.load(onnx_path), 10), threads=1)


def test_heads_and_history_agree_over_ten_streamed_frames_with_two_starts_on_two_rigs(report):
    assert report.passed
    first, other = report.streams
    for stream in (first, other):
        assert stream.frames == 10 and stream.starts == 2 and stream.points > 500
        assert set(stream.difference) == {"heatmap", "reg", "height", "dim", "rot", "vel", "next_history"}
        assert max(stream.difference.values()) <= 1e-4
    assert first.points != other.points


def test_the_evaluation_path_with_its_own_indices_agrees_too(report):
    for stream in report.streams:
        assert stream.other_points <= 2e-3 * stream.points * stream.frames
        assert max(stream.evaluation.values()) <= (1e-4 if stream.other_points == 0 else 1e-2)


def test_a_network_built_with_its_history_switched_off_is_compared_with_the_history_on(small, onnx_path):
    manifest = Manifest.load(onnx_path)
    rig = surround_rig(manifest, 3)
    frames = list(drawn_frames(manifest, rig, 3))
    assert check(small(history_at_start=False), onnx_path, [("rig", rig, frames)], threads=1).passed


def test_a_network_whose_weights_changed_after_export_fails_parity(small, onnx_path):
    changed = small(seed=0)
    with torch.no_grad():
        changed.core.head.task_heads[2].vel[-1].bias += 1e-3
    manifest = Manifest.load(onnx_path)
    rig = surround_rig(manifest, 3)
    result = check(changed, onnx_path, [("rig", rig, list(drawn_frames(manifest, rig, 2)))], threads=1)
    assert not result.passed and "FAILED" in result.table()
    assert result.streams[0].difference["vel"] == pytest.approx(1e-3, rel=0.01)
    assert result.streams[0].difference["reg"] <= 1e-4


@pytest.mark.parametrize("count", [None, 1, 63, 64, 65, 128])
def test_points_of_one_cell_accumulate_in_onnx_runtime(detector, onnx_path, count):
    """All points into few cells, however few there are: an exporter that drops the reduction keeps one of each."""
    from deploy.export import ExportGraph, example
    from deploy.runtime.session import INPUTS, OUTPUTS

    manifest = Manifest.load(onnx_path)
    inputs = list(example(manifest, 3))
    inputs[2:5] = [column[:count] for column in inputs[2:5]]
    inputs[4] = (torch.arange(len(inputs[4])) * 7 // len(inputs[4])).to(torch.int64) * 300
    graph = ExportGraph(detector.core, manifest.mean, manifest.std).eval()
    with torch.no_grad():
        wanted = dict(zip(OUTPUTS, graph(*inputs), strict=True))
    session = ort.InferenceSession(str(onnx_path))
    got = session.run(None, {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)})
    for name, value in zip(OUTPUTS, got, strict=True):
        np.testing.assert_allclose(value, wanted[name].numpy(), atol=1e-4, err_msg=name)


def test_a_scatter_without_reduction_is_refused(onnx_path):
    model = onnx.load(onnx_path)
    check_accumulation(model)
    for node in model.graph.node:
        if node.op_type == "ScatterElements":
            del node.attribute[:]
    with pytest.raises(RuntimeError, match="has reduction 'none': points of one cell would be lost"):
        check_accumulation(model)


def test_the_graph_has_no_training_only_input_and_only_standard_operators(onnx_path):
    model = onnx.load(onnx_path)
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    assert not any("lidar" in value.name for value in model.graph.input)
    assert not model.functions


def test_normalisation_is_inside_the_graph(onnx_path, manifest):
    spec = Manifest.load(onnx_path).input("images")
    assert spec.dtype == "uint8" and spec.shape[2:] == (*manifest.image_size, 3)
    assert manifest.mean == pytest.approx((123.675, 116.28, 103.53))


def test_the_manifest_names_every_input_and_output_of_the_graph(onnx_path):
    manifest, session = Manifest.load(onnx_path), ort.InferenceSession(str(onnx_path))
    assert [s.name for s in manifest.inputs] == [node.name for node in session.get_inputs()]
    assert [s.name for s in manifest.outputs] == [node.name for node in session.get_outputs()]
    assert all(s.meaning for s in manifest.inputs + manifest.outputs)


def test_an_expert_is_refused(small):
    with pytest.raises(
        ConfigError, match=r"lidar_prior is True: an expert needs LiDAR at run time; export its apprentice"
    ):
        describe(small(lidar_prior=True), "x.onnx", rate_hz=2)


def test_repeated_resampling_is_refused(small):
    with pytest.raises(ConfigError, match="history_resample must be 'exact'"):
        describe(small(history_resample="repeated"), "x.onnx", rate_hz=2)


def test_the_model_is_found_wherever_the_options_stand():
    policy = "configs/control/sdp/streaming_metaworld_state.py"
    for arguments in ([policy, "w.pth", "out.onnx", "--help"], ["--plan", "x", policy, "--help"], ["--help", policy]):
        assert exporter_of(arguments) == "deploy.policy_export_command"
    assert exporter_of(["--opset", "18", "configs/perception/vcd/apprentice_sim.py", "w.pth"]) == "deploy.export"
    assert exporter_of(["--help"]) == "deploy.export"
    for name in ("teacher_town", "student_town", "one_pass_town", "teacher_tuned_town", "lidiff_published"):
        config = f"configs/perception/completion/{name}.py"
        assert exporter_of([config]) == "deploy.completion_export_command", name


def test_an_older_opset_is_refused(detector, tmp_path):
    with pytest.raises(ConfigError, match="opset 16"):
        export(detector, tmp_path / "x.onnx", opset=16)


def test_the_released_geometry_reaches_the_manifest(small):
    released = describe(small(frustum_sampling="stretched", rounding="truncate"), "x.onnx", rate_hz=2)
    assert (released.frustum, released.rounding, released.lift_at) == ("stretched", "truncate", "edge")
    assert describe(small(lift_at="middle"), "x.onnx", rate_hz=2).lift_at == "middle"


def test_decoding_settings_reach_the_manifest(detector):
    manifest = describe(detector, "x.onnx", rate_hz=2)
    spec = detector.decoder
    pedestrian = manifest.nms[5]
    assert pedestrian.scale == (spec.factors["pedestrian"], spec.factors["traffic_cone"])
    assert pedestrian.iou == spec.iou["pedestrian"]
    assert manifest.nms[3].type == "circle" and manifest.nms[3].radius == spec.circle_radius["barrier"]


@pytest.mark.slow
def test_the_scatter_pool_agrees_too_and_holds_no_float64_sum(small, tmp_path):
    detector = small()
    manifest = export(detector, tmp_path / "scatter.onnx", cameras=3, pool="scatter")
    assert check(detector, tmp_path / "scatter.onnx", streams(manifest, 3), threads=1).passed
    assert not any(node.op_type == "CumSum" for node in onnx.load(tmp_path / "scatter.onnx").graph.node)


def test_an_unknown_pool_is_refused(detector, tmp_path):
    with pytest.raises(ConfigError, match=r"pool 'magic': choose one of \['scatter', 'sorted'\]"):
        export(detector, tmp_path / "x.onnx", pool="magic")


@pytest.mark.slow
def test_a_network_without_history_is_exported_and_streams(small, tmp_path):
    detector = small(history=0)
    manifest = export(detector, tmp_path / "single.onnx", cameras=3)
    result = check(detector, tmp_path / "single.onnx", streams(manifest, 4), threads=1)
    assert result.passed and manifest.history == 0
