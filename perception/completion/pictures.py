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


def draw_clouds(clouds: dict[str, np.ndarray], radius: float, path: str | Path, dots: float = 1.0) -> Path:
    """One column per cloud (P, 3) under its name: from above, the car driving to the right, and from behind it.

    Args: radius in metres of what is shown from above; dots: size of a point.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    path = Path(path)
    figure, axes = plt.subplots(
        2, len(clouds), figsize=(4.6 * len(clouds), 7.6), layout="constrained", squeeze=False, facecolor="black",
        height_ratios=(1.0, 0.62),
    )  # fmt: skip
    style = {"cmap": "turbo", "vmin": HEIGHTS[0], "vmax": HEIGHTS[1], "linewidths": 0}
    for (name, points), above, behind in zip(clouds.items(), *axes, strict=True):
        order = np.argsort(points[:, 2])
        above.scatter(*points[order, :2].T, c=points[order, 2], s=2.5 * dots, **style)
        above.set(xlim=(-radius, radius), ylim=(-radius, radius), aspect="equal")
        above.set_title(f"{name}, {len(points)} points", color="white")
        place, depth, row = seen_from_behind(points)
        behind.scatter(*place.T, c=points[row, 2], s=dots * np.clip(160 / depth**1.5, 1, 40), **style)
        behind.set(xlim=(-1, 1), ylim=(-0.62, 0.62), aspect="equal")
        for one in (above, behind):
            one.set_facecolor("black")
            one.set_xticks([])
            one.set_yticks([])
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
