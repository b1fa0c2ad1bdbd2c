"""Cycles with and without riders, pedestrians, barriers and cones as meshes: x forward, z up from the ground."""

import itertools

import numpy as np

from perception.simulation.meshes import (
    BODY,
    CLOTH,
    LAMP,
    METAL,
    REFLECTOR,
    SKIN,
    TAIL,
    TRIM,
    TYRE,
    Mesh,
    blob,
    box,
    frustum,
    loft,
    ring,
)


def _rider(
    seat_x: float, seat_z: float, top: float, hands: tuple[float, float], foot_z: float, width: float
) -> list[Mesh]:
    head = 0.12
    shoulder = top - 0.34
    lean = 0.3 * (hands[0] - seat_x)
    parts = [
        frustum((seat_x, 0, seat_z), (seat_x + lean, 0, shoulder), 0.15, 0.2, CLOTH, 6),
        blob((seat_x + lean + 0.06, 0, top - head - 0.02), (head, 0.1, 0.14), SKIN),
        blob((seat_x + lean + 0.03, 0, top - head + 0.04), (0.14, 0.12, 0.1), TRIM),
    ]
    for side in (-1, 1):
        knee = (seat_x + 0.34, side * 0.14, 0.5 * (seat_z + foot_z) + 0.12)
        parts += [
            frustum(
                (seat_x + lean, side * 0.2, shoulder), (hands[0], side * 0.5 * width, hands[1]), 0.06, 0.045, CLOTH, 5
            ),
            frustum((seat_x + 0.02, side * 0.1, seat_z), knee, 0.09, 0.07, BODY, 5),
            frustum(knee, (seat_x + 0.2, side * 0.13, foot_z), 0.07, 0.05, BODY, 5),
        ]
    return parts


def bicycle(l: float, w: float, h: float, rng: np.random.Generator, rider: bool = False) -> Mesh:
    """Two ringed wheels, a frame of tubes, a handlebar; with the rider when `rider` (the box includes the rider)."""
    r = 0.19 * l
    bike = 1.05
    back, front = (-l / 2 + r, 0, r), (l / 2 - r, 0, r)
    crank, seat, head = (-0.05 * l, 0, 0.28), (-0.14 * l, 0, 0.78 * bike), (0.22 * l, 0, 0.82 * bike)
    tubes = [(back, crank), (back, seat), (crank, seat), (crank, head), (seat, head), (head, front)]
    parts = [frustum(a, b, 0.03, 0.03, TRIM, 4) for a, b in tubes]
    parts += [ring(back[0], r, r - 0.03, 0.03, TYRE), ring(front[0], r, r - 0.03, 0.03, TYRE)]
    parts.append(frustum((0.2 * l, -w / 2, bike), (0.2 * l, w / 2, bike), 0.025, 0.025, METAL, 4))
    parts.append(frustum(head, (0.2 * l, 0, bike), 0.03, 0.03, METAL, 4))
    parts.append(box(-0.15 * l, 0, 0.8 * bike, 0.24, 0.14, 0.07, TYRE))
    if rng.random() < 0.4:
        parts.append(box(0.34 * l, 0, 0.8 * bike, 0.25, 0.3, 0.2, METAL))
    if rider:
        parts += _rider(-0.14 * l, 0.86 * bike, h, (0.2 * l, bike), 0.2, w)
    return Mesh.merge(parts).fitted(l, w, h)


def motorcycle(l: float, w: float, h: float, rng: np.random.Generator, rider: bool = False) -> Mesh:
    """Motorbike or scooter: fat wheels, engine, tank, seat, fork, handlebar; with the rider when `rider`."""
    r, top = 0.15 * l, 1.12
    parts = [frustum((x, -0.07, r), (x, 0.07, r), r, r, TYRE, 12) for x in (-l / 2 + r, l / 2 - r)]
    parts += [box(0, 0, 0.22, 0.36 * l, 0.3, 0.32, METAL), box(-0.28 * l, 0, 0.62, 0.3 * l, 0.28, 0.12, TYRE)]
    tank = [(-0.12 * l, 0.55, 0.72, 0.12, 0.1), (0.0, 0.5, 0.88, 0.17, 0.12), (0.2 * l, 0.55, 0.8, 0.14, 0.1)]
    parts.append(loft(tank, BODY))
    parts.append(loft([(-0.48 * l, 0.6, 0.75, 0.1, 0.08), (-0.2 * l, 0.45, 0.68, 0.15, 0.12)], BODY))
    if rng.random() < 0.5:  # scooter: leg shield and low floor
        parts += [box(0.2 * l, 0, 0.3, 0.08, 0.42, 0.6, BODY), box(0.05 * l, 0, 0.26, 0.3 * l, 0.36, 0.1, BODY)]
    for side in (-0.09, 0.09):
        parts.append(frustum((0.5 * l - r, side, r), (0.24 * l, side, 0.95), 0.035, 0.035, METAL, 4))
    parts.append(frustum((0.22 * l, -w / 2, top), (0.22 * l, w / 2, top), 0.03, 0.03, METAL, 5))
    parts += [box(0.29 * l, 0, 0.8, 0.1, 0.2, 0.2, LAMP), box(-0.49 * l, 0, 0.66, 0.05, 0.16, 0.1, TAIL)]
    parts.append(frustum((0.24 * l, 0, 0.9), (0.22 * l, 0, top), 0.05, 0.04, METAL, 4))
    if rider:
        parts += _rider(-0.18 * l, 0.74, h, (0.2 * l, top), 0.3, w)
    return Mesh.merge(parts).fitted(l, w, h)


