"""Cars, trucks, buses, trailers and construction vehicles as meshes: x forward, z up from the ground, metres.

Every shape fills its length, width and height exactly; variants and proportions come from the generator.
"""

import numpy as np

from perception.simulation.meshes import (
    BODY,
    GLASS,
    LAMP,
    METAL,
    TAIL,
    TRIM,
    TYRE,
    Mesh,
    box,
    frustum,
    loft,
    wheel,
)


def _axle(x: float, w: float, radius: float, width: float) -> list[Mesh]:
    return [part for side in (-1, 1) for part in wheel(x, side * (w / 2 - width / 2 - 0.01), radius, width)]


def _lamps(front: float, back: float, w: float, z: float, size: float = 0.16) -> list[Mesh]:
    pair = [-1, 1]
    lamps = [box(front, side * (w / 2 - 0.24), z, 0.06, 0.3, size, LAMP) for side in pair]
    return lamps + [box(back, side * (w / 2 - 0.2), z + 0.05, 0.06, 0.2, size * 1.4, TAIL) for side in pair]


def car(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """Saloon, hatchback, estate or van: a body, a glass house with roof and pillars, wheels, lamps."""
    # roof: start and end of the windscreen and of the rear window, as fractions of the length from the back
    house = [(0.10, 0.26, 0.58, 0.74), (0.01, 0.12, 0.58, 0.76), (0.01, 0.05, 0.60, 0.78), (0.0, 0.03, 0.72, 0.90)]
    style = rng.integers(len(house))
    tail, roof_back, roof_front, cowl = (l * (f - 0.5) for f in house[style])
    belt = h * rng.uniform(0.52, 0.6)
    bonnet = belt * rng.uniform(0.84, 0.95)
    clear, half = 0.13 * h, w / 2
    body = loft(
        [
            (-l / 2, 0.25 * h, 0.9 * belt, 0.86 * half, 0.8 * half),
            (-0.47 * l, clear, belt, half, 0.93 * half),
            (cowl, clear, belt, half, 0.93 * half),
            (0.42 * l, clear, bonnet, 0.98 * half, 0.88 * half),
            (0.5 * l, 0.2 * h, 0.75 * bonnet, 0.82 * half, 0.76 * half),
        ],
        BODY,
    )
    glass = loft(
        [
            (tail, belt - 0.05, belt, 0.9 * half, 0.9 * half),
            (roof_back, belt - 0.05, 0.96 * h, 0.9 * half, 0.74 * half),
            (roof_front, belt - 0.05, 0.96 * h, 0.9 * half, 0.74 * half),
            (cowl, belt - 0.05, belt, 0.9 * half, 0.9 * half),
        ],
        GLASS,
    )
    roof = loft(
        [
            (roof_back - 0.03, 0.94 * h, 0.99 * h, 0.78 * half, 0.7 * half),
            (0.5 * (roof_back + roof_front), 0.94 * h, h, 0.78 * half, 0.72 * half),
            (roof_front + 0.03, 0.94 * h, 0.98 * h, 0.78 * half, 0.7 * half),
        ],
        BODY,
    )
    parts = [body, glass, roof]
    for x in np.linspace(roof_back + 0.1, roof_front - 0.05, 3):
        for side in (-1, 1):
            parts.append(
                frustum((x, side * 0.9 * half, belt - 0.02), (x, side * 0.76 * half, 0.96 * h), 0.05, 0.05, BODY, 4)
            )
    if style == 3 and rng.random() < 0.6:  # a panel van: no windows behind the driver
        x0, x1 = -0.49 * l, roof_front - 0.9
        panel = (0.95 * belt, 0.985 * h, 0.95 * half, 0.79 * half)
        parts.append(loft([(x0, *panel), (x1, *panel)], BODY))
    parts += [box(s * 0.5 * l - s * 0.04, 0, 0.2 * h, 0.1, 1.5 * half, 0.12 * h, TRIM) for s in (-1, 1)]
    parts += [box(cowl - 0.1, side * (half - 0.02), belt, 0.14, 0.12, 0.12, BODY) for side in (-1, 1)]
    radius = float(np.clip(0.21 * h, 0.29, 0.4))
    for x in (-0.29 * l, 0.32 * l):
        parts += _axle(x, w, radius, 0.21)
    parts += _lamps(0.485 * l, -0.495 * l, w, 0.66 * bonnet)
    return Mesh.merge(parts).fitted(l, w, h)


def truck(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A cab and, behind it, a box, an open bed (pick-up, flat bed with load) or a tank."""
    half = w / 2
    cab = min(2.3, 0.36 * l)
    top = h if l < 6 else h * rng.uniform(0.72, 0.92)
    nose = rng.uniform(0.0, 0.9) if l > 6 else rng.uniform(0.5, 1.0)
    base, front, back = 0.28 * top, l / 2, l / 2 - cab - nose
    parts = [
        loft(
            [
                (back, base, top, half * 0.96, half * 0.9),
                (front - nose - 0.35, base, top, half * 0.96, half * 0.88),
                (front - nose, base, 0.62 * top, half * 0.96, half * 0.9),
                (front, base * 0.9, 0.56 * top, half * 0.92, half * 0.88),
            ],
            BODY,
        ),
        box(front - nose - 0.14, 0, 0.6 * top, 0.3, 1.66 * half, 0.28 * top, GLASS),
        box(0, 0, base - 0.15, l * 0.98, 0.8 * w, 0.16, METAL),
    ]
    for side in (-1, 1):
        parts.append(box(front - nose - 0.8, side * 0.93 * half, 0.58 * top, 0.8, 0.08, 0.28 * top, GLASS))
        parts.append(box(front - nose + 0.05, side * (half - 0.06), 0.5 * top, 0.1, 0.12, 0.3, TRIM))
    bed0, bed1 = -l / 2, back - 0.12
    middle, length = (bed0 + bed1) / 2, bed1 - bed0
    kind = rng.integers(4)
    if l < 6:
        kind = 1
    if kind in (0, 3):
        parts.append(box(middle, 0, base + 0.1, length, w, h - base - 0.1, TRIM))
        parts.append(box(bed0 + 0.01, 0, base + 0.2, 0.04, 0.9 * w, h - base - 0.35, METAL))
    elif kind == 1:
        wall = rng.uniform(0.35, 0.7)
        parts.append(box(middle, 0, base, length, w * 0.96, 0.12, TRIM))
        parts += [box(middle, side * half * 0.95, base, length, 0.08, wall, BODY) for side in (-1, 1)]
        parts.append(box(bed0 + 0.05, 0, base, 0.1, 0.95 * w, wall, BODY))
        if l > 6:
            loads = rng.uniform(0.3, 1, (3, 3))
            for k, (a, b, c) in enumerate(loads):
                x = bed0 + length * (k + 0.5) / 3
                parts.append(box(x, 0, base + 0.1, 0.28 * length * a, 0.8 * w * b, max(0.3, (h - base) * c), METAL))
    else:
        r = min(half * 0.95, (h - base) / 2)
        parts.append(frustum((bed0 + 0.1, 0, base + r), (bed1 - 0.1, 0, base + r), r, r, METAL, 12))
    radius = float(np.clip(0.17 * h, 0.36, 0.52))
    axles = [-0.3 * l, front - 0.4 - 0.5 * nose - 0.3] + ([-0.3 * l + 2.2 * radius] if l > 7.5 else [])
    for x in axles:
        parts += _axle(x, w, radius, 0.3)
    return Mesh.merge([*parts, *_lamps(front - 0.01, -l / 2 + 0.01, w, base + 0.12)]).fitted(l, w, h)


def bus(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """A long box with a window band, doors and a low floor."""
    half = w / 2
    sill, head = rng.uniform(0.38, 0.46) * h, rng.uniform(0.78, 0.85) * h
    body = loft(
        [
            (-l / 2, 0.12 * h, 0.96 * h, half * 0.95, half * 0.9),
            (-l / 2 + 0.25, 0.1 * h, 0.98 * h, half, half * 0.94),
            (l / 2 - 0.3, 0.1 * h, 0.98 * h, half, half * 0.94),
            (l / 2, 0.12 * h, 0.94 * h, half * 0.95, half * 0.9),
        ],
        BODY,
    )
    parts = [body, box(l / 2 - 0.02, 0, 0.34 * h, 0.06, 0.86 * w, 0.5 * h, GLASS)]
    parts.append(box(-l / 2 + 0.02, 0, 0.5 * h, 0.06, 0.7 * w, 0.3 * h, GLASS))
    panes = int(l // 1.6)
    for side in (-1, 1):
        for k in range(panes):
            x = -l / 2 + (k + 0.5) * l / panes
            parts.append(box(x, side * (half - 0.03), sill, 0.84 * l / panes, 0.07, head - sill, GLASS))
        parts.append(box(0, side * (half - 0.02), 0.22 * h, 0.9 * l, 0.06, 0.06 * h, TRIM))
    for x in (0.4 * l, -0.02 * l):
        parts.append(box(x, -(half - 0.02), 0.12 * h, 1.1, 0.08, head - 0.12 * h, GLASS))
    parts.append(box(-0.2 * l, 0, 0.96 * h, 0.25 * l, 0.6 * w, 0.04 * h, METAL))
    parts.append(box(l / 2 - 0.03, 0, 0.87 * h, 0.08, 0.6 * w, 0.08 * h, LAMP))
    for x in (-0.27 * l, 0.3 * l):
        parts += _axle(x, w, 0.48, 0.3)
    return Mesh.merge([*parts, *_lamps(l / 2 - 0.02, -l / 2 + 0.02, w, 0.22 * h)]).fitted(l, w, h)


def trailer(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """No cab: a box, a container or a low bed with load, on axles at the back and legs in front."""
    floor = 0.3 * h if h > 2.2 else 0.35 * h
    parts = [box(0, 0, floor - 0.18, 0.98 * l, 0.5 * w, 0.2, METAL)]
    kind = rng.integers(3)
    if kind == 2 and h > 1.5:
        parts.append(box(0, 0, floor, l, w, 0.12, TRIM))
        for x in (-0.26, 0.16, 0.38):
            parts.append(box(x * l, 0, floor + 0.1, 0.2 * l, 0.75 * w, (h - floor) * rng.uniform(0.4, 0.98), BODY))
        parts.append(box(0.49 * l, 0, floor, 0.08, w, h - floor, METAL))
    else:
        parts.append(box(0, 0, floor, l, w, h - floor, BODY))
        ribs = int(l / 0.9) if kind == 1 else 0
        for k in range(ribs):
            x = -l / 2 + (k + 0.5) * l / ribs
            parts += [box(x, s * w / 2, floor + 0.05, 0.16, 0.09, h - floor - 0.1, BODY) for s in (-1, 1)]
        parts += [box(-l / 2 - 0.01, s * w / 4, floor + 0.1, 0.05, 0.44 * w, h - floor - 0.2, TRIM) for s in (-1, 1)]
    radius = min(0.48, 0.9 * floor)
    for x in (-0.4, -0.4 + 2.4 * radius / l, -0.4 + 4.8 * radius / l)[: 3 if l > 9 else 2 if l > 6 else 1]:
        parts += _axle(x * l, w, radius, 0.3)
    parts += [box(0.3 * l, s * 0.3 * w, 0, 0.12, 0.12, floor, METAL) for s in (-1, 1)]
    parts += [box(-l / 2, s * 0.4 * w, floor - 0.2, 0.06, 0.25, 0.16, TAIL) for s in (-1, 1)]
    return Mesh.merge(parts).fitted(l, w, h)


def construction_vehicle(l: float, w: float, h: float, rng: np.random.Generator) -> Mesh:
    """An excavator on tracks or a wheel loader with a bucket."""
    parts: list[Mesh] = []
    if rng.random() < 0.5:
        track = 0.28 * h
        body = 0.55 * l
        x0 = -l / 2 + body / 2
        for side in (-1, 1):
            y = side * (w / 2 - 0.13 * w)
            shape = [(-0.5, 0.3, 0.7), (-0.42, 0.0, 1.0), (0.42, 0.0, 1.0), (0.5, 0.3, 0.7)]
            stations = [(x0 + a * body, b * track, c * track, 0.13 * w, 0.13 * w) for a, b, c in shape]
            parts.append(loft(stations, TYRE, y))
        parts.append(box(x0 - 0.08 * body, 0, track, 0.95 * body, 0.86 * w, 0.26 * h, BODY))
        parts.append(box(x0 + 0.22 * body, 0.2 * w, track + 0.2 * h, 0.42 * body, 0.4 * w, 0.34 * h, GLASS))
        parts.append(box(x0 + 0.22 * body, 0.2 * w, track + 0.54 * h, 0.46 * body, 0.44 * w, 0.05 * h, BODY))
        knee, tip = (0.25 * l, -0.15 * w, h * 0.96), (0.46 * l, -0.15 * w, 0.28 * h)
        parts.append(frustum((x0 + 0.2 * body, -0.15 * w, track + 0.15 * h), knee, 0.17, 0.13, BODY, 4))
        parts.append(frustum(knee, tip, 0.14, 0.1, BODY, 4))
        parts.append(
            frustum((x0 + 0.3 * body, -0.15 * w, track + 0.1 * h), (0.1 * l, -0.15 * w, 0.7 * h), 0.06, 0.06, METAL, 6)
        )
        parts.append(
            loft(
                [(0.36 * l, 0.0, 0.3 * h, 0.22 * w, 0.22 * w), (0.5 * l, 0.06 * h, 0.12 * h, 0.22 * w, 0.22 * w)], METAL
            )
        )
    else:
        r = min(0.24 * h, 0.16 * l)
        for x in (-0.28 * l, 0.14 * l):
            parts += _axle(x, w * 0.96, r, 0.2 * w)
        parts.append(box(-0.3 * l, 0, 0.9 * r, 0.38 * l, 0.56 * w, 0.34 * h, BODY))
        parts.append(box(0.1 * l, 0, 0.8 * r, 0.3 * l, 0.5 * w, 0.2 * h, BODY))
        parts.append(box(-0.04 * l, 0, 0.9 * r + 0.15 * h, 0.2 * l, 0.5 * w, h - 0.9 * r - 0.2 * h, GLASS))
        parts.append(box(-0.04 * l, 0, 0.95 * h, 0.24 * l, 0.56 * w, 0.05 * h, BODY))
        lift = rng.uniform(0.02, 0.3) * h
        for side in (-1, 1):
            parts.append(
                frustum(
                    (0.05 * l, side * 0.2 * w, 0.45 * h), (0.36 * l, side * 0.2 * w, lift + 0.12 * h), 0.1, 0.1, BODY, 4
                )
            )
        bucket = [(0.33 * l, lift, lift + 0.3 * h, w / 2, w / 2), (0.5 * l, lift, lift + 0.06 * h, w / 2, w / 2)]
        parts.append(loft(bucket, METAL))
        parts.append(box(-0.04 * l, 0, 0.6 * h, 0.05, 0.52 * w, 0.3 * h, BODY))
        parts.append(box(-0.46 * l, 0, 1.2 * r, 0.08 * l, 0.5 * w, 0.15 * h, TRIM))
    return Mesh.merge(parts).fitted(l, w, h)
