"""The streaming detector on a really exported network."""

from dataclasses import replace

import numpy as np
import pytest

from deploy.frames import drawn_frames, surround_rig
from deploy.runtime.detector import StreamingDetector
from deploy.runtime.errors import InputError, MissingCameraError, PoseError, ProviderError, StaleCameraError
from deploy.runtime.geometry import Lift
from deploy.runtime.session import choose_providers


@pytest.fixture
def stream(onnx_path, rig):
    return StreamingDetector(onnx_path, rig, threads=1)


def state(stream) -> tuple:
    return stream.session.history.copy(), stream._poses.transforms(np.eye(4)), stream._last


def same(a, b) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and (a[2] is None) == (b[2] is None)


def steps(stream, frames, rig):
    return [stream.step(**frame.arguments(rig)) for frame in frames]


def test_frames_give_boxes_with_names_scores_and_times(stream, frames, rig, manifest):
    found = steps(stream, frames, rig)
    assert [f.start for f in found] == [True] + [False] * 5
    assert sum(len(f.boxes) for f in found) > 20
    for f in found:
        assert f.boxes.shape == (len(f.scores), 9) and np.isfinite(f.boxes).all()
        assert f.names == [manifest.classes[label] for label in f.labels]
        assert (f.scores > manifest.score_threshold).all() and not f.warnings and not f.dropped
        parts = [f.milliseconds[name] for name in ("input", "geometry", "network", "decode")]
        assert sum(parts) == pytest.approx(f.milliseconds["total"], rel=1e-6) and min(parts) >= 0


def test_history_matters_and_reset_forgets_it(stream, frames, rig):
    first = steps(stream, frames[:3], rig)
    stream.reset()
    alone = stream.step(**frames[2].arguments(rig))
    assert alone.start
    assert not np.array_equal(alone.scores, first[2].scores)
    stream.reset()
    again = steps(stream, frames[:3], rig)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_the_history_holds_the_last_raw_maps_newest_first(stream, frames, rig):
    maps = []
    for frame in frames[:4]:
        stream.step(**frame.arguments(rig))
        maps.append(stream.session.history[0, 0])
    np.testing.assert_array_equal(stream.session.history[0], [maps[3], maps[2]])
    assert all(np.abs(map_).max() > 0 for map_ in maps) and not np.array_equal(maps[3], maps[2])


def test_a_sequence_start_fills_the_history_with_the_current_map(stream, frames, rig):
    steps(stream, frames[:2], rig)
    stream.reset()
    stream.step(**frames[2].arguments(rig))
    history = stream.session.history[0]
    np.testing.assert_array_equal(history[0], history[1])
    assert np.abs(history).max() > 0


def test_the_history_stays_in_its_two_buffers(stream, frames, rig):
    places = {stream.session._history.data_ptr(), stream.session._next.data_ptr()}
    steps(stream, frames, rig)
    assert {stream.session._history.data_ptr(), stream.session._next.data_ptr()} == places and len(places) == 2


