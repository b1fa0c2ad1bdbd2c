"""A small town, ray-cast: one scan of a street and the exact scene around it, from a seed.

Road with kerbs, houses with gaps, parked cars, poles, trees, hedges, and up to two moving cars that exist at the scan's
time only. The scan has 32 beams, range noise, drop-out and a label per point (SemanticKITTI's numbers); the scene is
what noise-free scans along the street see of everything that stands still.
"""

from dataclasses import dataclass

import numpy as np
import open3d

from perception.completion.samples import deduplicated

ROAD, WALK, BUILDING, CAR, POLE, TRUNK, LEAVES, HEDGE, MOVING = 40, 48, 50, 10, 80, 71, 70, 70, 252
HEIGHT = 1.8  # m of the sensor above the road
BEAMS, COLUMNS = np.deg2rad(np.linspace(-25, 3, 32)), 512
FINE_BEAMS, FINE_COLUMNS = np.deg2rad(np.linspace(-30, 15, 64)), 1024
NOISE, DROPPED = 0.02, 0.05
HALF_ROAD, KERB = 3.5, 0.15


@dataclass(frozen=True)
class TownScene:
    """scan (P, 3), labels (P,) and the complete scene (M, 3), float32, in the sensor's frame."""

    scan: np.ndarray
    labels: np.ndarray
    scene: np.ndarray


class Street:
    """Geometry with labels, with and without what moves."""

    def __init__(self):
        self._scenes = {moving: open3d.t.geometry.RaycastingScene() for moving in (False, True)}
        self._labels: dict[bool, list[int]] = {False: [], True: []}

    def add(self, mesh, label: int) -> None:
        solid = open3d.t.geometry.TriangleMesh.from_legacy(mesh)
        for moving, scene in self._scenes.items():
            if moving or label < MOVING:
                scene.add_triangles(solid)
                self._labels[moving].append(label)

    def box(self, size, centre, label: int, yaw: float = 0.0) -> None:
        """A box of size (l, w, h) on (x, y, z of its bottom)."""
        mesh = open3d.geometry.TriangleMesh.create_box(*size)
        mesh.translate(-np.array([size[0] / 2, size[1] / 2, 0.0]))
        self._place(mesh, centre, yaw, label)

    def cylinder(self, radius: float, height: float, centre, label: int) -> None:
        mesh = open3d.geometry.TriangleMesh.create_cylinder(radius, height, 12)
        mesh.translate([0, 0, height / 2])
        self._place(mesh, centre, 0.0, label)

    def sphere(self, radius: float, centre, label: int) -> None:
        self._place(open3d.geometry.TriangleMesh.create_sphere(radius, 8), centre, 0.0, label)

    def _place(self, mesh, centre, yaw: float, label: int) -> None:
        mesh.rotate(open3d.geometry.get_rotation_matrix_from_xyz([0, 0, yaw]), center=[0, 0, 0])
        self.add(mesh.translate(np.asarray(centre, float)), label)

    def cast(self, origin: np.ndarray, directions: np.ndarray, moving: bool) -> tuple[np.ndarray, np.ndarray]:
        """Distances (N,), infinite without a hit, and labels (N,)."""
        rays = np.concatenate([np.broadcast_to(origin, directions.shape), directions], 1).astype(np.float32)
        hit = self._scenes[moving].cast_rays(open3d.core.Tensor(rays))
        ids, distance = hit["geometry_ids"].numpy(), hit["t_hit"].numpy()
        labels = np.array([*self._labels[moving], 0])[np.where(np.isfinite(distance), ids, -1).astype(np.int64)]
        return distance, labels


