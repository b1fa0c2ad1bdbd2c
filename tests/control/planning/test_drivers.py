"""Drivers that know the map: they arrive, without touching, on ways hardly longer than the shortest."""

import numpy as np
import pytest

from control.envs.warehouse.env import AGVWarehouse
from control.envs.warehouse.layout import Layout
from control.envs.warehouse.measures import summary
from control.planning.drivers import DynamicWindow, PurePursuit, drive, point_ahead, shortest_way


@pytest.mark.parametrize(("layout", "backend", "count"), [("Simple", "mujoco", 10), ("Complex", "kinematic", 10),
                                                          ("Random", "kinematic", 30)])  # fmt: skip
def test_pure_pursuit_arrives_where_nothing_moves(layout, backend, count):
    env = AGVWarehouse(layout, backend, pool=(100, count))
    found = [drive(PurePursuit(), env, seed=i)[0] for i in range(count)]
    total = summary(found)
    assert total["success"] >= 0.98 and total["spl"] >= 0.9
    assert total["success"] + total["collision"] + total["timeout"] == pytest.approx(1)
    assert all(one["path_length"] >= 0.98 * one["shortest_path"] for one in found if one["is_success"])


def test_among_movers_a_dynamic_window_arrives_and_blind_pursuit_does_not():
    env = AGVWarehouse("SimpleDynamic", "kinematic")
    blind, seeing = (
        summary([drive(kind(), env, seed=i)[0] for i in range(10)]) for kind in (PurePursuit, DynamicWindow)
    )
    assert seeing["success"] >= 0.8 and seeing["success"] > blind["success"] + 0.3


def test_the_point_ahead_lies_on_the_path_that_far_on():
    path = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])
    assert point_ahead(path, np.array([1.5, 0.3]), 1.0) == pytest.approx([2.0, 0.5])
    assert point_ahead(path, np.array([2.1, 1.9]), 1.0) == pytest.approx([2.0, 2.0])


def test_a_way_keeps_the_room_there_is_and_says_where_there_is_none():
    narrow = Layout("Gap", (8.0, 8.0), ((0.0, 3.9, 7.38, 4.1),), (1.0, 1.0), (1.0, 7.0), 100)  # 0.62 m for 0.5 m
    way = shortest_way(narrow, np.array([1.0, 1.0]), np.array([1.0, 7.0]))
    assert way[:, 0].max() > 7.5
    closed = Layout("Shut", (8.0, 8.0), ((0.0, 3.9, 8.0, 4.1),), (1.0, 1.0), (1.0, 7.0), 100)
    with pytest.raises(ValueError, match="no way"):
        shortest_way(closed, np.array([1.0, 1.0]), np.array([1.0, 7.0]))
