"""The street network: a jittered grid of crossings joined by curved roads, with the lanes that cars, cycles and
pedestrians follow. Right-hand traffic; coordinates are metres of the global frame, all positive."""

from dataclasses import dataclass

import numpy as np

LANE = 3.6
PARKING = 2.7
SIDEWALK = 3.6
MARGIN = 75.0
STEP = 0.5  # spacing of centreline points


@dataclass(frozen=True)
class Road:
    """A road from crossing `start` to crossing `end`; `points` (P, 2) is its centreline, `lanes` per direction."""

    start: int
    end: int
    points: np.ndarray
    lanes: int
    parking: bool

    @property
    def half_width(self) -> float:
        """Kerb's distance from the centreline."""
        return self.lanes * LANE + (PARKING if self.parking else 0.4)

    def offset(self, lateral: float, low: float = 0.0, high: float = 0.0) -> np.ndarray:
        """The centreline shifted by `lateral` to the left (negative: right), cut by `low` and `high` metres."""
        heading = np.gradient(self.points, axis=0)
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        shifted = self.points + lateral * np.stack([-heading[:, 1], heading[:, 0]], -1)
        arc = arc_length(self.points)
        return shifted[(arc >= low) & (arc <= arc[-1] - high)]


@dataclass(frozen=True)
class Town:
    """Crossings (M, 2) with their radii (M,), roads, and the extent (width, height) of the map in metres."""

    crossings: np.ndarray
    radii: np.ndarray
    roads: list[Road]
    extent: tuple[float, float]
    district: str

    def roads_at(self, crossing: int) -> list[int]:
        return [k for k, road in enumerate(self.roads) if crossing in (road.start, road.end)]

    def lane(self, road: int, forward: bool, lateral: float) -> np.ndarray:
        """A line (P, 2) along a road in the driving direction, `lateral` metres right of the centreline, between the
        two crossings' mouths."""
        r = self.roads[road]
        line = r.offset(-lateral if forward else lateral, self.radii[r.start], self.radii[r.end])
        return line if forward else line[::-1]


def arc_length(points: np.ndarray) -> np.ndarray:
    """Arc length (P,) at each of the points (P, 2)."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def resample(points: np.ndarray, step: float) -> np.ndarray:
    """The polyline with points every `step` metres (the last step may be shorter)."""
    arc = arc_length(points)
    at = np.arange(0, arc[-1], step)
    return np.stack([np.interp(at, arc, points[:, k]) for k in (0, 1)], -1)


def bezier(p0, p1, p2, p3, step: float = STEP) -> np.ndarray:
    """A cubic Bezier curve, points `step` apart, both ends included."""
    t = np.linspace(0, 1, 200)[:, None]
    curve = (1 - t) ** 3 * p0 + 3 * (1 - t) ** 2 * t * p1 + 3 * (1 - t) * t**2 * p2 + t**3 * p3
    arc = arc_length(curve)
    at = np.linspace(0, arc[-1], max(2, int(np.ceil(arc[-1] / step)) + 1))
    return np.stack([np.interp(at, arc, curve[:, k]) for k in (0, 1)], -1)


def connect(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The curve through a crossing from the end of one lane to the start of the next, tangent to both."""
    a, b = before[-1], after[0]
    gap = np.linalg.norm(b - a)
    u = (before[-1] - before[-2]) / np.linalg.norm(before[-1] - before[-2])
    v = (after[1] - after[0]) / np.linalg.norm(after[1] - after[0])
    reach = gap * np.clip(0.38 + 0.17 * (1 - u @ v), 0.38, 0.55)
    return bezier(a, a + reach * u, b - reach * v, b)[1:-1]


