"""What is not annotated: houses, trees, lamps, traffic lights, signs and street furniture."""

import numpy as np

from common.geometry import yaw_pose
from perception.simulation import street_furniture as shapes
from perception.simulation.ground import DIRT, GRASS, PAVING, RESOLUTION, Ground
from perception.simulation.populate import CELL, Plots
from perception.simulation.solids import SolidsBuilder, make_palette
from perception.simulation.town import SIDEWALK, Town, resample

# per district: lot width, depth, height ranges (m), setback behind the sidewalk, probability to build, trees per kerb
DISTRICTS = {
    "downtown": ((14, 30), (12, 22), (10, 38), (0.5, 9), 0.92, 0.45),
    "residential": ((8, 15), (8, 12), (4.5, 8.5), (4.5, 12), 0.8, 0.8),
    "industrial": ((20, 42), (16, 30), (6, 13), (5, 16), 0.65, 0.2),
    "park": ((10, 18), (9, 14), (4, 9), (9, 20), 0.3, 1.0),
}


def decorate(
    town: Town, ground: Ground, plots: Plots, pavement: np.ndarray, solids: SolidsBuilder, rng, dusk: bool
) -> None:
    """Add the scenery of every road; call it after the actors have taken their places."""
    for index, road in enumerate(town.roads):
        ends = (town.radii[road.start], town.radii[road.end])
        for side in (-1, 1):
            _kerb_row(town, road, side, ends, ground, plots, pavement, solids, rng, dusk)
        _signals(town, index, road, plots, solids, rng, dusk)
    for road in town.roads:
        for side in (-1, 1):
            _houses(town, road, side, plots, pavement, solids, rng)
    _wild(town, plots, pavement, solids, rng)


def _put(solids, mesh, rng, x: float, y: float, z: float, yaw: float, dusk: bool = False) -> None:
    solids.add(mesh, make_palette(rng, dusk=dusk), yaw_pose(x, y, z, yaw))


def _along(line: np.ndarray, spacing: tuple[float, float], rng):
    """x, y, heading at random intervals of a polyline."""
    points = resample(line, 0.5)
    at = rng.uniform(0, spacing[1])
    while at < 0.5 * (len(points) - 2):
        k = int(at / 0.5)
        heading = points[k + 1] - points[k]
        yield float(points[k, 0]), float(points[k, 1]), float(np.arctan2(heading[1], heading[0]))
        at += rng.uniform(*spacing)


