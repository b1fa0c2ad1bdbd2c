"""Painted meshes: the triangle soup that rays hit, with each triangle's colour, gloss, glow and LiDAR reflectivity."""

from dataclasses import dataclass

import numpy as np

from common.geometry import invert, transform
from perception.simulation.meshes import (
    BARK,
    BODY,
    CLOTH,
    FACADE,
    GLASS,
    LAMP,
    LEAVES,
    METAL,
    PARTS,
    REFLECTOR,
    ROOF,
    SKIN,
    TAIL,
    TRIM,
    TYRE,
    Mesh,
)

NO_INSTANCE = -1

# Paints of the street, shared by every class so that a colour does not name one: (RGB in [0, 1], weight)
_PAINTS = (
    ((0.80, 0.80, 0.79), 5),
    ((0.55, 0.56, 0.58), 4),
    ((0.22, 0.23, 0.25), 4),
    ((0.06, 0.06, 0.07), 4),
    ((0.50, 0.07, 0.06), 3),
    ((0.09, 0.16, 0.38), 3),
    ((0.11, 0.27, 0.17), 1.5),
    ((0.62, 0.53, 0.38), 1.5),
    ((0.78, 0.58, 0.06), 2),
    ((0.82, 0.31, 0.05), 2),
    ((0.32, 0.20, 0.13), 1),
    ((0.20, 0.48, 0.55), 1),
)
_USUAL = {  # what a class often, not always, wears: (probability, paints)
    "traffic_cone": (0.6, ((0.85, 0.28, 0.05),)),
    "construction_vehicle": (0.5, ((0.80, 0.58, 0.06), (0.82, 0.42, 0.05))),
    "barrier": (0.55, ((0.6, 0.59, 0.56), (0.82, 0.33, 0.06), (0.7, 0.1, 0.08))),
}


def random_paint(rng: np.random.Generator, name: str = "") -> np.ndarray:
    """A colour (3,) of the shared paints, slightly varied; classes with usual colours wear those most of the time."""
    share, paints = _USUAL.get(name, (0.0, ()))
    if rng.random() < share:
        colour = np.array(paints[rng.integers(len(paints))])
    else:
        weights = np.array([weight for _, weight in _PAINTS], np.float64)
        colour = np.array(_PAINTS[rng.choice(len(_PAINTS), p=weights / weights.sum())][0])
    return np.clip(colour * rng.uniform(0.75, 1.25) + rng.uniform(-0.04, 0.04, 3), 0.02, 0.95)


@dataclass(frozen=True)
class Palette:
    """Per part: colour (PARTS, 3), gloss, glow, LiDAR reflectivity and noise strength (PARTS,); and the window grid of
    facades (period and glass size along the wall and up, metres)."""

    colour: np.ndarray
    gloss: np.ndarray
    glow: np.ndarray
    reflectivity: np.ndarray
    noise: np.ndarray
    windows: tuple[float, float, float, float] = (3.0, 3.0, 1.4, 1.5)


def make_palette(rng: np.random.Generator, name: str = "", dusk: bool = False) -> Palette:
    """Materials of one object; `dusk` lights the lamps of vehicles and streets."""
    colour = np.full((PARTS, 3), 0.5)
    colour[BODY] = random_paint(rng, name)
    colour[TRIM] = random_paint(rng)
    colour[CLOTH] = random_paint(rng)
    colour[GLASS] = rng.uniform(0.03, 0.09) + np.array([0, 0.005, 0.012])
    colour[TYRE] = rng.uniform(0.025, 0.06)
    colour[METAL] = rng.uniform(0.2, 0.55) + rng.uniform(-0.03, 0.03, 3)
    colour[LAMP], colour[TAIL] = (0.85, 0.85, 0.8), (0.5, 0.05, 0.04)
    colour[SKIN] = np.array([0.72, 0.5, 0.38]) * rng.uniform(0.35, 1.1)
    colour[REFLECTOR] = (0.85, 0.85, 0.83)
    colour[FACADE] = np.clip(
        np.array([0.62, 0.56, 0.5]) * rng.uniform(0.45, 1.35) + rng.uniform(-0.1, 0.1, 3), 0.08, 0.9
    )
    colour[ROOF] = np.array([0.33, 0.26, 0.23]) * rng.uniform(0.5, 1.5) + rng.uniform(-0.05, 0.05, 3)
    colour[LEAVES] = np.array([0.16, 0.25, 0.07]) * rng.uniform(0.6, 1.5) + rng.uniform(0, 0.08) * np.array(
        [1.6, 0.8, 0]
    )
    colour[BARK] = np.array([0.2, 0.15, 0.1]) * rng.uniform(0.7, 1.3)
    part = lambda default, **values: _per_part(default, values)  # noqa: E731
    return Palette(
        np.clip(colour, 0.01, 1).astype(np.float32),
        part(0.0, BODY=0.35 if name in ("car", "bus", "truck", "motorcycle") else 0.08, GLASS=0.9, METAL=0.3, LAMP=0.4),
        part(0.0, LAMP=1.6 if dusk else 0.15, TAIL=0.9 if dusk else 0.1, REFLECTOR=0.15),
        part(
            0.2,
            BODY=0.25,
            GLASS=0.03,
            TYRE=0.04,
            METAL=0.3,
            LAMP=0.8,
            TAIL=0.7,
            REFLECTOR=1.0,
            FACADE=0.22,
            LEAVES=0.16,
        ),
        part(0.5, BODY=0.35, GLASS=0.2, LAMP=0.1, LEAVES=2.2, FACADE=0.8, ROOF=1.0, BARK=1.2, CLOTH=1.0, TRIM=0.7),
        (rng.uniform(2.2, 4.5), rng.uniform(2.7, 3.6), rng.uniform(0.9, 2.0), rng.uniform(1.1, 1.9)),
    )


