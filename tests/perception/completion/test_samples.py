"""Samples, their crops and augmentations, and the simulated town they come from."""

import numpy as np
import open3d
import pytest
from scipy.spatial import cKDTree

from common.errors import ConfigError, DataError
from perception.completion.profiles import PROFILES, Profile
from perception.completion.samples import (
    augmentation,
    deduplicated,
    kept_output,
    make_sample,
    spread,
    thinned,
    visible,
)
from perception.completion.town import MOVING, make_town, static

CI = PROFILES["ci"]


@pytest.fixture(scope="module")
def town():
    return make_town(3, CI.radius)


def test_a_town_is_a_function_of_its_seed(town):
    again, other = make_town(3, CI.radius), make_town(4, CI.radius)
    assert np.array_equal(town.scan, again.scan) and np.array_equal(town.scene, again.scene)
    assert town.scene.shape != other.scene.shape


def test_the_scene_lies_in_range_without_repetition_and_under_the_scan(town):
    assert np.linalg.norm(town.scene, axis=1).max() < CI.radius and len(town.scene) > 10_000
    still = static(town)
    inside = still[np.linalg.norm(still, axis=1) < 0.9 * CI.radius]
    distance = np.linalg.norm(inside[::40, None] - town.scene[None], axis=-1).min(1)
    assert np.quantile(distance, 0.9) < 0.2, "the scan's surfaces are the scene's"


def test_moving_cars_are_in_the_scan_alone():
    town = next(
        made for made in (make_town(seed, CI.radius) for seed in range(20)) if (made.labels == MOVING).sum() > 300
    )
    moving = town.scan[(town.labels == MOVING)]
    assert len(static(town)) == len(town.scan) - len(moving)
    near = moving[np.linalg.norm(moving, axis=1) < 0.8 * CI.radius]
    high = near[near[:, 2] > -0.9]  # above the road and parked bumpers
    distance = np.linalg.norm(high[::5, None] - town.scene[None], axis=-1).min(1)
    assert np.median(distance) > 0.25


@pytest.mark.parametrize("train", [False, True])
def test_samples_have_exactly_their_sizes_and_starts_repeat_in_blocks(town, train):
    sample = make_sample(static(town), town.scene, CI, np.random.default_rng(0), train)
    assert sample["scan"].shape == (200, 3) and sample["scene"].shape == (2000, 3)
    assert sample["scan"].dtype == sample["scene"].dtype == np.float32
    anchor = np.tile(sample["scan"], (CI.copies, 1))
    assert len(anchor) == CI.scene_points and np.array_equal(anchor[:200], anchor[200:400])


def test_a_point_is_visible_exactly_if_its_cube_holds_one_of_the_scan():
    random = np.random.default_rng(0)
    scene, scan = random.uniform(-9, 9, (400, 3)), random.uniform(-6, 6, (30, 3))
    found = visible(scene, scan, 2.0)
    origin = scan.min(0) - 1.0
    cubes = {tuple(np.floor((point - origin) / 2.0)) for point in scan}
    expected = [tuple(np.floor((point - origin) / 2.0)) in cubes for point in scene]
    assert found.tolist() == expected and 0 < found.sum() < 400


def test_augmentation_is_a_similarity_within_its_bounds():
    random = np.random.default_rng(0)
    mirrored = 0
    for _ in range(200):
        matrix = augmentation(random)
        scale = np.cbrt(abs(np.linalg.det(matrix)))
        assert 0.95 <= scale <= 1.05
        np.testing.assert_allclose(matrix @ matrix.T, scale**2 * np.eye(3), atol=1e-12)
        assert (matrix / scale)[2, 2] > np.cos(2 * 0.18) - 1e-9  # tilted about x and y by at most 0.18 each
        mirrored += np.linalg.det(matrix) < 0
    assert 70 < mirrored < 130


def test_both_clouds_of_a_sample_are_augmented_alike(town):
    """All distances between scan and scene are scaled by one factor."""
    points = town.scene[:200]
    sample = make_sample(points, points, CI, np.random.default_rng(5), train=True)
    gap = np.linalg.norm(sample["scan"][:, None] - sample["scene"][None], axis=-1).min(1)
    assert gap.max() < 1e-5


def test_thinning_repeats_only_where_it_must():
    points = np.arange(30.0).reshape(10, 3)
    few, many = thinned(points, 6, np.random.default_rng(0)), thinned(points, 25, np.random.default_rng(0))
    assert len(np.unique(few, axis=0)) == 6
    counts = np.unique(many, axis=0, return_counts=True)[1]
    assert len(counts) == 10 and set(counts) == {2, 3}


def test_spread_points_keep_apart_as_farthest_points_do_and_random_ones_do_not():
    """Points dense near the sensor, as a scan's: every true point has a kept one about as near as by open3d's
    farthest-point sampling."""
    random = np.random.default_rng(0)
    flat = random.uniform(-1, 1, (20_000, 2)) * 16
    near = random.random(20_000) < 1 / (1 + (flat**2).sum(1))
    points = np.c_[flat, np.zeros(20_000)][near].astype(np.float32)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.astype(float)))
    ways = {
        "farthest": np.asarray(cloud.farthest_point_down_sample(100).points),
        "spread": spread(points, 100, np.random.default_rng(1)),
        "random": thinned(points, 100, np.random.default_rng(1)),
    }
    hole = {name: cKDTree(kept).query(points)[0].max() for name, kept in ways.items()}
    assert hole["spread"] < 2 * hole["farthest"] and hole["spread"] < 0.6 * hole["random"]
    assert len(np.unique(ways["spread"], axis=0)) == 100 and spread(points[:5], 12, random).shape == (12, 3)


def test_the_output_filter_is_the_released_one():
    scan = np.array([[1.0, 0, -1], [2, 0, 0], [3, 0, 1]])
    points = np.array([[0, 0, 0.5], [9.0, 0, 0], [0, 0, 1.5], [0, 0, -1.7]])
    assert kept_output(points, scan, 8.0).tolist() == [True, False, False, False]
    assert kept_output(points, scan, 8.0 + 2)[1]


def test_deduplication_keeps_the_first_of_each_cell():
    assert deduplicated(np.array([[0.05, 0, 0], [0.01, 0, 0], [0.15, 0, 0]]))[:, 0].tolist() == [0.05, 0.15]


@pytest.mark.parametrize(
    ("scan", "message"),
    [
        (np.zeros((0, 3)), r"x, scan: the cloud is \(0, 3\)"),
        (np.array([[1.0, 2, np.nan]]), "x, scan: 1 points are not finite"),
        (np.full((5, 3), 99.0), "0 points of the scan"),
        (np.array([[-5.0, -5, -3]]), "no point of the scene is near the scan"),
    ],
)
def test_bad_scans_are_refused_by_name(scan, message):
    scene = np.array([[5.0, 5, 0], [5, 5.1, 0]])
    with pytest.raises(DataError, match=message):
        make_sample(scan, scene, CI, np.random.default_rng(0), name="x")


def test_profiles_know_their_sizes_and_refuse_what_does_not_fit():
    assert CI.scene_points == 2000 and PROFILES["published"].scene_points == 180_000
    assert CI.spec.levels == 3 and CI.spec.inputs == 6 and PROFILES["published"].spec.inputs == 3
    with pytest.raises(ConfigError, match="near=9"):
        Profile(**{**vars(CI), "near": 9.0})
    with pytest.raises(ConfigError, match="one more on the way down"):
        Profile(**{**vars(CI), "up": (8,)})
