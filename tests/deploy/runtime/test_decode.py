"""Decoding and suppression against mmdet3d's coder, mmcv's rotated ops and perception's own decoder."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from deploy.runtime.decode import decode, greedy, overlaps, peaks, rotated_iou, suppress
from deploy.runtime.manifest import TaskNMS


def head_outputs(manifest, random, spread=2.0) -> dict[str, np.ndarray]:
    _, rows, columns = manifest.bev_shape
    t = len(manifest.tasks)
    shape = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
    out = {name: random.normal(size=(1, t, k, rows, columns)).astype(np.float32) for name, k in shape.items()}
    out["reg"] = random.uniform(0, 1, out["reg"].shape).astype(np.float32)
    out["dim"] = random.normal(0.5, 0.5, out["dim"].shape).astype(np.float32)
    heat = random.normal(-6, spread, (1, len(manifest.classes), rows, columns)).astype(np.float32)
    return {**out, "heatmap": heat}


def random_boxes(random, n: int, extent: float = 20.0) -> np.ndarray:
    """(n, 5) x, y, l, w, yaw."""
    return np.concatenate(
        [random.uniform(-extent, extent, (n, 2)), random.uniform(0.3, 8, (n, 2)), random.uniform(-4, 4, (n, 1))], 1
    )


def test_peaks_are_those_of_mmdet3ds_center_point_coder(manifest, random):
    from mmdet3d.models.task_modules.coders import CenterPointBBoxCoder

    out = head_outputs(manifest, random)
    grid = manifest.grid
    coder = CenterPointBBoxCoder(
        pc_range=[grid["x"][0], grid["y"][0]],
        out_size_factor=1,
        voxel_size=[grid["x"][2], grid["y"][2]],
        post_center_range=list(manifest.center_range),
        max_num=100,
        score_threshold=0.1,
    )
    tensors = {name: torch.from_numpy(value) for name, value in out.items()}
    first = 0
    for task, names in enumerate(manifest.tasks):
        rot = tensors["rot"][:, task]
        wanted = coder.decode(
            tensors["heatmap"][:, first : first + len(names)].sigmoid(),
            rot[:, :1],
            rot[:, 1:],
            tensors["height"][:, task],
            tensors["dim"][:, task].exp(),
            tensors["vel"][:, task],
            reg=tensors["reg"][:, task],
        )[0]
        coder.post_center_range = list(manifest.center_range)
        boxes, scores, local = peaks(out, task, first, len(names), replace(manifest, max_per_task=100), 0.1)
        keep = (np.abs(boxes[:, :3]) <= np.array(manifest.center_range[3:], np.float32)).all(1)
        assert 5 < keep.sum() == len(wanted["scores"])
        np.testing.assert_allclose(scores[keep], wanted["scores"], atol=1e-6)
        np.testing.assert_allclose(boxes[keep], wanted["bboxes"], atol=1e-5)
        np.testing.assert_array_equal(local[keep], wanted["labels"])
        first += len(names)


@pytest.mark.parametrize("spread", [2.0, 3.0])
def test_boxes_are_those_of_perceptions_decoder(manifest, detector, random, spread):
    from perception.detection.decode import decode as torch_decode

    out = head_outputs(manifest, random, spread)
    head = detector.core.head
    tensors = {name: torch.from_numpy(value) for name, value in out.items()}
    boxes, scores, labels = torch_decode(tensors, head.tasks, detector.core.grid, detector.decoder)[0]
    got = decode(out, manifest)
    assert len(got.boxes) == len(boxes) > 50
    assert set(got.labels) == set(range(10))
    np.testing.assert_array_equal(got.labels, labels)
    np.testing.assert_allclose(got.scores, scores, atol=1e-6)
    np.testing.assert_allclose(got.boxes, boxes, atol=1e-4)


def test_z_is_that_of_the_bottom_face(manifest):
    out = head_outputs(manifest, np.random.default_rng(0), spread=0.0)
    out["heatmap"][0, 0, 32, 40] = 3.0
    out["height"][0, 0, 0, 32, 40], out["dim"][0, 0, 2, 32, 40] = 1.0, np.log(1.6)
    (box,) = decode(out, manifest).boxes
    assert box[2] == pytest.approx(1.0 - 0.8)
    assert box[5] == pytest.approx(1.6)


def test_no_peak_gives_empty_arrays_of_the_right_shape(manifest, random):
    out = head_outputs(manifest, random)
    out["heatmap"][:] = -20
    boxes, scores, labels = decode(out, manifest)
    assert boxes.shape == (0, 9) and scores.shape == (0,) and labels.shape == (0,)


def test_rotated_iou_is_mmcvs(random):
    from mmcv.ops import box_iou_rotated

    a, b = random_boxes(random, 300, 5), random_boxes(random, 300, 5)
    wanted = box_iou_rotated(torch.from_numpy(a).float(), torch.from_numpy(b).float(), aligned=True).numpy()
    assert (wanted > 0).sum() > 100
    np.testing.assert_allclose(rotated_iou(a, b), wanted, atol=2e-5)


def test_rotated_iou_of_axis_aligned_boxes_is_the_closed_form():
    a, b = np.array([[0, 0, 4, 2, 0.0]]), np.array([[1, 0.5, 4, 2, np.pi]])
    assert rotated_iou(a, b)[0] == pytest.approx(3 * 1.5 / (16 - 3 * 1.5), abs=1e-12)


def test_a_box_overlaps_itself_fully_at_every_angle(random):
    a = random_boxes(random, 500)
    quarter = a.copy()
    quarter[:, 2:4], quarter[:, 4] = a[:, 3:1:-1], a[:, 4] + np.pi / 2
    np.testing.assert_allclose(rotated_iou(a, a), 1, atol=1e-9)
    np.testing.assert_allclose(rotated_iou(a, quarter), 1, atol=1e-9)


def test_touching_and_empty_boxes_do_not_overlap():
    a = np.array([[0, 0, 2, 2, 0.0], [0, 0, 0, 2, 0.0]])
    b = np.array([[2, 0, 2, 2, 0.0], [0, 0, 0, 2, 0.0]])
    np.testing.assert_allclose(rotated_iou(a, b), 0, atol=1e-12)


def test_suppression_keeps_what_mmcvs_rotated_nms_keeps(random):
    from mmcv.ops import nms_rotated

    for _ in range(20):
        flat = random_boxes(random, 120, 10)
        scores = random.permutation(np.linspace(0.1, 0.9, 120)).astype(np.float32)
        boxes = np.zeros((120, 9), np.float32)
        boxes[:, (0, 1, 3, 4, 6)] = flat
        got = suppress(boxes, scores, np.zeros(120, int), TaskNMS(iou=0.2, scale=(1.0,)))
        wanted = nms_rotated(torch.from_numpy(boxes[:, (0, 1, 3, 4, 6)]), torch.from_numpy(scores), 0.2)[1].numpy()
        assert len(got) < 110
        np.testing.assert_array_equal(got, wanted)


def test_scale_factors_let_small_neighbours_suppress_each_other():
    boxes = np.zeros((2, 9), np.float32)
    boxes[:, 3:6], boxes[1, 0] = 0.4, 0.8
    scores, local = np.array([0.9, 0.8], np.float32), np.zeros(2, int)
    assert len(suppress(boxes, scores, local, TaskNMS(iou=0.5, scale=(1.0,)))) == 2
    assert suppress(boxes, scores, local, TaskNMS(iou=0.5, scale=(9.0,))).tolist() == [0]


def test_circle_suppression_compares_distances_in_metres():
    boxes = np.zeros((3, 9), np.float32)
    boxes[:, 0] = 0, 1.4, 2.0
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    kept = suppress(boxes, scores, np.zeros(3, int), TaskNMS(type="circle", radius=1.5))
    assert kept.tolist() == [0, 2]


def test_a_suppressed_box_suppresses_nothing():
    close = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
    assert greedy(close).tolist() == [0, 2]


def test_two_hundred_crowded_boxes_take_milliseconds(random):
    flat = random_boxes(random, 200, 6)
    times = []
    for _ in range(9):
        begin = time.process_time()
        greedy(overlaps(flat, 0.2))
        times.append(time.process_time() - begin)
    assert min(times) < 0.1  # some 5 to 10 ms; a loop over pairs of boxes would take seconds