def pedestrian(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """Legs in a stride, a torso, arms, a head; some carry a bag or wear a skirt."""
    stride = rng.uniform(0.08, 0.32) * l
    hip, shoulder = 0.5 * h, 0.82 * h
    parts = []
    for side in (-1, 1):
        foot = (side * stride, side * 0.09, 0.0)
        parts.append(frustum((0, side * 0.09, hip), foot, 0.095, 0.06, BODY, 6))
        parts.append(box(foot[0] + 0.06, foot[1], 0, 0.25, 0.1, 0.08, TYRE))
        hand = (-side * 0.9 * stride, side * 0.5 * w - side * 0.05, hip)
        parts.append(frustum((0, side * 0.2, shoulder), hand, 0.06, 0.045, CLOTH, 5))
        parts.append(blob(hand, (0.05, 0.05, 0.06), SKIN))
    torso = loft([(-0.12, hip - 0.05, shoulder, 0.16, 0.2), (0.12, hip - 0.05, shoulder, 0.16, 0.2)], CLOTH)
    parts += [torso, frustum((0, 0, shoulder - 0.02), (0, 0, 0.9 * h), 0.07, 0.06, SKIN, 6)]
    parts += [
        blob((0.02, 0, 0.925 * h), (0.1, 0.085, 0.075 * h), SKIN),
        blob((-0.02, 0, 0.95 * h), (0.1, 0.09, 0.05 * h), TYRE),
    ]
    extra = rng.random()
    if extra < 0.25:
        parts.append(box(-0.2, 0, hip + 0.1, 0.18, 0.32, 0.28 * h, TRIM))
    elif extra < 0.4:
        parts.append(frustum((0, 0, hip + 0.1), (0, 0, 0.25 * h), 0.17, 0.27, CLOTH, 8))
    return Mesh.merge(parts).fitted(l, w, h)


def barrier(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """Across x: a concrete wall with a flared foot, a water-filled block, or a fence on feet."""
    kind = rng.integers(3)
    if kind == 2:
        parts = [box(0, 0, z * h, 0.08, w, 0.26 * h, p) for z, p in ((0.3, BODY), (0.72, BODY), (0.6, REFLECTOR))]
        parts += [box(0, s * 0.4 * w, 0, l, 0.12, 0.1, TYRE) for s in (-1, 1)]
        parts += [box(0, s * 0.4 * w, 0.05, 0.1, 0.1, h - 0.05, METAL) for s in (-1, 1)]
        return Mesh.merge(parts).fitted(l, w, h)
    profile = (
        [(0, 0.5), (0.12, 0.5), (0.4, 0.24), (1, 0.16)] if kind == 0 else [(0, 0.5), (0.55, 0.46), (0.6, 0.3), (1, 0.3)]
    )
    parts = []
    for (z0, a), (z1, b) in itertools.pairwise(profile):
        wall = loft(
            [(-w / 2, z0 * h, z1 * h, a * l, b * l), (w / 2, z0 * h, z1 * h, a * l, b * l)], BODY if z0 else TRIM
        )
        parts.append(wall.moved(yaw=np.pi / 2))
    parts += [box(0, s * 0.3 * w, 0.62 * h, 0.5 * l, 0.14, 0.14 * h, REFLECTOR) for s in (-1, 1)]
    return Mesh.merge(parts).fitted(l, w, h)


def traffic_cone(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A cone with one or two bright bands on a square foot, or a slim delineator post."""
    r = 0.36 * min(l, w)
    tip = 0.05 if rng.random() < 0.75 else 0.8 * r
    parts = [box(0, 0, 0, l, w, 0.06, TYRE), frustum((0, 0, 0.05), (0, 0, h), r, tip, BODY, 10)]
    for z in (0.5, 0.75)[: rng.integers(1, 3)]:
        at = lambda f: r + (tip - r) * f + 0.008  # noqa: E731
        parts.append(frustum((0, 0, z * h), (0, 0, (z + 0.14) * h), at(z), at(z + 0.14), REFLECTOR, 10))
    return Mesh.merge(parts).fitted(l, w, h)
