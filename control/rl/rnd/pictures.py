"""What a run looks like from above: ways, the bonus over the floor, where it has been. All PNG."""

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


def _floor_map(axes, values: np.ndarray, layout: Layout | None, size: tuple[float, float], title: str) -> None:
    """Values over the floor (x by y) with the shelves on them."""
    image = axes.imshow(values.T, origin="lower", extent=(0, size[0], 0, size[1]), cmap="viridis")
    for x0, y0, x1, y1 in layout.boxes if layout else ():
        axes.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, color="white"))
    if layout:
        axes.plot(*layout.start, "o", color="tab:blue")
        axes.plot(*layout.goal, "*", color="tab:red", markersize=12)
    axes.set(xlabel="x, m", ylabel="y, m", title=title)
    axes.figure.colorbar(image, ax=axes)


def _save_maps(maps: dict[str, np.ndarray], layout: Layout | None, size: tuple[float, float], path: Path) -> Path:
    """Maps by title, side by side."""
    figure, axes = plt.subplots(1, len(maps), figsize=(5.2 * len(maps), 4.4), layout="constrained", squeeze=False)
    for panel, (title, values) in zip(axes[0], maps.items(), strict=True):
        _floor_map(panel, values, layout, size, title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _visits(runner) -> dict[str, np.ndarray]:
    return {f"log10 (1 + visits), coverage {runner.coverage.share:.2f}":
            np.log10(1 + runner.coverage.visits)}  # fmt: skip


def draw_training(runner, folder: Path) -> Path:
    """map_STEPS.png: where the bonus is now and where the training has been; without a bonus the latter alone."""
    model, size = runner.model, arena(runner.model.env)
    bonus = {f"bonus at {model.num_timesteps:,} steps": bonus_map(model, size)} if runner.has_bonus else {}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"map_{model.num_timesteps:09d}.png"
    return _save_maps({**bonus, **_visits(runner)}, layout_of(model.env), size, path)


def draw_run(runner, ways: list[np.ndarray], won: list[bool], folder: Path) -> list[Path]:
    """bonus.png, where there is one; coverage.png; and where the config has one layout ways.png, the ways of an
    evaluation, green those that reached the goal."""
    layout, size = layout_of(runner.model.env), arena(runner.model.env)
    made = []
    if layout:
        colours = [WON if reached else LOST for reached in won[:30]]
        made.append(save_png(draw_paths(layout, ways[:30], colours), folder / "ways.png"))
    if runner.has_bonus:
        made.append(_save_maps({"bonus": bonus_map(runner.model, size)}, layout, size, folder / "bonus.png"))
    return [*made, _save_maps(_visits(runner), layout, size, folder / "coverage.png")]
