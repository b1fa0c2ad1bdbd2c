"""What nuScenes annotates: classes with sizes, categories and attributes, and actors that stand or follow a track."""

from dataclasses import dataclass

import numpy as np

from common.geometry import yaw_pose
from perception.simulation.meshes import Mesh
from perception.simulation.solids import Palette, make_palette
from perception.simulation.street_users import barrier, bicycle, motorcycle, pedestrian, traffic_cone
from perception.simulation.vehicles import bus, car, construction_vehicle, trailer, truck


@dataclass(frozen=True)
class Sizes:
    """Mean and standard deviation of length, width, height (m), and the limits in which they are drawn."""

    mean: tuple[float, float, float]
    sigma: tuple[float, float, float]
    low: tuple[float, float, float]
    high: tuple[float, float, float]


# Means and spreads follow the boxes of nuScenes' training set, per class.
SIZES = {
    "car": Sizes((4.62, 1.95, 1.73), (0.40, 0.14, 0.20), (3.5, 1.65, 1.38), (5.6, 2.2, 2.3)),
    "truck": Sizes((6.93, 2.51, 2.84), (1.9, 0.30, 0.60), (5.0, 2.0, 1.85), (11.5, 3.0, 4.0)),
    "bus": Sizes((11.19, 2.94, 3.47), (1.4, 0.18, 0.30), (8.0, 2.5, 2.9), (13.5, 3.2, 4.2)),
    "trailer": Sizes((11.5, 2.75, 3.6), (2.6, 0.30, 0.60), (4.5, 2.0, 1.8), (14.5, 3.1, 4.2)),
    "construction_vehicle": Sizes((6.37, 2.70, 3.19), (1.0, 0.25, 0.45), (4.5, 2.0, 2.3), (8.5, 3.2, 4.2)),
    "pedestrian": Sizes((0.73, 0.67, 1.77), (0.12, 0.08, 0.10), (0.45, 0.5, 1.45), (1.1, 0.9, 2.0)),
    "motorcycle": Sizes((2.11, 0.77, 1.25), (0.15, 0.08, 0.08), (1.7, 0.6, 1.08), (2.5, 1.0, 1.45)),
    "bicycle": Sizes((1.75, 0.60, 1.15), (0.10, 0.06, 0.06), (1.5, 0.45, 1.02), (2.0, 0.75, 1.3)),
    "traffic_cone": Sizes((0.41, 0.41, 0.95), (0.05, 0.05, 0.18), (0.3, 0.3, 0.6), (0.55, 0.55, 1.4)),
    "barrier": Sizes((0.50, 2.40, 0.98), (0.08, 0.50, 0.10), (0.35, 1.2, 0.75), (0.8, 3.6, 1.3)),
}
SHAPES = {
    "car": car,
    "truck": truck,
    "bus": bus,
    "trailer": trailer,
    "construction_vehicle": construction_vehicle,
    "pedestrian": pedestrian,
    "motorcycle": motorcycle,
    "bicycle": bicycle,
    "traffic_cone": traffic_cone,
    "barrier": barrier,
}
RIDER_HEIGHT = (1.55, 1.95)  # of cycles whose box includes the rider

CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction",
    "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}
CYCLES = ("motorcycle", "bicycle")
STATIC = ("traffic_cone", "barrier")
MOVING_SPEED = 0.3  # m/s; slower is standing or stopped


@dataclass(frozen=True)
class Track:
    """Where an actor is: `times` (T,) seconds, `states` (T, 4) = x, y, z of the box's bottom centre and yaw
    (unwrapped). One row: it never moves."""

    times: np.ndarray
    states: np.ndarray

    @staticmethod
    def still(x: float, y: float, z: float, yaw: float) -> "Track":
        return Track(np.zeros(1), np.array([[x, y, z, yaw]], np.float64))

    @property
    def moves(self) -> bool:
        return len(self.times) > 1

    def at(self, time: float) -> np.ndarray:
        """x, y, z, yaw at `time`, linear between rows (heights step at kerbs: the nearest row's)."""
        if not self.moves:
            return self.states[0].copy()
        state = np.array([np.interp(time, self.times, self.states[:, k]) for k in range(4)])
        state[2] = self.states[np.argmin(np.abs(self.times - time)), 2]
        return state

    def speed(self, time: float) -> float:
        """Speed in m/s over 0.5 s around `time`."""
        a, b = self.at(time - 0.25), self.at(time + 0.25)
        return float(np.linalg.norm(b[:2] - a[:2]) / 0.5)


