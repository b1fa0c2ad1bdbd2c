"""Traffic: vehicles follow routes with speed limits from curvature, keep their distance, give way and brake for
pedestrians; whatever would still touch is taken out before anything is drawn."""

from dataclasses import dataclass

import numpy as np

from perception.simulation.actors import Track, corners, overlap
from perception.simulation.town import ROUTE_STEP, Route

STEP = 0.1  # seconds
WARM_UP = 1.0  # seconds simulated before time 0
LATERAL = 1.9  # m/s^2 in curves
BRAKING = 2.0  # m/s^2 planned
_AHEAD = np.arange(0.5, 26.0, 1.5)


@dataclass(eq=False)
class Vehicle:
    """One simulated vehicle (or a lorry with its trailer). `s` is the arc length of its middle on the route; `tail` is
    the arc length by which a towed trailer's middle follows (0: none), `tail_length` its length."""

    route: Route
    s: float
    desired: float
    length: float
    width: float
    tail: float = 0.0
    tail_length: float = 0.0


def speed_limits(points: np.ndarray, desired: float) -> np.ndarray:
    """Highest speed (P,) along a route of points (P, 2): `desired`, or what curvature allows, with braking in time."""
    ahead = points[np.minimum(np.arange(len(points)) + 8, len(points) - 1)]
    behind = points[np.maximum(np.arange(len(points)) - 8, 0)]
    first, second = points - behind, ahead - points
    turn = np.abs(np.arctan2(np.cross(first, second), (first * second).sum(1)))
    curvature = turn / np.maximum(0.5 * (np.linalg.norm(first, axis=1) + np.linalg.norm(second, axis=1)), 1e-3)
    limit = np.minimum(desired, np.sqrt(LATERAL / np.maximum(curvature, 1e-4)))
    squares = limit**2
    for k in range(len(squares) - 2, -1, -1):
        squares[k] = min(squares[k], squares[k + 1] + 2 * BRAKING * ROUTE_STEP)
    return np.sqrt(squares)