_PART_INDEX = dict(BODY=BODY, TRIM=TRIM, GLASS=GLASS, TYRE=TYRE, METAL=METAL, LAMP=LAMP, SKIN=SKIN, CLOTH=CLOTH)
_PART_INDEX |= dict(REFLECTOR=REFLECTOR, FACADE=FACADE, ROOF=ROOF, LEAVES=LEAVES, BARK=BARK, TAIL=TAIL)


def _per_part(default: float, values: dict[str, float]) -> np.ndarray:
    table = np.full(PARTS, default, np.float32)
    for name, value in values.items():
        table[_PART_INDEX[name]] = value
    return table


@dataclass(frozen=True)
class Solids:
    """A soup of objects. Vertices are in their owner's frame; `poses` (M, 4, 4) is owner2global at rest.

    Per triangle: `triangles` (T, 3), `owner` (T,), `colour` (T, 3), `surface` (T, 4) = gloss, glow, reflectivity,
    noise, `facade` (T,) bool. Per owner: `instance` (M,) or NO_INSTANCE, `windows` (M, 4), `noise_at` (M, 3) where in
    the noise texture the owner lies.
    """

    vertices: np.ndarray
    vertex_owner: np.ndarray
    triangles: np.ndarray
    owner: np.ndarray
    colour: np.ndarray
    surface: np.ndarray
    facade: np.ndarray
    poses: np.ndarray
    instance: np.ndarray
    windows: np.ndarray
    noise_at: np.ndarray

    def placed(self, poses: np.ndarray) -> np.ndarray:
        """Vertices (V, 3) float32 in the global frame when the owners stand at `poses` (M, 4, 4)."""
        return transform(poses[self.vertex_owner], self.vertices).astype(np.float32)


class SolidsBuilder:
    """Collects painted objects and freezes them into `Solids`."""

    def __init__(self):
        self._objects: list[tuple[Mesh, Palette, np.ndarray, int]] = []

    def add(self, mesh: Mesh, palette: Palette, pose: np.ndarray, instance: int = NO_INSTANCE) -> None:
        self._objects.append((mesh, palette, pose, instance))

    def build(self, rng: np.random.Generator) -> Solids:
        meshes = [mesh for mesh, *_ in self._objects]
        if not meshes:
            empty = np.zeros((0, 3))
            ids, table = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
            colour, poses = empty.astype(np.float32), np.zeros((0, 4, 4))
            return Solids(empty, ids, ids.reshape(0, 3), ids, colour, table, ids > 0, poses, ids, table, colour)
        soup = Mesh.merge(meshes)
        count = [len(mesh.triangles) for mesh in meshes]
        owner = np.repeat(np.arange(len(meshes)), count)
        palettes = [palette for _, palette, *_ in self._objects]
        of_part = lambda tables: np.stack(tables)[owner, soup.parts]  # noqa: E731
        surface = [np.stack([p.gloss, p.glow, p.reflectivity, p.noise], -1) for p in palettes]
        return Solids(
            soup.vertices,
            np.repeat(np.arange(len(meshes)), [len(mesh.vertices) for mesh in meshes]),
            soup.triangles,
            owner,
            of_part([p.colour for p in palettes]),
            of_part(surface),
            soup.parts == FACADE,
            np.stack([pose for _, _, pose, _ in self._objects]),
            np.array([instance for *_, instance in self._objects]),
            np.array([p.windows for p in palettes], np.float32),
            rng.uniform(0, 1000, (len(meshes), 3)).astype(np.float32),
        )


def sample_surface(mesh: Mesh, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points (count, 3) uniformly distributed over the mesh's area."""
    a, b, c = (mesh.vertices[mesh.triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    pick = rng.choice(len(area), count, p=area / area.sum())
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a[pick] + u * (b - a)[pick] + v * (c - a)[pick]


def global2owner(poses: np.ndarray) -> np.ndarray:
    """(M, 3, 4) float32: coordinates of the global frame in each owner's frame."""
    return invert(poses)[:, :3].astype(np.float32)