def broken(frame, rig, **changes):
    arguments = frame.arguments(rig)
    arguments.update(changes)
    return arguments


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (MissingCameraError, "CAM_1 is missing: wait for the camera, or .* on_missing='degrade'",
         lambda a: a["images"].pop("CAM_1")),
        (StaleCameraError, r"CAM_2 is \+0\.300 s old \(limit 0\.15 s\)",
         lambda a: a["timestamps"].update(CAM_2=a["timestamp"] - 0.3)),
        (StaleCameraError, r"CAM_0 is -0\.200 s old", lambda a: a["timestamps"].update(CAM_0=a["timestamp"] + 0.2)),
        (InputError, r"CAM_0 wants \(64, 96, 3\) uint8 RGB \(the network's size, as the rig has no raw_size\), "
         r"got \(32, 96, 3\) uint8", lambda a: a["images"].update(CAM_0=a["images"]["CAM_0"][:32])),
        (InputError, r"got \(64, 96, 3\) float64",
         lambda a: a["images"].update(CAM_0=a["images"]["CAM_0"].astype(float))),
        (InputError, "got list", lambda a: a["images"].update(CAM_0=[1, 2])),
        (InputError, r"images names the cameras \['CAM_9'\]", lambda a: a["images"].update(CAM_9=a["images"]["CAM_0"])),
        (InputError, "timestamps has None for CAM_1", lambda a: a["timestamps"].pop("CAM_1")),
        (InputError, "timestamps has nan for CAM_1", lambda a: a["timestamps"].update(CAM_1=float("nan"))),
        (InputError, "timestamp is nan", lambda a: a.update(timestamp=float("nan"))),
        (InputError, "is not after the last frame's", lambda a: a.update(timestamp=0.0)),
        (PoseError, "lidar2global holds NaN or infinity",
         lambda a: a.update(lidar2global=np.full((4, 4), np.nan))),
        (PoseError, "localisation jumped; call reset", lambda a: a["lidar2global"].__iadd__(_shift(1000.0))),
        (PoseError, r"cam2lidar of CAM_1 wants \(4, 4\)", lambda a: a["cam2lidar"].update(CAM_1=np.eye(3))),
        (InputError, r"cam2lidar names the cameras \['CAM_7'\]", lambda a: a["cam2lidar"].update(CAM_7=np.eye(4))),
    ],
)  # fmt: skip
def test_a_bad_input_is_named_and_leaves_the_state_alone(stream, frames, rig, error, message, change):
    steps(stream, frames[:2], rig)
    before = state(stream)
    arguments = frames[2].arguments(rig)
    arguments["lidar2global"] = arguments["lidar2global"].copy()
    change(arguments)
    with pytest.raises(error, match=message):
        stream.step(**arguments)
    assert same(before, state(stream))
    untouched = StreamingDetector(stream.path, rig, threads=1)
    steps(untouched, frames[:2], rig)
    np.testing.assert_array_equal(
        stream.step(**frames[2].arguments(rig)).boxes, untouched.step(**frames[2].arguments(rig)).boxes
    )


def _shift(x):
    shift = np.zeros((4, 4))
    shift[0, 3] = x
    return shift


def test_a_missing_camera_degrades_to_an_empty_part_of_the_map(onnx_path, frames, rig, manifest):
    stream = StreamingDetector(onnx_path, rig, on_missing="degrade", threads=1)
    arguments = frames[0].arguments(rig)
    del arguments["images"]["CAM_1"]
    found = stream.step(**arguments)
    assert found.dropped == ("CAM_1",) and found.warnings == ("CAM_1 is missing: its part of the BEV map is empty",)
    # whatever the image of a dropped camera would have shown makes no difference
    stream.reset()
    stale = frames[0].arguments(rig)
    stale["timestamps"]["CAM_1"] -= 1
    again = stream.step(**stale)
    assert "CAM_1 is +1.000 s old" in again.warnings[0]
    np.testing.assert_array_equal(found.boxes, again.boxes)
    bound = stream.session._bound["cell_index"].numpy()
    np.testing.assert_array_equal(bound, Lift(manifest).without(stream._index, [1]).cell)
    # and it comes back
    whole = stream.step(**frames[1].arguments(rig))
    assert not whole.dropped and len(stream.session._bound["cell_index"].numpy()) == len(stream._index.cell)


def test_without_any_camera_even_the_degraded_mode_refuses(onnx_path, frames, rig):
    stream = StreamingDetector(onnx_path, rig, on_missing="degrade", threads=1)
    with pytest.raises(MissingCameraError, match="no camera is left") as caught:
        stream.step({}, {}, frames[0].lidar2global, 0.0)
    assert caught.value.cameras == rig.cameras


def test_a_long_pause_starts_a_new_sequence_and_says_so(stream, frames, rig):
    steps(stream, frames[:2], rig)
    late = replace(frames[2], timestamp=frames[1].timestamp + 60)
    found = stream.step(**late.arguments(rig))
    assert found.start and found.warnings[0].startswith("60.00 s since the last frame (limit 1.50 s)")


