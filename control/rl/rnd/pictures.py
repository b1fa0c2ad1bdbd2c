"""What a run looks like from above: ways, and the bonus over the floor. All PNG."""

from pathlib import Path

import matplotlib
import numpy as np
import torch

from control.envs.warehouse.layout import Layout
from control.envs.warehouse.pictures import draw_paths
from control.pictures import save_png
from control.rl.rnd.warehouses import arena, layout_of

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
    """The bonus over the floor, and where the config has one layout the ways of an evaluation through it."""
    layout, size = layout_of(runner.model.env), arena(runner.model.env)
    made = []
    if layout:
        goal = np.array(layout.goal)
        colours = [WON if np.linalg.norm(way[-1] - goal) < 0.75 else LOST for way in ways]
        made.append(save_png(draw_paths(layout, ways[:30], colours[:30]), folder / "ways.png"))
    made.append(draw_map(bonus_map(runner.model, size), layout, size, "bonus", folder / "bonus.png"))
    return made
