"""Layouts as data: drawn at random, read from JSON, refused with the key and the remedy."""

import json

import numpy as np
import pytest

from control.envs.warehouse.env import AGVWarehouse
from control.envs.warehouse.layout import Layout, LayoutError
from control.envs.warehouse.levels import LEVELS, random_layout
from control.envs.warehouse.task import ways_to


def test_the_same_seed_draws_the_same_random_layout_and_its_way_is_long_enough():
    for seed in range(6):
        layout = random_layout(seed)
        assert layout == random_layout(seed) and layout.seed == seed
        env = AGVWarehouse("Random", "kinematic", pool=(seed, 1))
        env.reset(seed=0)
        assert env.warehouse.layout[0] == layout


def lengths_in_diagonals(seeds: range) -> list[float]:
    """Of the shortest ways of random layouts; raises where there is none."""
    found = []
    for seed in seeds:
        layout = random_layout(seed)
        found.append(ways_to(layout, layout.goal).distance(np.array(layout.start)) / layout.diagonal)
    return found


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [8, pytest.param(500, marks=pytest.mark.slow)])
def test_every_random_layout_has_a_way(count):
    """Kept with 0.1 m to spare beside the hull: without it a way may be a little shorter than 0.8 diagonals."""
    found = lengths_in_diagonals(range(count))
    assert min(found) > 0.75 and max(found) <= 2.5


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
