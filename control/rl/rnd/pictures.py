"""What a run looks like from above: ways, visits, the bonus over the floor; and its curves. All PNG."""

from pathlib import Path

import matplotlib
import numpy as np
import torch

from common.engine.workdir import read_metrics
from control.envs.warehouse.layout import Layout
from control.envs.warehouse.pictures import draw_paths
from control.pictures import save_png

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WON, LOST = (60, 150, 80), (210, 80, 60)


def bonus_map(model, size: tuple[float, float], cells: int = 64) -> np.ndarray:
    """(cells, cells) raw bonus over x, y, mean over eight headings; the observation, where it is an input, as zeros."""
    x, y = np.meshgrid(*((np.arange(cells) + 0.5) / cells * side for side in size), indexing="ij")
    found = np.zeros(x.shape)
    for heading in np.arange(8) * np.pi / 4:
        pose = np.stack([x.ravel(), y.ravel(), np.full(x.size, heading)], -1)
        inputs = model.features(np.zeros((x.size, model.observation_space.shape[0]), np.float32), pose)
        found += model.bonus.raw(torch.as_tensor(inputs, device=model.device)).cpu().numpy().reshape(x.shape) / 8
    return found


def draw_map(values: np.ndarray, layout: Layout | None, size: tuple[float, float], title: str, path: Path) -> Path:
    """Values over the floor (x by y) with the shelves on them."""
    figure, axes = plt.subplots(figsize=(5.2, 4.4), layout="constrained")
    image = axes.imshow(values.T, origin="lower", extent=(0, size[0], 0, size[1]), cmap="viridis")
    for x0, y0, x1, y1 in layout.boxes if layout else ():
        axes.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, color="white"))
    if layout:
        axes.plot(*layout.start, "o", color="tab:blue")
        axes.plot(*layout.goal, "*", color="tab:red", markersize=12)
    axes.set(xlabel="x, m", ylabel="y, m", title=title)
    figure.colorbar(image, ax=axes)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def draw_run(runner, ways: list[np.ndarray], folder: Path) -> list[Path]:
    """Ways of an evaluation, and where its config has one layout the bonus and the visits over it."""
    from control.rl.rnd.warehouses import _holders, arena

    layouts = _holders(runner.model.env)[0].layouts
    layout, size = (layouts if isinstance(layouts, Layout) else None), arena(runner.model.env)
    made = []
    if layout:
        goal = np.array(layout.goal)
        colours = [WON if np.linalg.norm(way[-1] - goal) < 0.75 else LOST for way in ways]
        made.append(save_png(draw_paths(layout, ways[:30], colours[:30]), folder / "ways.png"))
    made.append(draw_map(bonus_map(runner.model, size), layout, size, "bonus", folder / "bonus.png"))
    return made


def draw_curves(runs: dict[str, list[str | Path]], path: Path, keys=("rollout/success_rate", "rnd/coverage")) -> Path:
    """Curves of work directories by name: the mean over a name's runs and the band between its worst and best."""
    figure, all_axes = plt.subplots(1, len(keys), figsize=(4.6 * len(keys), 3.4), layout="constrained", squeeze=False)
    for axes, key in zip(all_axes[0], keys, strict=True):
        for name, folders in runs.items():
            curves = [[(row["step"], row[key]) for row in read_metrics(folder) if key in row] for folder in folders]
            grid = np.linspace(0, min(curve[-1][0] for curve in curves), 100)
            values = np.array([np.interp(grid, *zip(*curve, strict=True)) for curve in curves])
            axes.plot(grid / 1000, values.mean(0), label=name)
            axes.fill_between(grid / 1000, values.min(0), values.max(0), alpha=0.15)
        axes.set(xlabel="steps, thousands", ylabel=key.split("/")[-1].replace("_", " "), ylim=(-0.02, 1.02))
    all_axes[0][0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
