"""From a scan and the scene around it to a training sample: crops, thinning, augmentation (LiDiff, CVPR 2024).

Clouds are (N, 3) arrays in metres, sensor at the origin; nothing is normalised. Every function that draws takes a
numpy generator.
"""

import numpy as np

from common.errors import DataError
from perception.completion.cells import keys
from perception.completion.profiles import Profile

FLOOR = -4.0  # m: lower points are reflections
TILT = 0.06  # rad: standard deviation of the small rotations, cut at three times it
SCALE = (0.95, 1.05)
GRIDS = 14  # that `spread` tries


def in_range(points: np.ndarray, radius: float, near: float = 0.0, floor: float = FLOOR) -> np.ndarray:
    """(N,) bool: near < r < radius and z > floor."""
    distance = np.linalg.norm(points, axis=1)
    return (distance > near) & (distance < radius) & (points[:, 2] > floor)


def check_cloud(points: np.ndarray, name: str) -> np.ndarray:
    """The points, float32. Raises DataError for another shape, an empty cloud, or points that are not finite."""
    points = np.asarray(points, np.float32)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise DataError(f"{name}: the cloud is {points.shape}, wanted (N, 3) with N > 0")
    if not np.isfinite(points).all():
        raise DataError(f"{name}: {int((~np.isfinite(points)).any(1).sum())} points are not finite: remove them first")
    return points


def thinned(points: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(count, 3): random points without repetition; where there are too few, all of them as often as needed."""
    whole, rest = divmod(count, len(points))
    order = [random.permutation(len(points)) for _ in range(whole)] + [random.permutation(len(points))[:rest]]
    return points[np.concatenate(order)]


def spread(points: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(count, 3): random points, evenly over the space that points (P, 3) take: one from each cell of the coarsest grid
    that has at least `count` of them. As even as the farthest-point sampling of released code, at the cost of a sort.
    Where there are too few points, all of them as often as needed."""
    if len(points) <= count:
        return thinned(points, count, random)
    points = points[random.permutation(len(points))]
    origin = points.min(0) - random.random(3)

    def firsts(edge: float) -> np.ndarray:
        cells = np.floor((points - origin) / edge).astype(np.int64)
        return np.unique(keys(cells), return_index=True)[1]

    fine, coarse = 1e-3, float(np.ptp(points, axis=0).max()) + 1.0
    chosen = np.arange(len(points))
    for _ in range(GRIDS):
        edge = (fine * coarse) ** 0.5
        found = firsts(edge)
        if len(found) >= count:
            fine, chosen = edge, found
        else:
            coarse = edge
    return points[random.permutation(chosen)[:count]]


def visible(scene: np.ndarray, scan: np.ndarray, cube: float) -> np.ndarray:
    """(N,) bool: the scene's points in cubes that hold a point of the scan; the grid begins half a cube below it."""
    origin = scan.min(0) - cube / 2
    ours, seen = (np.floor((one - origin) / cube).astype(np.int64) for one in (scene, scan))
    low = np.minimum(ours.min(0), seen.min(0))
    span = np.maximum(ours.max(0), seen.max(0)) - low + 1
    flat = [np.ravel_multi_index(tuple((one - low).T), tuple(span)) for one in (ours, seen)]
    return np.isin(flat[0], flat[1])


def augmentation(random: np.random.Generator) -> np.ndarray:
    """(3, 3) for both clouds of a sample: any turn about z, small turns about all axes, a scale, y mirrored half the
    time."""

    def turn(axis: int, angle: float) -> np.ndarray:
        i, j = ((1, 2), (2, 0), (0, 1))[axis]
        matrix = np.eye(3)
        matrix[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        return matrix

    matrix = turn(2, random.uniform(0, 2 * np.pi))
    for axis, angle in enumerate(np.clip(random.normal(0, TILT, 3), -3 * TILT, 3 * TILT)):
        matrix = turn(axis, angle) @ matrix
    matrix = random.uniform(*SCALE) * matrix
    return np.diag([1.0, -1.0 if random.random() < 0.5 else 1.0, 1.0]) @ matrix


def make_sample(
    scan: np.ndarray, scene: np.ndarray, profile: Profile, random: np.random.Generator, train: bool = False,
    name: str = "sample", dense: int = 0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """{"scan": (scan_points, 3), "scene": (scene_points, 3)} float32; augmented where `train`. dense: also "dense", so
    many times as many points of the scene.

    Raises: DataError for clouds that are empty, before or after the crops, or not finite.
    """
    scan, scene = check_cloud(scan, f"{name}, scan"), check_cloud(scene, f"{name}, scene")
    scan = scan[in_range(scan, profile.radius, profile.near)]
    scene = scene[in_range(scene, profile.radius)]
    if not len(scan) or not len(scene):
        raise DataError(
            f"{name}: {len(scan)} points of the scan and {len(scene)} of the scene lie within {profile.radius} m (the "
            f"scan's farther than {profile.near} m): is the sensor at the origin?"
        )
    scene = scene[visible(scene, scan, profile.cube)]
    if not len(scene):
        raise DataError(f"{name}: no point of the scene is near the scan: are both in the scan's frame?")
    if train:
        matrix = augmentation(random).astype(np.float32)
        scan, scene = scan @ matrix.T, scene @ matrix.T
    drawn = {"scan": spread(scan, profile.scan_points, random), "scene": thinned(scene, profile.scene_points, random)}
    if dense:
        drawn["dense"] = thinned(scene, dense * profile.scene_points, random)
    return {key: np.ascontiguousarray(points, np.float32) for key, points in drawn.items()}


def kept_output(points: np.ndarray, scan: np.ndarray, radius: float) -> np.ndarray:
    """(N,) bool, the released output filter: r < radius, mean(z) - 2 std(z) < z < max(z) of the scan."""
    z = scan[:, 2]
    height = (points[:, 2] > z.mean() - 2 * z.std()) & (points[:, 2] < z.max())
    return height & (np.linalg.norm(points, axis=1) < radius)


def deduplicated(points: np.ndarray, cell: float = 0.1) -> np.ndarray:
    """The first point in each cell of a grid, in their order."""
    _, first = np.unique(np.floor(points / cell).astype(np.int64), axis=0, return_index=True)
    return points[np.sort(first)]
