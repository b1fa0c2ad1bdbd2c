"""Triangle meshes from primitives: boxes, lofts, frustums, rings and blobs, each triangle labelled with its part."""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

# What a triangle is made of; `solids.py` gives each part of an object its colour and reflectivity.
BODY, TRIM, GLASS, TYRE, METAL, LAMP, SKIN, CLOTH, REFLECTOR, FACADE, ROOF, LEAVES, BARK, TAIL = range(14)
PARTS = 14


@dataclass(frozen=True)
class Mesh:
    """`vertices` (V, 3) float64 in metres, `triangles` (T, 3) int64, `parts` (T,) int64."""

    vertices: np.ndarray
    triangles: np.ndarray
    parts: np.ndarray

    @staticmethod
    def merge(meshes: "list[Mesh]") -> "Mesh":
        offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
        return Mesh(
            np.concatenate([mesh.vertices for mesh in meshes]),
            np.concatenate([mesh.triangles + offset for mesh, offset in zip(meshes, offsets, strict=True)]),
            np.concatenate([mesh.parts for mesh in meshes]),
        )

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> "Mesh":
        """Turned by yaw about z, then shifted."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        return Mesh(self.vertices @ turn + [x, y, z], self.triangles, self.parts)

    def pitched(self, angle: float, x: float = 0.0, z: float = 0.0) -> "Mesh":
        """Turned about the axis along y through (x, z); positive angles lift the front (+x)."""
        c, s = np.cos(angle), np.sin(angle)
        v = self.vertices - [x, 0, z]
        turned = np.stack([c * v[:, 0] - s * v[:, 2], v[:, 1], s * v[:, 0] + c * v[:, 2]], -1)
        return Mesh(turned + [x, 0, z], self.triangles, self.parts)

    def fitted(self, length: float, width: float, height: float) -> "Mesh":
        """Stretched so that it exactly fills [-l/2, l/2] x [-w/2, w/2] x [0, h]."""
        low, high = self.vertices.min(0), self.vertices.max(0)
        size = np.array([length, width, height])
        scaled = (self.vertices - low) / (high - low) * size - [length / 2, width / 2, 0]
        return Mesh(scaled, self.triangles, self.parts)


def _mesh(vertices, triangles, part: int) -> Mesh:
    triangles = np.asarray(triangles, np.int64).reshape(-1, 3)
    return Mesh(np.asarray(vertices, np.float64), triangles, np.full(len(triangles), part))


def _quads(quads) -> np.ndarray:
    quads = np.asarray(quads).reshape(-1, 4)
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def loft(stations, part: int, y: float = 0.0) -> Mesh:
    """A body along x through stations (x, z_bottom, z_top, half width at the bottom, half width at the top)."""
    stations = np.asarray(stations, np.float64)
    x, low, high, wide, narrow = stations.T
    corners = np.stack(
        [
            np.stack([x, y - wide, low], -1),
            np.stack([x, y + wide, low], -1),
            np.stack([x, y + narrow, high], -1),
            np.stack([x, y - narrow, high], -1),
        ],
        1,
    )
    return _mesh(corners.reshape(-1, 3), _loft_faces(len(stations)), part)


@functools.cache
def _loft_faces(stations: int) -> np.ndarray:
    first = 4 * np.arange(stations - 1)[:, None]
    sides = [
        np.concatenate([first + k, first + (k + 1) % 4, first + 4 + (k + 1) % 4, first + 4 + k], 1) for k in range(4)
    ]
    last = 4 * (stations - 1)
    return _quads(np.concatenate([*sides, [[0, 3, 2, 1], [last, last + 1, last + 2, last + 3]]]))


def box(x, y, z, length, width, height, part: int) -> Mesh:
    """An upright box with its middle at (x, y) and its bottom at z."""
    a, b = x - length / 2, x + length / 2
    return loft([(a, z, z + height, width / 2, width / 2), (b, z, z + height, width / 2, width / 2)], part, y)


def frustum(start, end, radius0: float, radius1: float, part: int, sides: int = 8) -> Mesh:
    """A capped cone or cylinder between two points."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    x, y, z = (end - start) / math.dist(start, end)
    u = np.array([y, -x, 0.0]) / math.hypot(x, y) if abs(z) < 0.9 else np.array([0.0, z, -y]) / math.hypot(y, z)
    v = np.array([y * u[2] - z * u[1], z * u[0] - x * u[2], x * u[1] - y * u[0]])
    cosine, sine, faces = _frustum_faces(sides)
    circle = cosine * u + sine * v
    vertices = np.concatenate([start + radius0 * circle, end + radius1 * circle, [start], [end]])
    return _mesh(vertices, faces, part)


