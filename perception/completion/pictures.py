"""Pictures of clouds beside each other: from above and from behind the car, coloured by height. Written as PNG."""

from pathlib import Path

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

CAMERA = (-7.0, 0.0, 3.0)  # m, in the sensor's frame: behind and above it
DOWN = np.deg2rad(14)  # the camera's tilt
FOCAL = 0.9  # of half the picture's width
NEAR = 1.0  # m before the camera
RATIO = 0.62  # height over width of the view from behind
HEIGHTS = (-2.2, 4.0)  # m of the colours' range
SHOWN = {"scan": "scan", "completion": "prediction", "truth": "truth"}


def seen_from_behind(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (P, 3) through a pinhole behind the sensor that looks ahead and down: image places (M, 2), half a width
    being 1, depths (M,) in metres, far ones first, and the rows (M,) of points."""
    x, y, z = (points - CAMERA).T
    depth = np.cos(DOWN) * x - np.sin(DOWN) * z
    up = np.sin(DOWN) * x + np.cos(DOWN) * z
    row = np.flatnonzero(depth > NEAR)
    row = row[np.argsort(-depth[row])]
    place = FOCAL * np.stack([-y[row], up[row]], 1) / depth[row, None]
    return place, depth[row], row


def limits(places: np.ndarray, ratio: float, share: float = 0.3) -> tuple[tuple[float, float], tuple[float, float]]:
    """x and y limits of a frame, `ratio` times as high as wide, around places (P, 2) but for the outermost `share` per
    cent on each side."""
    low, high = np.percentile(places, [share, 100 - share], axis=0)
    centre, half = (low + high) / 2, 0.53 * (high - low)
    wide = max(half[0], half[1] / ratio, 1e-3)
    return (centre[0] - wide, centre[0] + wide), (centre[1] - ratio * wide, centre[1] + ratio * wide)


def draw_clouds(clouds: dict[str, np.ndarray], radius: float, path: str | Path, dots: float = 1.0) -> Path:
    """One column per cloud (P, 3) under its name: from above, the car driving to the right, and from behind it. All
    columns show the same frame, which holds what lies within radius metres; dots: size of a point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    path = Path(path)
    figure, axes = plt.subplots(
        2, len(clouds), figsize=(4.6 * len(clouds), 7.6), layout="constrained", squeeze=False, facecolor="black",
        height_ratios=(1.0, RATIO),
    )  # fmt: skip
    style = {"cmap": "turbo", "vmin": HEIGHTS[0], "vmax": HEIGHTS[1], "linewidths": 0}
    near = {name: points[np.linalg.norm(points, axis=1) < radius] for name, points in clouds.items()}
    views = {name: seen_from_behind(points) for name, points in near.items()}
    above_frame = limits(np.concatenate([points[:, :2] for points in near.values()]), 1.0)
    behind_frame = limits(np.concatenate([place for place, _, _ in views.values()]), RATIO)
    zoom = 2 / (behind_frame[0][1] - behind_frame[0][0])
    for (name, points), above, behind in zip(near.items(), *axes, strict=True):
        order = np.argsort(points[:, 2])
        above.scatter(*points[order, :2].T, c=points[order, 2], s=2.5 * dots, **style)
        above.set_title(f"{name}, {len(clouds[name])} points", color="white")
        place, depth, row = views[name]
        behind.scatter(*place.T, c=points[row, 2], s=dots * np.clip(160 * zoom / depth**1.5, 1, 40), **style)
        for one, (x, y) in ((above, above_frame), (behind, behind_frame)):
            one.set(xlim=x, ylim=y, aspect="equal", facecolor="black", xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="black")
    plt.close(figure)
    return path


@HOOKS.register_module()
class DrawScenes(Hook):
    """`tutelage test` draws its first `count` scenes, scan, completion and truth, as WORK_DIR/scene_SEED.png. radius in
    metres of what is shown."""

    def __init__(self, radius: float, count: int = 3):
        self.radius, self.count, self._drawn = radius, count, 0

    def before_test(self, runner) -> None:
        self._drawn = 0

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for one in (outputs or [])[: self.count - self._drawn] if is_main_process() else []:
            clouds = {name: one[key].cpu().numpy() for name, key in SHOWN.items()}
            draw_clouds(clouds, self.radius, Path(runner.work_dir) / f"scene_{one['seed']}.png")
            self._drawn += 1
