"""Who is where: parked vehicles, building sites and cycle racks along the ego's route, traffic and people around it."""

from dataclasses import dataclass

import cv2
import numpy as np

from perception.simulation.actors import Actor, Track, corners, draw_size, make_actor
from perception.simulation.ground import Ground, crosswalk
from perception.simulation.motion import WARM_UP, Vehicle, body, colliding, drive, walk
from perception.simulation.rig import EGO_BACK, EGO_FRONT, EGO_HALF_WIDTH
from perception.simulation.town import LANE, ROUTE_STEP, SIDEWALK, Town, arc_length, make_route, resample

EGO_LENGTH, EGO_WIDTH = EGO_FRONT - EGO_BACK, 2 * EGO_HALF_WIDTH
EGO_MIDDLE = 0.5 * (EGO_FRONT + EGO_BACK)  # of the body, ahead of the rear axle
CELL = 0.2


# What lines the kerbs, drawn like cards so that every kind comes up soon, and the metres that the long ones take.
FEATURES = ("site", "bus", "rack", "barriers", "trailer", "motorcycles", "truck", "cones", "digger", "cars")
FEATURES += ("trailer", "motorcycles", "bus")
_ROOM = {"bus": 15.0, "trailer": 15.5, "truck": 10.0, "digger": 9.0, "site": 21.0, "cars": 13.0, "barriers": 14.0}


class Plots:
    """Which ground is taken: a raster on which footprints are reserved."""

    def __init__(self, extent: tuple[float, float]):
        self.taken = np.zeros((int(extent[1] / CELL) + 1, int(extent[0] / CELL) + 1), np.uint8)

    def reserve(
        self, x: float, y: float, yaw: float, length: float, width: float, keep_off: np.ndarray | None = None
    ) -> bool:
        """Take a rectangle if it is free and inside the map; `keep_off` masks cells of the raster to stay away from."""
        pixels = np.round(corners(x, y, yaw, length, width) / CELL).astype(np.int32)
        low, high = pixels.min(0), pixels.max(0) + 1
        if (low < 0).any() or (high > self.taken.shape[::-1]).any():
            return False
        shape = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillConvexPoly(shape, pixels - low, 1)
        window = (slice(low[1], high[1]), slice(low[0], high[0]))
        if (shape & self.taken[window]).any() or (keep_off is not None and (shape & keep_off[window]).any()):
            return False
        self.taken[window] |= shape
        return True


@dataclass
class Cast:
    """The scene's people and things: `actors`, and the ego's track (state = rear axle on the ground, yaw)."""

    actors: list[Actor]
    ego: Track


