"""The warehouse from above, drawn with Pillow: the same picture everywhere, without OpenGL."""

import numpy as np
from PIL import Image, ImageDraw

from control.envs.warehouse.layout import GOAL_RADIUS, Layout, movers_at
from control.envs.warehouse.task import Warehouse
from control.envs.warehouse.world import RAY_ANGLES

SMOOTH = 2  # supersampling
FLOOR, SHELF, GOAL, MOVER = (240, 240, 235), (120, 100, 80), (120, 200, 140), (205, 90, 60)
HULL, NOSE, RAY, TRAIL = (50, 90, 180), (250, 250, 250), (190, 205, 235), (240, 150, 30)


class _Canvas:
    """Metres to pixels, y upwards."""

    def __init__(self, size: tuple[float, float], pixels: int):
        self.scale = SMOOTH * pixels / max(size)
        self.height = size[1] * self.scale
        self.image = Image.new("RGB", (round(size[0] * self.scale), round(self.height)), FLOOR)
        self.pen = ImageDraw.Draw(self.image)

    def at(self, point) -> tuple[float, float]:
        return point[0] * self.scale, self.height - point[1] * self.scale

    def disc(self, centre, radius: float, colour) -> None:
        x, y = self.at(centre)
        r = radius * self.scale
        self.pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def line(self, points, colour, width: float) -> None:
        self.pen.line([self.at(point) for point in points], fill=colour, width=max(1, round(width * self.scale)))

    def array(self) -> np.ndarray:
        width, height = self.image.size
        return np.asarray(self.image.resize((width // SMOOTH, height // SMOOTH), Image.LANCZOS))


def _floor(layout: Layout, goal, pixels: int) -> _Canvas:
    canvas = _Canvas(layout.size, pixels)
    canvas.disc(goal, GOAL_RADIUS, GOAL)
    for x0, y0, x1, y1 in layout.boxes:
        (left, bottom), (right, top) = canvas.at((x0, y0)), canvas.at((x1, y1))
        canvas.pen.rectangle((left, top, right, bottom), fill=SHELF)
    return canvas


def draw(warehouse: Warehouse, row: int = 0, trail=(), pixels: int = 480) -> np.ndarray:
    """(H, W, 3) uint8: shelves, goal, movers, rays, the way so far, the vehicle with its heading."""
    layout, world = warehouse.layout[row], warehouse.world
    canvas = _floor(layout, warehouse.goal[row], pixels)
    x, y, heading = world.pose[row]
    ranges = world.rays(warehouse.movers, warehouse.time)[row]
    for angle, length in zip(heading + RAY_ANGLES, ranges, strict=True):
        canvas.line([(x, y), (x + length * np.cos(angle), y + length * np.sin(angle))], RAY, 0.015)
    for mover, at in zip(warehouse.movers[row], movers_at(warehouse.movers, warehouse.time)[row], strict=True):
        canvas.disc(at, mover[6], MOVER)
    if len(trail) > 1:
        canvas.line(trail, TRAIL, 0.05)
    canvas.disc((x, y), warehouse.radius[row], HULL)
    canvas.line([(x, y), (x + 0.25 * np.cos(heading), y + 0.25 * np.sin(heading))], NOSE, 0.06)
    return canvas.array()


def draw_paths(layout: Layout, paths: list[np.ndarray], colours=None, pixels: int = 480) -> np.ndarray:
    """(H, W, 3) uint8: a layout and ways (K, 2) through it, each in its colour (r, g, b)."""
    canvas = _floor(layout, layout.goal, pixels)
    for i, path in enumerate(paths):
        canvas.line(list(path), colours[i] if colours else TRAIL, 0.04)
        canvas.disc(path[0], 0.12, HULL)
    return canvas.array()