def _kerb_row(town, road, side, ends, ground, plots, pavement, solids, rng, dusk) -> None:
    trees = DISTRICTS[town.district][5]
    z = float(ground.height(road.offset(side * (road.half_width + 0.6))[len(road.points) // 2][None])[0])
    kerb = road.offset(side * (road.half_width + 0.55), ends[0] + 4, ends[1] + 4)
    inwards = -side * np.pi / 2
    for x, y, heading in _along(kerb, (7, 16), rng):
        draw = rng.random()
        if draw < 0.55 * trees and plots.reserve(x, y, 0, 0.5, 0.5):
            _put(solids, shapes.tree(rng.uniform(5, 9), rng), rng, x, y, z, rng.uniform(0, 6))
        elif 0.6 < draw < 0.75 and plots.reserve(x, y, 0, 0.3, 0.3):
            _put(solids, shapes.lamp_post(rng.uniform(6.5, 8.5), 1.8), rng, x, y, z, heading + inwards, dusk)
        elif 0.75 < draw < 0.87 and plots.reserve(x, y, 0, 0.3, 0.3):
            facing = heading + (0 if side > 0 else np.pi)
            _put(solids, shapes.sign(rng.uniform(2.2, 3), rng), rng, x, y, z, facing)
        elif draw > 0.87 and plots.reserve(x, y, heading, 0.8, 1.4):
            _put(solids, shapes.street_box(rng), rng, x, y, z, heading + inwards)
    fence = road.offset(side * (road.half_width + SIDEWALK + 1.0), ends[0] + 2, ends[1] + 2)
    for x, y, heading in _along(fence, (6, 18), rng):
        if rng.random() < 0.4 and plots.reserve(x, y, 0, 1.5, 1.5, pavement):
            mesh = shapes.bush(rng.uniform(0.8, 2), rng) if rng.random() < 0.6 else shapes.street_box(rng)
            _put(solids, mesh, rng, x, y, z, heading + inwards)


def _signals(town, index, road, plots, solids, rng, dusk) -> None:
    for crossing, forward in ((road.end, True), (road.start, False)):
        if len(town.roads_at(crossing)) < 3 or rng.random() < 0.3:
            continue
        line = town.lane(index, forward, road.half_width + 0.7)
        heading = line[-1] - line[-2]
        yaw = float(np.arctan2(heading[1], heading[0]))
        x, y = line[-1]
        if plots.reserve(float(x), float(y), 0, 0.4, 0.4):
            mesh = shapes.traffic_light(5.8, min(road.half_width, 4.5))
            _put(solids, mesh, rng, float(x), float(y), 0.13, yaw + np.pi / 2, dusk)


def _houses(town, road, side, plots, pavement, solids, rng) -> None:
    widths, depths, heights, setbacks, probability, _ = DISTRICTS[town.district]
    edge = road.offset(side * (road.half_width + SIDEWALK))
    points = resample(edge, 0.5)
    at = 2.0
    while at < 0.5 * len(points):
        width, depth = rng.uniform(*widths), rng.uniform(*depths)
        k = min(int((at + width / 2) / 0.5), len(points) - 2)
        heading = points[k + 1] - points[k]
        yaw = float(np.arctan2(heading[1], heading[0]))
        setback = rng.uniform(*setbacks)
        away = side * np.array([-np.sin(yaw), np.cos(yaw)])
        x, y = points[k] + (setback + depth / 2) * away
        at += width + (rng.uniform(0.3, 2) if town.district == "downtown" else rng.uniform(2, 7))
        if rng.random() > probability:
            continue
        if plots.reserve(float(x), float(y), yaw, width + 0.6, depth + 2.4, pavement):
            height = rng.uniform(*heights) if town.district != "downtown" else rng.triangular(9, 14, 38)
            _put(solids, shapes.building(width, depth, height, rng), rng, float(x), float(y), 0.1, yaw)


def _wild(town, plots, pavement, solids, rng) -> None:
    """Trees and bushes on open ground."""
    count = int(
        {"downtown": 60, "residential": 150, "industrial": 50, "park": 260}[town.district]
        * np.prod(town.extent)
        / 320**2
    )
    for _ in range(count):
        x, y = rng.uniform(15, np.array(town.extent) - 15)
        if rng.random() < 0.7:
            if plots.reserve(x, y, 0, 1.5, 1.5, pavement):
                _put(solids, shapes.tree(rng.uniform(5, 12), rng), rng, x, y, 0.1, rng.uniform(0, 6))
        elif plots.reserve(x, y, 0, 1.2, 1.2, pavement):
            _put(solids, shapes.bush(rng.uniform(0.8, 2.2), rng), rng, x, y, 0.1, rng.uniform(0, 6))


def pavement_mask(ground: Ground, plots: Plots) -> np.ndarray:
    """Cells of `plots` that are road or sidewalk: the ground's labels sampled at the cells' middles."""
    rows, cols = plots.taken.shape
    step = CELL / RESOLUTION
    r = np.clip(((np.arange(rows) + 0.5) * step).astype(int), 0, ground.labels.shape[0] - 1)
    c = np.clip(((np.arange(cols) + 0.5) * step).astype(int), 0, ground.labels.shape[1] - 1)
    labels = ground.labels[np.ix_(r, c)]
    return (~np.isin(labels, (DIRT, GRASS, PAVING))).astype(np.uint8)
