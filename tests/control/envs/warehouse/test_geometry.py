"""Rays, clearances and shortest ways against slow references."""

import heapq

import numpy as np
import pytest

from control.envs.warehouse.geodesic import Geodesic
from control.envs.warehouse.geometry import boxes_to_points, cast_rays, clearance, segments_blocked
from control.envs.warehouse.layout import HULL_RADIUS
from control.envs.warehouse.levels import LEVELS, random_layout


def stepped_ray(origin, direction, boxes, discs, limit, step=1e-3):
    """Range by walking along the ray."""
    points = origin + np.arange(0, limit, step)[:, None] * direction
    hit = (boxes_to_points(points, boxes) == 0).any(1)
    if len(discs):
        hit |= (np.linalg.norm(points[:, None] - discs[:, :2], axis=-1) <= discs[:, 2]).any(1)
    return step * hit.argmax() if hit.any() else limit


def test_rays_stop_where_a_walk_along_them_does():
    draws = np.random.default_rng(0)
    boxes = LEVELS["SimpleDynamic"].obstacles
    discs = np.array([[2.0, 2.0, 0.3], [5.0, 5.0, 0.5]])
    origins = draws.uniform(0.3, 7.7, (20, 2))
    angles = draws.uniform(0, 2 * np.pi, (20, 3))
    angles[0] = 0, np.pi / 2, np.pi  # along the axes
    directions = np.stack([np.cos(angles), np.sin(angles)], -1)
    checked = 0
    found = cast_rays(origins, directions, boxes, np.broadcast_to(discs, (20, 2, 3)), 6.0)
    for n in range(20):
        outside = boxes_to_points(origins[n : n + 1], boxes).min() > 0
        outside &= (np.linalg.norm(origins[n] - discs[:, :2], axis=1) > discs[:, 2]).all()
        for r in range(3):
            if outside:
                wanted = stepped_ray(origins[n], directions[n, r], boxes, discs, 6.0)
                assert found[n, r] == pytest.approx(wanted, abs=2e-3)
                checked += 1
    assert checked > 40


def test_a_disc_that_passes_a_box_is_blocked_below_its_distance_and_not_above():
    box = np.array([[1.0, 1.0, 2.0, 2.0]])
    begin, end = np.array([[0.0, 2.5], [0.0, 0.0], [0.5, 0.0]]), np.array([[3.0, 2.5], [0.5, 3.0], [0.5, 3.0]])
    distance = np.array([0.5, np.nan, 0.5])
    distance[1] = min(  # a slanted line: nearest is a corner
        np.linalg.norm(begin[1] + s * (end[1] - begin[1]) - corner)
        for s in np.linspace(0, 1, 20001) for corner in ([1.0, 1.0], [1.0, 2.0])
    )  # fmt: skip
    for i in range(3):
        pair = begin[i : i + 1], end[i : i + 1], box
        assert not segments_blocked(*pair, distance[i] - 1e-3)[0] and segments_blocked(*pair, distance[i] + 1e-3)[0]


def test_the_clearance_is_to_the_nearest_of_boxes_and_discs():
    boxes, discs = np.array([[0.0, 0, 1, 1]]), np.array([[[5.0, 0.5, 0.5]]])
    assert clearance(np.array([[2.0, 0.5]]), boxes, discs)[0] == pytest.approx(1.0)
    assert clearance(np.array([[4.0, 0.5]]), boxes, discs)[0] == pytest.approx(0.5)


def grid_way(layout, start, goal, cell=0.05):
    """8-connected A* on a 0.05 m grid inflated by the hull, as a slow reference."""
    n = (np.array(layout.size) / cell).astype(int)
    x, y = np.meshgrid(*(np.arange(k + 1) * cell for k in n), indexing="ij")
    free = layout.free(np.stack([x, y], -1).reshape(-1, 2), -1e-9).reshape(x.shape)
    begin, end = (tuple(np.round(np.array(p) / cell).astype(int)) for p in (start, goal))
    best, queue = {begin: 0.0}, [(0.0, begin)]
    while queue:
        d, here = heapq.heappop(queue)
        if here == end:
            return d
        if d > best[here]:
            continue
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                there = here[0] + dx, here[1] + dy
                if (dx or dy) and free[there] and d + cell * np.hypot(dx, dy) < best.get(there, np.inf):
                    best[there] = d + cell * np.hypot(dx, dy)
                    heapq.heappush(queue, (best[there], there))
    return np.inf


def test_shortest_ways_are_a_little_shorter_than_on_an_eight_connected_grid():
    for layout in (LEVELS["Simple"], random_layout(3)):
        ways = Geodesic(layout.obstacles, HULL_RADIUS, np.array(layout.goal))
        length, reference = ways.distance(layout.start), grid_way(layout, layout.start, layout.goal)
        assert 0.92 * reference <= length <= reference + 0.02


@pytest.mark.parametrize("name", list(LEVELS))
def test_a_shortest_way_keeps_the_hull_clear_and_has_its_length(name):
    layout = LEVELS[name]
    ways = Geodesic(layout.obstacles, HULL_RADIUS, np.array(layout.goal))
    path = ways.path(layout.start)
    assert not segments_blocked(path[:-1], path[1:], layout.obstacles, HULL_RADIUS - 1e-6).any()
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).sum() == pytest.approx(ways.distance(layout.start))
    wanted = {"Simple": 12, "SimpleDynamic": 12, "Simple10": 15, "Complex10": 20, "Complex": 27, "ComplexDynamic": 27}
    assert ways.distance(layout.start) == pytest.approx(wanted[name], abs=1.1)


def test_where_there_is_no_way_there_is_none():
    obstacles = np.vstack([LEVELS["Simple"].obstacles, [[0.0, 3.9, 8.0, 4.1]]])
    ways = Geodesic(obstacles, HULL_RADIUS, np.array([1.0, 7.0]))
    assert np.isinf(ways.distance(np.array([1.0, 1.0]))) and ways.path(np.array([1.0, 1.0])) is None