def test_a_new_calibration_changes_the_result_and_the_old_one_restores_it(stream, frames, rig, manifest):
    first = stream.step(**frames[0].arguments(rig))
    other = surround_rig(manifest, 3, seed=11)
    assert stream.calibrate(dict(zip(rig.cameras, other.cam2lidar, strict=True)))
    stream.reset()
    arguments = frames[0].arguments(rig)
    del arguments["cam2lidar"]
    changed = stream.step(**arguments)
    assert not np.array_equal(first.scores, changed.scores)
    stream.reset()
    np.testing.assert_array_equal(stream.step(**frames[0].arguments(rig)).boxes, first.boxes)
    assert not stream.calibrate(dict(zip(rig.cameras, rig.cam2lidar, strict=True)))


def test_a_frame_that_fails_after_its_calibration_leaves_the_rig_as_it_was(stream, frames, rig, manifest, monkeypatch):
    first = stream.step(**frames[0].arguments(rig))
    stream.reset()
    run = stream.session.run
    monkeypatch.setattr(stream.session, "run", lambda *a: {k: np.full_like(v, np.nan) for k, v in run(*a).items()})
    arguments = frames[0].arguments(rig)
    other = surround_rig(manifest, 3, seed=11)
    arguments["cam2lidar"] = dict(zip(rig.cameras, other.cam2lidar, strict=True))
    with pytest.raises(InputError, match="holds NaN or infinity"):
        stream.step(**arguments)
    monkeypatch.setattr(stream.session, "run", run)
    arguments = frames[0].arguments(rig)
    del arguments["cam2lidar"]
    np.testing.assert_array_equal(stream.step(**arguments).boxes, first.boxes)


def test_frames_much_faster_than_in_training_are_run_with_a_warning(stream, frames, rig):
    steps(stream, frames[:1], rig)
    soon = replace(frames[1], timestamp=frames[0].timestamp + 0.02, lidar2global=frames[0].lidar2global)
    found = stream.step(**soon.arguments(rig))
    assert found.warnings[0].startswith("0.020 s since the last frame, the network was trained on 0.500 s")


def test_raw_images_are_resized_by_the_rig(onnx_path, manifest):
    rig = surround_rig(manifest, 3, raw_size=(180, 320))
    stream = StreamingDetector(onnx_path, rig, threads=1)
    (frame,) = drawn_frames(manifest, rig, 1)
    assert frame.images.shape[1:3] == (180, 320)
    raw = stream.step(**frame.arguments(rig))
    small = np.stack(list(stream._images[0]))
    direct = StreamingDetector(onnx_path, replace(rig, raw_size=None), threads=1)
    np.testing.assert_array_equal(direct.step(**replace(frame, images=small).arguments(rig)).boxes, raw.boxes)


def test_a_rig_that_sees_nothing_of_the_grid_is_refused(onnx_path, rig):
    far = rig.cam2lidar.copy()
    far[:, 2, 3] = 500.0
    with pytest.raises(InputError, match="no frustum point of the rig falls into the BEV grid"):
        StreamingDetector(onnx_path, replace(rig, cam2lidar=far))


def test_a_provider_that_is_not_there_is_an_error_not_a_fallback(onnx_path, rig):
    with pytest.raises(ProviderError, match=r"NoSuchProvider.* not in this onnxruntime"):
        StreamingDetector(onnx_path, rig, providers=["NoSuchProvider"])


def test_providers_are_chosen_by_availability():
    everything = [
        "CPUExecutionProvider",
        "CUDAExecutionProvider",
        "TensorrtExecutionProvider",
        "AzureExecutionProvider",
    ]
    assert choose_providers(None, everything)[0] == "TensorrtExecutionProvider"
    assert choose_providers(None, everything[:2]) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert choose_providers(["CPUExecutionProvider"], everything) == ["CPUExecutionProvider"]