@functools.cache
def _frustum_faces(sides: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosine and sine (S, 1) of the corners, and the triangles."""
    angle = 2 * np.pi * (np.arange(sides)[:, None] + 0.5) / sides
    k = np.arange(sides)
    n = (k + 1) % sides
    wall = _quads(np.stack([k, n, n + sides, k + sides], 1))
    bottom = np.stack([n, k, np.full(sides, 2 * sides)], 1)
    top = np.stack([k + sides, n + sides, np.full(sides, 2 * sides + 1)], 1)
    return np.cos(angle), np.sin(angle), np.concatenate([wall, bottom, top])


def wheel(x: float, y: float, radius: float, width: float, sides: int = 10) -> list[Mesh]:
    """A tyre standing on z = 0 with its axle along y, and its rim."""
    a, b = (x, y - width / 2, radius), (x, y + width / 2, radius)
    rim_a, rim_b = (x, y - width / 2 - 0.01, radius), (x, y + width / 2 + 0.01, radius)
    return [
        frustum(a, b, radius, radius, TYRE, sides),
        frustum(rim_a, rim_b, 0.6 * radius, 0.6 * radius, METAL, 6),
    ]


def ring(x: float, z: float, radius: float, thickness: float, part: int, segments: int = 10) -> Mesh:
    """A spoked wheel's tyre in the plane y = 0."""
    angle = 2 * np.pi * np.arange(segments + 1) / segments
    rim = np.stack([x + radius * np.cos(angle), np.zeros(segments + 1), z + radius * np.sin(angle)], -1)
    return Mesh.merge([frustum(p, q, thickness, thickness, part, 4) for p, q in itertools.pairwise(rim)])


def _icosphere() -> tuple[np.ndarray, np.ndarray]:
    g = (1 + 5**0.5) / 2
    v = [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g)]
    v += [(0, -1, -g), (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]
    vertices = [np.array(p) / np.linalg.norm(p) for p in v]
    faces = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6)]
    faces += [(7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10)]
    faces += [(8, 6, 7), (9, 8, 1)]
    middle: dict[tuple[int, int], int] = {}

    def between(a: int, b: int) -> int:
        key = (min(a, b), max(a, b))
        if key not in middle:
            point = vertices[a] + vertices[b]
            vertices.append(point / np.linalg.norm(point))
            middle[key] = len(vertices) - 1
        return middle[key]

    fine = []
    for a, b, c in faces:
        ab, bc, ca = between(a, b), between(b, c), between(c, a)
        fine += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.array(vertices), np.array(fine)


_SPHERE_VERTICES, _SPHERE_FACES = _icosphere()


def blob(centre, radii, part: int, rng: np.random.Generator | None = None, rough: float = 0.0) -> Mesh:
    """An ellipsoid of 80 faces whose corners are moved by a relative `rough`."""
    scale = 1.0 if rng is None else 1 + rough * rng.uniform(-1, 1, (len(_SPHERE_VERTICES), 1))
    return _mesh(np.asarray(centre) + _SPHERE_VERTICES * scale * np.asarray(radii), _SPHERE_FACES, part)


def gable(length: float, width: float, eaves: float, ridge: float, overhang: float, part: int) -> Mesh:
    """A pitched roof whose ridge runs along x, from height `eaves` to `ridge`."""
    a, b = length / 2 + overhang, width / 2 + overhang
    vertices = [(-a, -b, eaves), (a, -b, eaves), (a, b, eaves), (-a, b, eaves), (-a, 0, ridge), (a, 0, ridge)]
    faces = _quads([[0, 1, 5, 4], [2, 3, 4, 5], [0, 3, 2, 1]])
    return _mesh(vertices, np.concatenate([faces, [(0, 4, 3), (1, 2, 5)]]), part)
