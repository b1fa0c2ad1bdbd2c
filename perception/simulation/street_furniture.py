"""Houses, trees, lamps, signs and the clutter that no class covers, as meshes standing at the origin."""

import numpy as np

from perception.simulation.meshes import (
    BARK,
    BODY,
    FACADE,
    LAMP,
    LEAVES,
    METAL,
    REFLECTOR,
    ROOF,
    TAIL,
    TRIM,
    TYRE,
    Mesh,
    blob,
    box,
    frustum,
    gable,
)


def tree(height: float, rng: np.random.Generator) -> Mesh:
    """A trunk and a crown: a few rough blobs, or a cone for a conifer."""
    trunk = height * rng.uniform(0.25, 0.4)
    parts = [frustum((0, 0, 0), (0, 0, trunk + 0.6), 0.018 * height, 0.012 * height, BARK, 6)]
    radius = height * rng.uniform(0.2, 0.32)
    if rng.random() < 0.2:
        for f in (0.0, 0.3, 0.6):
            low = trunk * 0.6 + f * (height - trunk)
            parts.append(frustum((0, 0, low), (0, 0, low + 0.45 * height), radius * (1 - f), 0.02, LEAVES, 9))
        return Mesh.merge(parts)
    for _ in range(3):
        x, y, z = rng.uniform(-0.45, 0.45, 3) * radius
        size = radius * rng.uniform(0.6, 1.0)
        parts.append(blob((x, y, trunk + radius + z), (size, size, size * rng.uniform(0.8, 1.1)), LEAVES, rng, 0.22))
    return Mesh.merge(parts)


def bush(size: float, rng: np.random.Generator) -> Mesh:
    return blob((0, 0, 0.35 * size), (size * 0.6, size * 0.5, size * 0.45), LEAVES, rng, 0.2)


def lamp_post(height: float, reach: float) -> Mesh:
    """A street lamp whose arm points along +x."""
    post = frustum((0, 0, 0), (0, 0, height), 0.09, 0.06, METAL, 6)
    arm = frustum((0, 0, height - 0.1), (reach, 0, height + 0.2), 0.05, 0.04, METAL, 4)
    return Mesh.merge([post, arm, box(reach, 0, height + 0.12, 0.6, 0.25, 0.1, LAMP)])


def traffic_light(height: float, reach: float) -> Mesh:
    """A mast whose arm points along +x, with two signal heads facing -y."""
    parts = [frustum((0, 0, 0), (0, 0, height), 0.1, 0.08, METAL, 6)]
    parts.append(frustum((0, 0, height - 0.1), (reach, 0, height), 0.06, 0.05, METAL, 4))
    for x, z in ((0.25, 2.6), (reach, height - 0.6)):
        parts += [box(x, 0, z, 0.32, 0.25, 0.95, TYRE), box(x, -0.14, z + 0.62, 0.2, 0.03, 0.2, TAIL)]
    return Mesh.merge(parts)


def sign(height: float, rng: np.random.Generator) -> Mesh:
    size = rng.uniform(0.5, 0.9)
    post = frustum((0, 0, 0), (0, 0, height), 0.035, 0.035, METAL, 5)
    return Mesh.merge(
        [
            post,
            box(0.04, 0, height - size, 0.03, size, size, BODY),
            box(0.06, 0, height - 0.65 * size, 0.02, 0.6 * size, 0.2 * size, TRIM),
        ]
    )


def street_box(rng: np.random.Generator) -> Mesh:
    """Bins, cabinets, bollards, benches: things of the street that no class covers."""
    kind = rng.integers(4)
    if kind == 0:
        return Mesh.merge(
            [
                frustum((0, 0, 0), (0, 0, 0.95), 0.26, 0.3, BODY, 8),
                frustum((0, 0, 0.95), (0, 0, 1.05), 0.32, 0.2, TRIM, 8),
            ]
        )
    if kind == 1:
        return Mesh.merge([box(0, 0, 0, 0.5, 1.1, 1.3, BODY), box(0, 0, 1.28, 0.6, 1.2, 0.06, METAL)])
    if kind == 2:
        return Mesh.merge(
            [
                frustum((0, 0, 0), (0, 0, 0.9), 0.1, 0.09, TRIM, 7),
                frustum((0, 0, 0.7), (0, 0, 0.78), 0.105, 0.105, REFLECTOR, 7),
            ]
        )
    bench = [box(0, 0, 0.42, 0.45, 1.6, 0.06, BODY), box(-0.2, 0, 0.5, 0.05, 1.6, 0.4, BODY)]
    return Mesh.merge(bench + [box(0, s * 0.6, 0, 0.4, 0.08, 0.42, METAL) for s in (-1, 1)])


def building(length: float, width: float, height: float, rng: np.random.Generator) -> Mesh:
    """A block with a flat or a pitched roof; bays, a plinth or a roof house break the box up."""
    parts = [box(0, 0, 0, length, width, height, FACADE)]
    if height < 9 and rng.random() < 0.75:
        parts.append(gable(length, width, height, height + 0.3 * width * rng.uniform(0.6, 1.1), 0.35, ROOF))
    else:
        parts.append(box(0, 0, height, length + 0.3, width + 0.3, 0.4, ROOF))
        parts.append(box(0.2 * length, 0, height, 0.3 * length, 0.4 * width, rng.uniform(1.5, 3), ROOF))
    if rng.random() < 0.5:
        parts.append(box(0, 0, 0, length + 0.2, width + 0.2, rng.uniform(0.6, 3.2), TRIM))
    for _ in range(rng.integers(0, 3)):
        x, side = rng.uniform(-0.35, 0.35) * length, rng.choice([-1, 1])
        parts.append(box(x, side * width / 2, 0.0, 0.15 * length, 1.0, height * rng.uniform(0.3, 0.9), TRIM))
    return Mesh.merge(parts)