def on_route(points: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Points (..., 2) at arc lengths s (...); beyond the ends the route goes on straight."""
    k = np.asarray(s, np.float64) / ROUTE_STEP
    i = np.clip(np.floor(k).astype(np.int64), 0, len(points) - 2)
    return points[i] + (k - i)[..., None] * (points[i + 1] - points[i])


def body(points: np.ndarray, s: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Middle (..., 2) and yaw (...) of a rigid body whose axles, 0.6 lengths apart, follow the route."""
    front, rear = on_route(points, s + 0.3 * length), on_route(points, s - 0.3 * length)
    chord = front - rear
    return 0.5 * (front + rear), np.arctan2(chord[..., 1], chord[..., 0])


def _circles(vehicle: Vehicle, s: float) -> np.ndarray:
    """Circles (C, 3) = x, y, radius that cover the vehicle and its trailer."""
    at = [f * vehicle.length for f in (-0.36, 0.0, 0.36)]
    if vehicle.tail:
        at += [-vehicle.tail + f * vehicle.tail_length for f in (-0.4, -0.2, 0.0, 0.2, 0.4)]
    xy = on_route(vehicle.route.points, s + np.array(at))
    return np.concatenate([xy, np.full((len(at), 1), 0.55 * vehicle.width)], 1)


def drive(vehicles: list[Vehicle], walkers: list[Track], duration: float) -> tuple[np.ndarray, np.ndarray]:
    """Simulate. Earlier vehicles have the right of way over later ones where routes cross; everybody keeps behind a
    vehicle going the same way and stops for pedestrians.

    Returns: times (T,) from -WARM_UP to `duration`, arc lengths (T, N) of the vehicles' middles.
    """
    times = np.arange(-WARM_UP, duration + STEP, STEP)
    limits = [speed_limits(v.route.points, v.desired) for v in vehicles]
    s = np.array([v.s for v in vehicles])
    speed = np.array(
        [limit[min(int(v.s / ROUTE_STEP), len(limit) - 1)] for v, limit in zip(vehicles, limits, strict=True)]
    )
    history = np.empty((len(times), len(vehicles)))
    people = np.zeros((len(times), len(walkers), 3))
    for k, walker in enumerate(walkers):
        people[:, k] = np.stack([walker.at(t)[:2].tolist() + [0.5] for t in times])
    for step in range(len(times)):
        history[step] = s
        circles = [_circles(v, x) for v, x in zip(vehicles, s, strict=True)]
        owner = np.repeat(np.arange(len(vehicles)), [len(c) for c in circles])
        obstacles = np.concatenate([*circles, people[step]])
        owner = np.concatenate([owner, np.full(len(walkers), -1)])
        heading = np.array([body(v.route.points, np.array(x), v.length)[1] for v, x in zip(vehicles, s, strict=True)])
        for k, v in enumerate(vehicles):
            path = on_route(v.route.points, s[k] + v.length / 2 + _AHEAD)
            near = np.linalg.norm(obstacles[:, :2] - path[0], axis=1) < 32
            near &= owner != k
            candidates = np.flatnonzero(near)
            gap = np.inf
            if len(candidates):
                distance = np.linalg.norm(path[:, None] - obstacles[None, candidates, :2], axis=-1)
                blocked = distance < v.width / 2 + obstacles[candidates, 2] + 0.35
                other = owner[candidates]
                along = np.cos(heading[np.maximum(other, 0)] - heading[k]) > 0.5
                yields = (other < 0) | along | (other < k)
                hit = np.flatnonzero((blocked & yields).any(1))
                gap = _AHEAD[hit[0]] if len(hit) else np.inf
            limit = limits[k][min(int(s[k] / ROUTE_STEP), len(limits[k]) - 1)]
            wanted = min(limit, np.sqrt(2 * 2.5 * max(gap - 2.5, 0.0)) if np.isfinite(gap) else np.inf)
            speed[k] = max(0.0, speed[k] + np.clip((wanted - speed[k]) / 0.4, -6.0, 1.8) * STEP)
        s = s + speed * STEP
    return times, history


def walk(points: np.ndarray, start: float, speed: float, duration: float, height) -> Track:
    """A pedestrian along a polyline (P, 2) sampled every ROUTE_STEP, from arc length `start`; stands at its end.
    `height` maps (P, 2) to the ground's height."""
    times = np.arange(-WARM_UP, duration + STEP, STEP)
    s = np.clip(start + speed * (times + WARM_UP), 0.3, (len(points) - 1) * ROUTE_STEP - 0.3)
    xy, yaw = body(points, s, 0.6)
    return Track(times, np.column_stack([xy, height(xy), np.unwrap(yaw)]))


def colliding(tracks: list[Track], sizes: np.ndarray, protected: int, duration: float, margin: float = 0.1) -> set[int]:
    """Indices of actors to take out so that no two footprints ever touch (checked every 0.2 s).

    Args: tracks; sizes (N, 2) length, width; the first `protected` are never taken out. Of two that touch, a moving one
    goes rather than a still one, the later rather than the earlier.
    """
    removed: set[int] = set()
    reach = 0.5 * np.linalg.norm(sizes, axis=1) + margin
    movers = np.array([track.moves for track in tracks])
    for time in np.arange(-0.2, duration + 0.2, 0.2):
        states = np.stack([track.at(time) for track in tracks])
        distance = np.linalg.norm(states[:, None, :2] - states[None, :, :2], axis=-1)
        close = np.triu(distance < reach[:, None] + reach[None], 1) & (movers[:, None] | movers[None])
        for a, b in np.argwhere(close):
            if a in removed or b in removed:
                continue
            quads = [corners(*states[k, [0, 1, 3]], sizes[k, 0] + margin, sizes[k, 1] + margin) for k in (a, b)]
            if overlap(*quads):
                goes = b if (movers[b] or not movers[a] or a < protected) else a
                removed.add(int(goes))
    return removed