class Populator:
    """Places the actors of one scene. Needs the town, its ground, the seconds to fill and whether lamps are lit."""

    def __init__(self, town: Town, ground: Ground, plots: Plots, rng: np.random.Generator, duration: float, dusk: bool):
        self.town, self.ground, self.plots, self.rng = town, ground, plots, rng
        self.duration, self.dusk = duration, dusk
        self.actors: list[Actor] = []
        speed = rng.uniform(5.5, 11.5)
        self.ego_desired = speed
        length = speed * (duration + WARM_UP) + 90
        starts = [(k, f) for k in range(len(town.roads)) for f in (True, False)]
        # scenes that begin on the way to the middle of the map are twice as likely
        middle = np.array(town.extent) / 2
        ends = [town.crossings[town.roads[k].end if f else town.roads[k].start] for k, f in starts]
        weights = 1 + (np.linalg.norm(np.array(ends) - middle, axis=1) < 75)
        road, forward = starts[rng.choice(len(starts), p=weights / weights.sum())]
        lane = int(rng.integers(town.roads[road].lanes))
        turning = rng.choice([0.25, 0.75])
        self.ego_route = make_route(town, rng, road, forward, length + 60, lane=lane, turning=turning)
        self.ego_start = rng.uniform(8, 35)

    def still(self, name: str, x: float, y: float, yaw: float, keep_off=None, gap: float = 0.25, **options) -> bool:
        """A standing actor, if its place is free."""
        size = draw_size(self.rng, name, options.get("rider", False))
        if not self.plots.reserve(x, y, yaw, size[0] + gap, size[1] + gap, keep_off):
            return False
        z = float(self.ground.height(np.array([[x, y]]))[0])
        track = Track.still(x, y, z, yaw)
        self.actors.append(make_actor(self.rng, name, track, size=size, dusk=False, **options))
        return True

    # -- along the kerb ------------------------------------------------------------------------------------------------

    def kerbside(self, pavement: np.ndarray) -> None:
        """Fill the strips beside the roads of the ego's route, and thinly those of the others."""
        on_route = dict.fromkeys(road for road, _ in self.ego_route.legs)
        deck: list[str] = []
        for road in [*on_route, *(k for k in range(len(self.town.roads)) if k not in on_route)]:
            dense = road in on_route
            r = self.town.roads[road]
            for side in (-1, 1):
                lateral = r.lanes * LANE + 1.45 if r.parking else r.half_width + SIDEWALK + 1.9
                line = resample(
                    r.offset(-side * lateral, self.town.radii[r.start] + 7, self.town.radii[r.end] + 7), 0.5
                )
                if side < 0:
                    line = line[::-1]
                keep_off = None if r.parking else pavement
                at, end = self.rng.uniform(1, 8), arc_length(line)[-1] if len(line) > 1 else 0.0
                while at < end - 7:
                    if self.rng.random() < (0.58 if dense else 0.12):
                        if not deck:
                            deck = [str(what) for what in self.rng.permutation(FEATURES)]
                        fitting = [what for what in deck if at + _ROOM.get(what, 8.0) < end]
                        if not fitting:
                            break
                        deck.remove(fitting[0])
                        at += self._feature(fitting[0], line, at, keep_off, r.parking)
                    else:
                        if self.rng.random() < 0.62:
                            self._park("car", line, at + 3, keep_off)
                        at += self.rng.uniform(5.8, 7.5)

    def _spot(self, line: np.ndarray, at: float, right: float = 0.0, turn: float = 0.0) -> tuple[float, float, float]:
        """x, y, yaw at arc length `at` of a strip, `right` metres towards the houses, turned by `turn`."""
        k = int(np.clip(at / 0.5, 0, len(line) - 2))
        heading = line[k + 1] - line[k]
        yaw = float(np.arctan2(heading[1], heading[0]))
        x, y = line[k] + right * np.array([np.sin(yaw), -np.cos(yaw)])
        return float(x), float(y), yaw + turn

    def _park(self, name: str, line: np.ndarray, at: float, keep_off, right: float = 0.0) -> bool:
        reverse = np.pi if self.rng.random() < 0.1 else 0.0
        x, y, yaw = self._spot(line, at, right + self.rng.normal(0, 0.08), reverse + self.rng.normal(0, 0.035))
        return self.still(name, x, y, yaw, keep_off)

    def _feature(self, what: str, line: np.ndarray, at: float, keep_off, strip: bool) -> float:
        """One group at arc length `at`; returns the length it used."""
        rng = self.rng
        if what in ("bus", "trailer", "truck", "digger"):
            name = {"digger": "construction_vehicle"}.get(what, what)
            length = _ROOM[what]
            self._park(name, line, at + length / 2, keep_off, 0.0 if strip else 0.9)
            if what != "bus" and rng.random() < 0.5:  # warns of what is parked ahead
                self._cones(line, at - 0.5, int(rng.integers(1, 4)), 0.9, keep_off)
            return length + 1
        if what == "cars":
            for k in range(2):
                self._park("car", line, at + 3 + 6.2 * k, keep_off)
            return 13.0
        if what in ("rack", "motorcycles"):
            name = "bicycle" if what == "rack" else "motorcycle"
            count = int(rng.integers(2, 5))
            for k in range(count):
                turn = np.pi / 2 * rng.choice([-1, 1]) + rng.normal(0, 0.15)
                self.still(name, *self._spot(line, at + 1 + 1.25 * k, rng.normal(0, 0.1), turn), keep_off, gap=0.05)
            return 1.25 * count + 2
        if what == "cones":
            count = int(rng.integers(3, 7))
            self._cones(line, at + 1, count, 2.0, keep_off)
            return 2.0 * count + 1
        if what == "barriers":
            count = int(rng.integers(2, 5))
            for k in range(count):
                turn = np.pi / 2 + rng.normal(0, 0.06)
                self.still("barrier", *self._spot(line, at + 2 + 3.9 * k, rng.normal(-0.5, 0.1), turn), keep_off)
            return 3.9 * count + 2
        # a building site: cones along the lane, barriers at the ends, a machine, workers
        length = rng.uniform(15, 21)
        self.still("barrier", *self._spot(line, at, 0.0, rng.normal(0, 0.1)), keep_off)
        self.still("barrier", *self._spot(line, at + length, 0.0, rng.normal(0, 0.1)), keep_off)
        machine = at + 0.5 * length
        self.still(
            "construction_vehicle",
            *self._spot(line, machine, 0.25, rng.choice([0, np.pi]) + rng.normal(0, 0.06)),
            keep_off,
            gap=0.0,
        )
        for k in np.arange(1.5, length - 1, 3.0):
            if rng.random() < 0.65:
                self.still(
                    "traffic_cone",
                    *self._spot(line, at + k, -1.6 + rng.normal(0, 0.06), 0.0),
                    None if strip else keep_off,
                    gap=0.0,
                )
        for _ in range(int(rng.integers(1, 3))):
            x, y, yaw = self._spot(line, machine + rng.uniform(-7, 7), rng.uniform(0, 3.0), rng.uniform(-3, 3))
            self.still("pedestrian", x, y, yaw, worker=True)
        return length + 3

    def _cones(self, line: np.ndarray, at: float, count: int, spacing: float, keep_off) -> None:
        for k in range(count):
            spot = self._spot(line, at + spacing * k, self.rng.normal(-0.4, 0.15), self.rng.uniform(-3, 3))
            self.still("traffic_cone", *spot, keep_off)

    # -- pedestrians ---------------------------------------------------------------------------------------------------

    def pedestrians(self, density: float) -> list[Track]:
        """Walkers on the sidewalks of the ego's roads, people crossing at the zebras, groups that stand and talk."""
        rng, walkers = self.rng, []
        roads = list(dict.fromkeys(road for road, _ in self.ego_route.legs))

        def add(track: Track) -> None:
            self.actors.append(make_actor(rng, "pedestrian", track))
            walkers.append(track)

        for road in roads:
            r = self.town.roads[road]
            for side in (-1, 1):
                for _ in range(rng.poisson(2.2 * density)):
                    line = resample(
                        r.offset(side * (r.half_width + rng.uniform(0.5, 0.72) * SIDEWALK), 8, 8), ROUTE_STEP
                    )
                    line = line[::-1] if rng.random() < 0.5 else line
                    start = rng.uniform(0, (len(line) - 2) * ROUTE_STEP)
                    add(walk(line, start, rng.uniform(0.8, 1.8), self.duration, self.ground.height))
                if rng.random() < 0.35 * density:
                    line = resample(r.offset(side * (r.half_width + 0.7 * SIDEWALK), 15, 15), ROUTE_STEP)
                    x, y = line[rng.integers(len(line))]
                    for k in range(int(rng.integers(1, 4))):
                        angle = 2.2 * k + rng.uniform(0, 0.5)
                        self.still("pedestrian", x + 0.7 * np.cos(angle), y + 0.7 * np.sin(angle), angle + np.pi)
            for crossing in (r.start, r.end):
                for _ in range(rng.poisson(0.7 * density)):
                    ends = crosswalk(self.town, road, crossing)[:: rng.choice([-1, 1])]
                    shift = rng.uniform(-0.9, 0.9) * _left(ends)
                    line = resample(ends + shift, ROUTE_STEP)
                    add(walk(line, rng.uniform(-2, 0.5) * 3, rng.uniform(1.0, 1.7), self.duration, self.ground.height))
        return walkers

    # -- traffic -------------------------------------------------------------------------------------------------------

    def _traffic(self, count: int) -> tuple[list[Vehicle], list[str]]:
        rng, town = self.rng, self.town
        names = ["car", "truck", "bus", "motorcycle", "bicycle", "trailer", "construction_vehicle"]
        weights = np.array([0.42, 0.1, 0.08, 0.12, 0.12, 0.12, 0.04])
        legs = self.ego_route.legs[: max(2, len(self.ego_route.legs) - 1)]
        vehicles, kinds = [], []
        for _ in range(count):
            name = str(rng.choice(names, p=weights))
            if rng.random() < 0.75:
                road, forward = legs[rng.integers(len(legs))]
                forward = forward if rng.random() < 0.4 else not forward
            else:
                road, forward = int(rng.integers(len(town.roads))), bool(rng.integers(2))
            rider = name in ("motorcycle", "bicycle")
            size = draw_size(rng, name, rider)
            tail = tail_length = 0.0
            if name == "trailer":
                tail_length, trailer_size = float(size[0]), size
                size = np.array([6.2, float(size[1]), min(3.6, float(size[2]))]) * [rng.uniform(0.9, 1.1), 1, 1]
                tail = 0.5 * (size[0] + tail_length) + 0.45
            desired = rng.uniform(3.0, 5.5) if name == "bicycle" else rng.uniform(5.0, 12.0)
            if (road, forward) in legs:  # nobody crawls in front of the ego for the whole scene
                if name == "bicycle":
                    forward = not forward
                else:
                    desired = max(desired, 0.9 * self.ego_desired)
            length = desired * (self.duration + WARM_UP) + 120
            lateral = rng.uniform(0.7, 1.0) + (town.roads[road].half_width - town.roads[road].lanes * LANE)
            route = make_route(
                town,
                rng,
                road,
                forward,
                length,
                lane=int(rng.integers(town.roads[road].lanes)),
                lateral=lateral if name == "bicycle" and not town.roads[road].parking else None,
            )
            first = arc_length(town.lane(road, forward, 0.0))[-1]
            s = rng.uniform(0.1, 1.0) * first + tail
            vehicle = Vehicle(route, s, desired, float(size[0]), float(size[1]), tail, tail_length)
            vehicles.append(vehicle)
            kinds.append(name)
            self._sizes.append(size)
            self._trailers.append(trailer_size if name == "trailer" else None)
        return vehicles, kinds

    def traffic(self, count: int, walkers: list[Track]) -> Track:
        """Simulate the ego and `count` vehicles; returns the ego's track."""
        self._sizes: list[np.ndarray] = []
        self._trailers: list[np.ndarray | None] = []
        others, kinds = self._traffic(count)
        ego = Vehicle(self.ego_route, self.ego_start + EGO_MIDDLE, self.ego_desired, EGO_LENGTH, EGO_WIDTH)
        vehicles = _spaced([ego, *others])
        index = [others.index(v) for v in vehicles[1:]]
        times, arcs = drive(vehicles, walkers, self.duration)
        for n, k in enumerate(index, start=1):
            v, name, size = vehicles[n], kinds[k], self._sizes[k]
            cab = "truck" if name == "trailer" else name
            track = self._track(v, times, arcs[:, n], v.length)
            rider = name in ("motorcycle", "bicycle")
            self.actors.append(make_actor(self.rng, cab, track, rider=rider, parked=False, size=size, dusk=self.dusk))
            if name == "trailer":
                track = self._track(v, times, arcs[:, n] - v.tail, v.tail_length)
                self.actors.append(
                    make_actor(self.rng, "trailer", track, parked=False, size=self._trailers[k], dusk=self.dusk)
                )
        xy, yaw = body(self.ego_route.points, arcs[:, 0], EGO_LENGTH)
        yaw = np.unwrap(yaw)
        rear = xy - EGO_MIDDLE * np.stack([np.cos(yaw), np.sin(yaw)], -1)
        return Track(times, np.column_stack([rear, np.zeros(len(times)), yaw]))

    def _track(self, vehicle: Vehicle, times: np.ndarray, arcs: np.ndarray, length: float) -> Track:
        xy, yaw = body(vehicle.route.points, arcs, length)
        return Track(times, np.column_stack([xy, np.zeros(len(times)), np.unwrap(yaw)]))


