"""The LiDAR sweep: 32 rings, range noise, drop-out, intensity from reflectivity and incidence."""

import numpy as np

from common.geometry import invert, transform
from perception.simulation.ground import REFLECTIVITY
from perception.simulation.render import GROUND, SKY, Snapshot
from perception.simulation.rig import EGO_BACK, EGO_FRONT, EGO_HALF_WIDTH, EGO_HEIGHT, beam_elevations

MAX_RANGE = 70.0
MIN_RANGE = 1.0
RANGE_SIGMA = 0.02


def beam_directions(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit directions (32 * columns, 3) in the lidar frame, column by column as the head turns clockwise, and rings."""
    azimuth = -np.pi / 2 - 2 * np.pi * np.arange(columns) / columns  # the turn ends behind the car, as in nuScenes
    elevation = beam_elevations()
    a, e = np.repeat(azimuth, len(elevation)), np.tile(elevation, columns)
    directions = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
    return directions, np.tile(np.arange(len(elevation)), columns)


def sweep(
    snapshot: Snapshot, lidar2global: np.ndarray, lidar2ego: np.ndarray, columns: int, rng
) -> tuple[np.ndarray, np.ndarray]:
    """One turn of the head at one rigid pose.

    Returns: points (P, 5) float32 x, y, z, intensity (0..255), ring in the lidar frame, as a nuScenes .pcd.bin holds
    them; instances (P,) that the rays met (-1: none).
    """
    beams, ring = beam_directions(columns)
    directions = (beams @ lidar2global[:3, :3].T).astype(np.float32)
    hits = snapshot.cast(lidar2global[:3, 3], directions)
    keep = np.flatnonzero((hits.distance > MIN_RANGE) & (hits.distance < MAX_RANGE))
    distance, surface = hits.distance[keep].astype(np.float64), hits.surface[keep]
    cosine = np.abs((hits.normal[keep] * directions[keep]).sum(1))
    stage = snapshot.stage
    reflectivity = np.zeros(len(keep), np.float32)
    on_ground = surface == GROUND
    points = lidar2global[:3, 3] + distance[:, None] * directions[keep]
    reflectivity[on_ground] = REFLECTIVITY[stage.ground.label(points[on_ground, :2])]
    reflectivity[~on_ground] = stage.surface[surface[~on_ground], 2]
    returned = reflectivity * (0.3 + 0.7 * cosine)
    intensity = np.clip(110 * returned * rng.lognormal(0, 0.3, len(keep)), 0, 255).round()
    # weak echoes of far, dark or grazed surfaces get lost; so does one in fifty of all
    echo = returned * np.where(on_ground, 1 + cosine * 8, 2) * (25 / np.maximum(distance, 5)) ** 2
    lost = rng.random(len(keep)) < 0.02 + 0.98 * np.exp(-18 * echo)
    measured = distance + rng.normal(0, RANGE_SIGMA, len(keep))
    xyz = beams[keep] * measured[:, None]
    inside = _inside_ego(lidar2ego, xyz)
    good = (surface != SKY) & ~lost & ~inside
    cloud = np.column_stack([xyz, intensity, ring[keep]])[good].astype(np.float32)
    return cloud, snapshot.instance_of(surface[good])


def _inside_ego(lidar2ego: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    """Points in, or under, the car that carries the sensor: their rays would have met the car itself."""
    p = transform(lidar2ego, xyz)
    return (
        (p[:, 0] > EGO_BACK - 0.1)
        & (p[:, 0] < EGO_FRONT + 0.1)
        & (np.abs(p[:, 1]) < EGO_HALF_WIDTH + 0.1)
        & (p[:, 2] < EGO_HEIGHT + 0.2)
    )


def count_inside(cloud: np.ndarray, lidar2global: np.ndarray, box2global: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Points of a sweep (P, 3+) in each of Q boxes; `box2global` (Q, 4, 4) of their bottoms' centres, `size` (Q, 3) =
    l, w, h. All in float64 in the global frame."""
    points = transform(lidar2global, cloud[:, :3].astype(np.float64))
    points = points[np.argsort(points[:, 0], kind="stable")]
    counts = np.zeros(len(size), np.int64)
    for k, (frame, extent) in enumerate(zip(invert(box2global), size, strict=True)):
        x, reach = box2global[k, 0, 3], np.hypot(*extent[:2]) / 2 + 0.01  # only the points abreast of the box
        low, high = np.searchsorted(points[:, 0], (x - reach, x + reach))
        local = transform(frame, points[low:high])
        inside = (np.abs(local[:, :2]) <= extent[:2] / 2).all(1) & (local[:, 2] >= 0) & (local[:, 2] <= extent[2])
        counts[k] = inside.sum()
    return counts