@dataclass(frozen=True)
class Actor:
    """An annotated object. `size` (l, w, h) of its box; the mesh, in the box's frame with z = 0 at the bottom, fills
    the box but for a margin of 3 cm (2 % for small things), so that range noise rarely leaves the box."""

    name: str
    category: str
    size: np.ndarray
    mesh: Mesh
    palette: Palette
    track: Track
    rider: bool = False
    parked: bool = True

    def pose(self, time: float) -> np.ndarray:
        """(4, 4) of the box's bottom centre, object2global."""
        return yaw_pose(*self.track.at(time))

    def attribute(self, time: float) -> str | None:
        """nuScenes' attribute at `time`; None for barriers and cones."""
        if self.name in STATIC:
            return None
        if self.name in CYCLES:
            return "cycle.with_rider" if self.rider else "cycle.without_rider"
        moving = self.track.moves and self.track.speed(time) > MOVING_SPEED
        if self.name == "pedestrian":
            return "pedestrian.moving" if moving else "pedestrian.standing"
        return "vehicle.moving" if moving else "vehicle.parked" if self.parked else "vehicle.stopped"


def draw_size(rng: np.random.Generator, name: str, rider: bool = False) -> np.ndarray:
    """A box size (l, w, h); length, width and height are positively correlated, as they are in nuScenes."""
    sizes = SIZES[name]
    noise = 0.7 * rng.standard_normal() + 0.7 * rng.standard_normal(3)
    size = np.clip(np.array(sizes.mean) + np.array(sizes.sigma) * noise, sizes.low, sizes.high)
    if rider:
        size[2] = rng.uniform(*RIDER_HEIGHT)
    return np.round(size, 3)


def make_actor(
    rng: np.random.Generator,
    name: str,
    track: Track,
    *,
    rider: bool = False,
    parked: bool = True,
    size: np.ndarray | None = None,
    worker: bool = False,
    dusk: bool = False,
) -> Actor:
    """A new instance of a class, with its own shape and colours. Raises KeyError for a name outside the ten classes."""
    size = draw_size(rng, name, rider) if size is None else size
    arguments = {"rider": rider} if name in CYCLES else {}
    margin = np.minimum(0.03, 0.02 * size)
    mesh = SHAPES[name](*size, rng, **arguments).fitted(*(size - margin * [2, 2, 1]))
    category = CATEGORIES[name]
    if name == "pedestrian":
        kind = rng.random()
        category = "human.pedestrian.construction_worker" if worker else category
        if kind < 0.08 and not worker and size[2] < 1.62:
            category = "human.pedestrian.child"
    if name == "bus" and size[0] > 12.8:
        category = "vehicle.bus.bendy"
    return Actor(name, category, size, mesh, make_palette(rng, name, dusk), track, rider, parked)


def corners(x: float, y: float, yaw: float, length: float, width: float) -> np.ndarray:
    """Footprint (4, 2) of a box."""
    c, s = np.cos(yaw), np.sin(yaw)
    local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [length / 2, width / 2]
    return local @ np.array([[c, s], [-s, c]]) + [x, y]


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two convex quadrilaterals (4, 2) intersect (separating axes)."""
    for quad in (a, b):
        edges = np.roll(quad, -1, 0) - quad
        for normal in np.stack([-edges[:2, 1], edges[:2, 0]], -1):
            pa, pb = a @ normal, b @ normal
            if pa.max() <= pb.min() or pb.max() <= pa.min():
                return False
    return True