def _left(ends: np.ndarray) -> np.ndarray:
    along = ends[1] - ends[0]
    return np.array([-along[1], along[0]]) / np.linalg.norm(along)


def _spaced(vehicles: list[Vehicle]) -> list[Vehicle]:
    """The vehicles that start clear of all earlier ones."""
    kept: list[tuple[Vehicle, np.ndarray]] = []
    for v in vehicles:
        back = v.tail + 0.5 * v.tail_length if v.tail else 0.5 * v.length
        s = np.linspace(v.s - back - 2, v.s + 0.5 * v.length + 4, 12)
        points, _ = body(v.route.points, s, 2.0)
        if all(np.linalg.norm(points[:, None] - other[None], axis=-1).min() > 2.6 for _, other in kept):
            kept.append((v, points))
    return [v for v, _ in kept]


def populate(
    town: Town,
    ground: Ground,
    plots: Plots,
    pavement: np.ndarray,
    rng: np.random.Generator,
    duration: float,
    dusk: bool,
) -> Cast:
    """Everything that is annotated, and the ego's track, free of collisions.

    `pavement` marks the cells of `plots` that belong to roads and sidewalks.
    """
    populator = Populator(town, ground, plots, rng, duration, dusk)
    populator.kerbside(pavement)
    walkers = populator.pedestrians(density=rng.uniform(0.5, 1.1))
    ego = populator.traffic(int(rng.integers(22, 34)), walkers)
    actors = populator.actors
    ego_body = Track(ego.times, ego.states + _ahead(ego.states))
    tracks = [ego_body, *(actor.track for actor in actors)]
    sizes = np.array([[EGO_LENGTH, EGO_WIDTH], *(actor.size[:2] for actor in actors)])
    removed = colliding(tracks, sizes, 1, duration)
    return Cast([actor for k, actor in enumerate(actors, start=1) if k not in removed], ego)


def _ahead(states: np.ndarray) -> np.ndarray:
    yaw = states[:, 3]
    zero = np.zeros(len(yaw))
    return EGO_MIDDLE * np.stack([np.cos(yaw), np.sin(yaw), zero, zero], -1)