def make_town(rng: np.random.Generator, size: int, district: str) -> Town:
    """A town of size x size crossings. Every crossing keeps two roads or more, so traffic never meets a dead end."""
    spacing = rng.uniform(82, 100)
    index = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="xy"), -1).reshape(-1, 2)
    crossings = MARGIN + spacing * index + rng.uniform(-11, 11, (size * size, 2))
    turn = rng.uniform(-0.22, 0.22, size * size)
    pairs = [(y * size + x, y * size + x + 1, 0) for y in range(size) for x in range(size - 1)]
    pairs += [(y * size + x, (y + 1) * size + x, 1) for y in range(size - 1) for x in range(size)]
    degree = np.bincount([n for a, b, _ in pairs for n in (a, b)], minlength=size * size)
    kept = []
    for a, b, axis in pairs:
        if rng.random() < 0.16 and degree[a] > 2 and degree[b] > 2:
            degree[[a, b]] -= 1
        else:
            kept.append((a, b, axis))
    # a whole row or column is an avenue with two lanes per direction
    avenue = (int(rng.integers(2)), int(rng.integers(size))) if rng.random() < 0.7 else (-1, -1)
    roads = []
    for a, b, axis in kept:
        heading = [axis * np.pi / 2 + turn[n] + rng.uniform(-0.1, 0.1) for n in (a, b)]
        reach = np.linalg.norm(crossings[b] - crossings[a]) * rng.uniform(0.3, 0.48)
        u, v = (np.array([np.cos(angle), np.sin(angle)]) for angle in heading)
        points = bezier(crossings[a], crossings[a] + reach * u, crossings[b] - reach * v, crossings[b])
        line = index[a][1 - axis]
        lanes = 2 if (axis, line) == avenue else 1
        roads.append(Road(a, b, points, lanes, bool(rng.random() < (0.6 if lanes == 1 else 0.4))))
    radii = np.zeros(size * size)
    for n in range(size * size):
        radii[n] = max(road.half_width for road in roads if n in (road.start, road.end)) + 6.0
    extent = crossings.max(0) + MARGIN
    return Town(crossings, radii, roads, (float(np.ceil(extent[0])), float(np.ceil(extent[1]))), district)


@dataclass(frozen=True)
class Route:
    """A path through the town: `points` (P, 2) every 0.25 m, and the legs (road, forward) it takes."""

    points: np.ndarray
    legs: tuple[tuple[int, bool], ...]


ROUTE_STEP = 0.25


def make_route(
    town: Town,
    rng: np.random.Generator,
    road: int,
    forward: bool,
    length: float,
    lateral: float | None = None,
    lane: int = 0,
    turning: float = 0.5,
) -> Route:
    """A route that begins at the start of a road and takes random turns until it is at least `length` metres long.

    Args: lane counts from the middle; lateral overrides it with a fixed distance from the kerb (cycles); turning is the
        probability to turn off where going straight on is possible as well.
    """
    legs, pieces, total = [(road, forward)], [], 0.0
    while True:
        current = town.roads[road]
        offset = LANE * (min(lane, current.lanes - 1) + 0.5) if lateral is None else current.half_width - lateral
        line = town.lane(road, forward, offset)
        if pieces:
            pieces.append(connect(pieces[-1], line))
        pieces.append(line)
        total = sum(arc_length(piece)[-1] for piece in pieces)
        if total >= length:
            break
        crossing = current.end if forward else current.start
        exits = [k for k in town.roads_at(crossing) if k != road]
        arriving = line[-1] - line[-2]
        straightness = []
        for k in exits:
            leaving = town.lane(k, town.roads[k].start == crossing, 0.0)
            straightness.append(
                arriving
                @ (leaving[1] - leaving[0])
                / np.linalg.norm(arriving)
                / np.linalg.norm(leaving[1] - leaving[0])
            )
        order = np.argsort(straightness)[::-1]
        go_on = len(exits) == 1 or (straightness[order[0]] > 0.7 and rng.random() > turning)
        road = (
            exits[order[0]]
            if go_on
            else exits[order[rng.integers(1, len(exits))] if straightness[order[0]] > 0.7 else rng.choice(order)]
        )
        forward = town.roads[road].start == crossing
        legs.append((road, forward))
    return Route(resample(np.concatenate(pieces), ROUTE_STEP), tuple(legs))