def build_street(random: np.random.Generator, radius: float) -> Street:
    """Everything of a town around the origin, road along x; as dense for every radius."""
    street, reach, share = Street(), radius + 6, radius / 16
    near_walls = min(7.0, 0.62 * radius)

    def some(low: int, high: int) -> int:
        return max(1, round(random.integers(low, high + 1) * share))

    street.box((4 * reach, 2 * HALF_ROAD, 1.0), (0, 0, -1.0), ROAD)
    for side in (-1, 1):
        street.box((4 * reach, 40.0, 1.0 + KERB), (0, side * (HALF_ROAD + 20), -1.0), WALK)
        x = -reach + random.uniform(0, 4)
        while x < reach:  # houses with gaps
            length, depth = random.uniform(6, 15), random.uniform(4, 8)
            away = random.uniform(near_walls, near_walls + 0.4 * radius)
            street.box((length, depth, random.uniform(3, 8)), (x + length / 2, side * (away + depth / 2), 0), BUILDING)
            x += length + random.uniform(1, 6)
    taken: list[float] = []
    for _ in range(some(4, 10)):
        x, side = random.uniform(-radius, radius), random.choice([-1, 1])
        if all(abs(x - other) > 5 or side != s for other, s in taken):
            taken.append((x, side))
            _car(street, x, side * (HALF_ROAD - 1.0), random.normal(0, 0.03), CAR, random)
    for _ in range(some(3, 8)):
        y = random.choice([-1, 1]) * (HALF_ROAD + random.uniform(0.3, 1.2))
        street.cylinder(0.1, random.uniform(4, 6), (random.uniform(-radius, radius), y, 0), POLE)
    for _ in range(some(2, 6)):
        x, y = random.uniform(-radius, radius), random.choice([-1, 1]) * (HALF_ROAD + random.uniform(1.0, 2.0))
        trunk = random.uniform(1.8, 3)
        street.cylinder(0.15, trunk, (x, y, 0), TRUNK)
        street.sphere(random.uniform(0.8, 1.5), (x, y, trunk + 0.6), LEAVES)
    for _ in range(some(1, 3)):
        y = random.choice([-1, 1]) * (HALF_ROAD + 2.2)
        street.box(
            (random.uniform(2, 6), 0.7, random.uniform(0.8, 1.4)), (random.uniform(-radius, radius), y, KERB), HEDGE
        )
    for _ in range(random.integers(0, 3)):
        x = random.choice([-1, 1]) * random.uniform(min(5, 0.5 * radius), radius)
        _car(street, x, random.choice([-1.2, 1.2]), 0.0, MOVING, random)
    return street


def _car(street: Street, x: float, y: float, yaw: float, label: int, random: np.random.Generator) -> None:
    stretch = random.uniform(0.9, 1.1)
    street.box((4.2 * stretch, 1.8, 0.8), (x, y, 0.3), label, yaw)
    street.box((2.2 * stretch, 1.6, 0.7), (x - 0.2 * np.cos(yaw), y - 0.2 * np.sin(yaw), 1.1), label, yaw)


def directions(beams: np.ndarray, columns: int) -> np.ndarray:
    """(beams * columns, 3) unit vectors."""
    elevation, azimuth = np.meshgrid(beams, 2 * np.pi * np.arange(columns) / columns, indexing="ij")
    e, a = elevation.ravel(), azimuth.ravel()
    return np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)


def make_town(seed: int, radius: float) -> TownScene:
    """One scene. The sensor is tilted by up to 2 degrees against the road."""
    random = np.random.default_rng((seed, 0x70))
    street = build_street(random, radius)
    roll, pitch = np.deg2rad(random.uniform(-2, 2, 2))
    sensor2street = open3d.geometry.get_rotation_matrix_from_xyz([roll, pitch, 0.0])
    origin = np.array([0, 0, HEIGHT])
    rays = directions(BEAMS, COLUMNS)
    distance, labels = street.cast(origin, rays @ sensor2street.T, moving=True)
    kept = np.isfinite(distance) & (random.random(len(rays)) > DROPPED)
    measured = distance[kept] + random.normal(0, NOISE, kept.sum())
    scan = rays[kept] * measured[:, None]
    fine, parts = directions(FINE_BEAMS, FINE_COLUMNS), []
    for x in np.arange(-10, 11) * radius / 16:
        place = np.array([x, 0, HEIGHT])
        far, _ = street.cast(place, fine, moving=False)
        hit = np.isfinite(far)
        points = place + fine[hit] * far[hit, None] - origin
        parts.append(points[np.linalg.norm(points, axis=1) < radius])
    scene = deduplicated(np.concatenate(parts)) @ sensor2street
    return TownScene(scan.astype(np.float32), labels[kept], scene.astype(np.float32))


def static(scene: TownScene) -> np.ndarray:
    """The scan's points on what stands still, as training sees them."""
    return scene.scan[(scene.labels > 1) & (scene.labels < MOVING)]
