"""Pictures of clouds: what is seen from behind, and a file that shows it."""

import numpy as np
import pytest
from PIL import Image

from perception.completion.pictures import CAMERA, draw_clouds, limits, seen_from_behind


def test_what_lies_ahead_is_in_the_middle_and_what_lies_left_is_left():
    points = np.array([[20.0, 0, -1.7], [20.0, 5, -1.7], [-30.0, 0, 0]])
    place, depth, row = seen_from_behind(points)
    assert sorted(row) == [0, 1], "a point behind the camera is shown"
    middle, left = place[row.tolist().index(0)], place[row.tolist().index(1)]
    assert middle[0] == pytest.approx(0) and left[0] < -0.1
    assert (depth > 20).all() and CAMERA[0] < 0


def test_nearer_points_are_drawn_over_farther_ones():
    _place, depth, row = seen_from_behind(np.array([[5.0, 0, 0], [50.0, 0, 0], [20.0, 1, 0]]))
    assert row.tolist() == [1, 2, 0] and (np.diff(depth) < 0).all()


def test_a_frame_holds_all_but_strays_and_keeps_its_shape():
    random = np.random.default_rng(0)
    places = np.concatenate([random.uniform([2, -1], [10, 1], (2000, 2)), [[500.0, 500]]])
    (left, right), (low, high) = limits(places, 0.5)
    assert left < 2.1 and 9.9 < right < 12 and high - low == pytest.approx(0.5 * (right - left))
    assert low < -1 < 1 < high


def test_every_cloud_has_its_column(tmp_path):
    random = np.random.default_rng(0)
    clouds = {"left": random.uniform(-8, 8, (3000, 3)), "right": np.array([[0.0, 0, 0]])}
    image = np.asarray(Image.open(draw_clouds(clouds, 8.0, tmp_path / "a" / "b.png")).convert("L")).astype(float)
    left, right = np.array_split(image, 2, axis=1)
    assert left.mean() > 3 * right.mean() > 0, "many points light more of a column than one"
