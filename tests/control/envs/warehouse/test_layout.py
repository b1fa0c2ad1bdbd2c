"""Layouts as data: drawn at random, read from JSON, refused with the key and the remedy."""

import json

import numpy as np
import pytest

from control.envs.warehouse.env import AGVWarehouse
from control.envs.warehouse.geodesic import Geodesic
from control.envs.warehouse.layout import HULL_RADIUS, Layout, LayoutError
from control.envs.warehouse.levels import LEVELS, MARGIN, random_layout


def test_the_same_seed_draws_the_same_random_layout_and_its_way_is_long_enough():
    for seed in range(6):
        layout = random_layout(seed)
        assert layout == random_layout(seed) and layout.seed == seed
        env = AGVWarehouse("Random", "kinematic", pool=(seed, 1))
        env.reset(seed=0)
        assert env.warehouse.layout[0] == layout


def in_diagonals(layout: Layout, margin: float) -> float:
    """Shortest way of a hull with that much to spare."""
    ways = Geodesic(layout.obstacles, HULL_RADIUS + margin, np.array(layout.goal))
    return ways.distance(np.array(layout.start)) / layout.diagonal


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [8, pytest.param(500, marks=pytest.mark.slow)])
def test_every_random_layout_has_a_way(count):
    """Of 0.8 to 2.5 diagonals with 0.1 m to spare beside the hull. The hull itself may find a gap that is nearer."""
    layouts = [random_layout(seed) for seed in range(count)]
    spare, own = ([in_diagonals(one, margin) for one in layouts] for margin in (MARGIN, 0.0))
    assert min(spare) >= 0.8 and max(spare) <= 2.5
    assert all(b <= a + 1e-9 for a, b in zip(spare, own, strict=True)) and min(own) > 0
    assert np.mean(np.array(own) < 0.75) <= 0.02  # 5 of 500, the shortest 0.58


def test_a_layout_survives_its_json(tmp_path):
    path = tmp_path / "hall.json"
    LEVELS["SimpleDynamic"].to_json(path)
    assert Layout.from_json(path) == LEVELS["SimpleDynamic"]
    env = AGVWarehouse(path, "kinematic")
    assert env.reset(seed=0)[0].shape == (47,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": [5.5, 2.2]}, "inside the wall or shelf"),
        ({"size": [8.0]}, "size"),
        ({"boxes": [[1, 2, 3]]}, r"boxes\[0\]"),
        ({"boxes": [[3, 2, 1, 4]]}, "x low"),
        ({"max_steps": 0}, "max_steps"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"start": [1.0, float("nan")]}, "start"),
        ({"movers": [{"begin": [1, 1]}]}, "movers"),
        ({"movers": [{"begin": [1, 1], "end": [2, 2], "speed": "fast"}]}, r"movers\[0\].*speed"),
        ({"goal_mode": "moving"}, "goal_end"),
        ({"goal_mode": "moving", "goal_end": [1.0, 1.0]}, "a line from"),  # through the wall
        ({"goal_mode": "moving", "goal_end": [6.0, 7.0], "goal_speed": 0}, "goal_speed"),
        ({"start": [5.5, 3.2], "start_jitter": 0.9}, "not that much room"),  # the square holds a shelf, its corners not
        ({"start_jitter": None}, "start_jitter"),
    ],
)
def test_a_malformed_layout_is_refused_by_file_and_key(tmp_path, change, message):
    path = tmp_path / "hall.json"
    path.write_text(json.dumps({**json.loads(LEVELS["Simple"].to_json()), **change}))
    with pytest.raises(LayoutError, match=message) as caught:
        Layout.from_json(path)
    assert str(path) in str(caught.value)


def test_an_unsolvable_layout_is_refused_when_the_environment_is_made():
    closed = Layout("Closed", (8.0, 8.0), ((0.0, 3.9, 8.0, 4.1),), (1.0, 1.0), (1.0, 7.0), 100)
    with pytest.raises(LayoutError, match=r"no way.*leave a gap of more than 0\.5 m"):
        AGVWarehouse(closed)


def test_a_start_or_goal_in_a_closed_part_is_refused_at_the_reset():
    closet = ((5.0, 5.0, 5.2, 8.0), (5.0, 5.0, 8.0, 5.2))
    env = AGVWarehouse(Layout("Closet", (8.0, 8.0), closet, (1.0, 1.0), (1.0, 7.0), 100), "kinematic")
    for key in ("start", "goal"):
        with pytest.raises(LayoutError, match="no way"):
            env.reset(seed=0, options={key: (6.5, 6.5)})
    assert env.reset(seed=0, options={"start": (3.0, 3.0, 0.5)})[1]["pose"] == (3.0, 3.0, 0.5)


def test_a_layout_seed_is_that_of_the_layout_and_draws_stay_in_the_pool():
    env = AGVWarehouse("Random", "kinematic", pool=(7, 3))
    env.reset(seed=0, options={"layout_seed": 12})
    assert env.warehouse.layout[0] == random_layout(12)
    assert {env.reset() and env.warehouse.layout[0].seed for _ in range(30)} == {7, 8, 9}
