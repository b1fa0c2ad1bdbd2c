"""Metrics of completion on clouds whose answers are known."""

import numpy as np
import pytest

from perception.completion import transport
from perception.completion.metrics import (
    CompletionMetric,
    divergence,
    jsd_3d,
    jsd_bev,
    nearest_distance,
    overlap,
    precision_recall_f,
)
from perception.completion.transport import emd, emd_released, sinkhorn, sliced


def lattice(side=20, step=0.5):
    """A horizontal plane (side^2, 3), off the cells' borders."""
    axis = (np.arange(side) - side / 2) * step + 0.1
    return np.stack([*(one.ravel() for one in np.meshgrid(axis, axis)), np.full(side**2, 0.05)], -1)


def street(length=16.0, count=4000, seed=0):
    """Ground and a wall."""
    draws = np.random.default_rng(seed)
    ground = draws.uniform([-length / 2, -4, -1.8], [length / 2, 4, -1.8], (count // 2, 3))
    wall = draws.uniform([-length / 2, 4, -1.8], [length / 2, 4, 2], (count // 2, 3))
    return np.concatenate([ground, wall])


def test_a_plane_and_its_copy_along_the_normal_are_that_far_apart_both_ways():
    plane = lattice()
    metric = CompletionMetric(transport=False)
    same, moved = metric.add(plane, plane), metric.add(plane + [0, 0, 0.1], plane)
    assert same["cd"] == 0 and same["jsd_3d"] == same["jsd_bev"] == 0
    assert moved["cd"] == moved["cd_to_truth"] == moved["cd_to_prediction"] == pytest.approx(0.1)


def test_chamfer_halves_swap_with_the_arguments():
    draws = np.random.default_rng(0)
    a, b = draws.normal(size=(50, 3)), draws.normal(size=(80, 3))
    metric = CompletionMetric(transport=False)
    there, back = metric.add(a, b), metric.add(b, a)
    assert there["cd"] == pytest.approx(back["cd"]) and there["cd_to_truth"] == pytest.approx(back["cd_to_prediction"])
    assert there["cd_to_truth"] == pytest.approx(np.linalg.norm(a[:, None] - b, axis=-1).min(1).mean())


def test_divergences_are_root_log_two_apart_and_ignore_what_lies_beyond_the_cube():
    plane = lattice()
    for measure in (jsd_3d, jsd_bev):
        assert measure(plane, plane + [20, 0, 0]) == pytest.approx(np.sqrt(np.log(2)))
        assert measure(np.concatenate([plane, [[60, 0, 0]]]), plane) == 0
    assert divergence(np.array([1, 1, 2]), np.array([1, 2, 2])) == pytest.approx(
        np.sqrt(2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3))
    )


def test_doubled_points_change_the_divergence_of_points_but_not_that_of_cells():
    plane = lattice()
    doubled = np.concatenate([plane, plane[:100] + [0.01, 0, 0]])
    assert jsd_bev(doubled, plane) == 0 and jsd_3d(doubled, plane) > 0.05


def test_voxel_sets_equal_dense_grids_and_a_point_at_thirty_metres_counts():
    draws = np.random.default_rng(0)
    a, b = draws.uniform(-49, 49, (5000, 3)), draws.uniform(-49, 49, (5000, 3))
    b[:2500] = a[:2500] + 0.05
    edges = np.arange(-50, 50.5, 0.5)
    dense = [np.histogramdd(one, (edges, edges, edges))[0] > 0 for one in (a, b)]
    expected = [(dense[0] & dense[1]).sum(), (dense[0] & ~dense[1]).sum(), (~dense[0] & dense[1]).sum()]
    assert overlap(a, b, 0.5).tolist() == expected
    far = np.array([[30.0, 0, 0]])
    assert overlap(far, far, 0.1).tolist() == [1, 0, 0]


def test_iou_counts_the_voxels_of_all_scenes_together():
    one = np.array([[0.1, 0.1, 0.1], [1.1, 0.1, 0.1]])
    other = np.array([[0.1, 0.1, 0.1], [2.1, 0.1, 0.1]])
    many = np.array([[i + 0.1, 0.1, 0.1] for i in range(7)])
    metric = CompletionMetric(transport=False)
    metric.add(one, other)
    assert metric.compute()["iou_0.5"] == pytest.approx(1 / 3)
    metric.add(many, many)
    assert metric.compute()["iou_0.5"] == pytest.approx(8 / 10)  # the mean of both scenes would be 2 / 3


def test_scenes_of_several_metrics_are_those_of_one_and_what_was_not_computed_is_left_out():
    clouds = [(lattice(), lattice() + shift) for shift in (0.1, 0.7)]
    whole, parts = CompletionMetric(transport=False), [CompletionMetric(transport=False) for _ in clouds]
    for pair, part in zip(clouds, parts, strict=True):
        whole.add(*pair)
        part.add(*pair)
    assert CompletionMetric.of(parts).compute() == whole.compute()
    whole.rows[0]["emd_released"], whole.rows[1]["emd_released"] = float("nan"), 3.0
    assert whole.compute()["emd_released"] == 3.0


def test_the_released_transport_skips_large_clouds(monkeypatch):
    monkeypatch.setattr(transport, "MOST_RELEASED", 5)
    assert np.isnan(emd_released(street(8.0, 500), street(8.0, 500, seed=1)))


def test_precision_recall_and_f_are_shares_of_points_within_each_threshold():
    near, far = np.full(40, 0.0749), np.array([0.01, 1.0])
    curves = precision_recall_f(near, far)
    assert curves[0, 0] == 0 and curves[0, -1] == 100 and (curves[1] == 50).all()
    assert curves[2, -1] == pytest.approx(2 * 100 * 50 / 150) and curves[2, 0] == 0
    metric = CompletionMetric(transport=False)
    plane = lattice()
    metric.add(plane + [0, 0, 0.075], plane)
    found = metric.compute()
    assert found["precision"] == found["recall"] == pytest.approx(50, abs=1.5)


def test_a_cloud_shifted_by_a_metre_is_a_metre_away():
    cloud = street(count=1200)
    assert emd(cloud[:400], cloud[:400] + [0, 0, 1.0]) == pytest.approx(1, abs=1e-9)  # exact assignment
    assert emd(cloud, cloud + [0, 0, 1.0]) == pytest.approx(1, rel=0.02)
    assert sliced(cloud, cloud + [0, 0, 1.0]) == pytest.approx(0.5, rel=0.1)  # mean of |cos| over the sphere


def test_entropic_transport_comes_close_to_the_exact_assignment():
    draws = np.random.default_rng(0)
    a, b = draws.normal(size=(300, 3)), draws.normal(size=(300, 3)) + 0.5
    p = np.full(300, 1 / 300)
    assert sinkhorn(a, p, b, p, 0.02) == pytest.approx(emd(a, b), rel=0.03)


def test_the_released_form_grows_with_the_scene_and_the_proper_one_does_not():
    rows = {}
    for length in (8.0, 16.0):
        count = int(2000 * length / 8)
        truth, noisy = street(length, count), street(length, count, seed=1)
        noisy = noisy + 0.1 * np.random.default_rng(2).standard_normal(noisy.shape)
        rows[length] = emd(noisy, truth), emd_released(noisy, truth)
    assert rows[16.0][0] == pytest.approx(rows[8.0][0], rel=0.10)
    assert rows[16.0][1] > 1.5 * rows[8.0][1] and rows[16.0][1] > 5 * rows[16.0][0]


def test_clouds_without_points_or_with_nan_are_refused():
    metric = CompletionMetric()
    with pytest.raises(ValueError, match=r"prediction is \(0, 3\)"):
        metric.add(np.zeros((0, 3)), lattice())
    with pytest.raises(ValueError, match="truth is"):
        metric.add(lattice(), np.full((4, 3), np.nan))
    assert nearest_distance(np.zeros((1, 3)), np.array([[0.0, 3, 4]])).tolist() == [5]
