"""The warehouses by name, and random ones. The drawings are reconstructions: the paper's could not be retrieved."""

import numpy as np

from common.errors import ConfigError
from control.envs.warehouse.geodesic import Geodesic
from control.envs.warehouse.layout import HULL_RADIUS, Layout, LayoutError, Mover, free_points, with_outer_walls

CONTROL_PERIOD = 0.2  # s
MAX_SPEED = 1.0  # m/s

LATTICE = 0.5  # m, of random layouts
MARGIN = 0.1  # m that a random layout leaves beside the hull on some way
TRIES = 100


def _wall(y: float, low: float, high: float) -> tuple[float, float, float, float]:
    """A wall along x, 0.2 m thick."""
    return (low, y - 0.1, high, y + 0.1)


def _shelf(x: float, y: float, width: float = 1.2, depth: float = 0.4) -> tuple[float, float, float, float]:
    return (x - width / 2, y - depth / 2, x + width / 2, y + depth / 2)


def _levels() -> dict[str, Layout]:
    simple = dict(size=(8.0, 8.0), boxes=(_wall(4, 0, 6), _shelf(5.5, 2.2), _shelf(3.5, 6.0)), start=(1.0, 1.0),
                  goal=(1.0, 7.0), max_steps=200)  # fmt: skip
    simple_movers = tuple(Mover((x, 1.2), (x, 7.0)) for x in (2.0, 4.4, 6.8))
    complex_ = dict(
        size=(12.0, 12.0),
        boxes=(_wall(4, 0, 9.6), _wall(8, 2.4, 12), *(_shelf(x, y, 1.6) for x in (4, 8) for y in (2, 6, 10))),
        start=(1.0, 1.0),
        goal=(11.0, 11.0),
    )
    # one along every aisle and one across every gap: the sheet gives the number, not the places
    complex_movers = (
        Mover((2.0, 3.0), (9.0, 3.0), 0.6), Mover((3.0, 5.0), (10.5, 5.0), 0.6), Mover((1.5, 7.0), (9.0, 7.0), 0.6),
        Mover((3.0, 9.0), (10.5, 9.0), 0.6), Mover((10.8, 2.0), (10.8, 6.5), 0.5), Mover((1.2, 5.5), (1.2, 10.0), 0.5),
    )  # fmt: skip
    simple10 = (_wall(5, 0, 7.5), _shelf(7, 2.5), _shelf(4, 7.5))
    complex10 = (_wall(3.35, 0, 7.4), _wall(6.65, 2.6, 10), _shelf(3.5, 1.7), _shelf(6.5, 5.0), _shelf(4.0, 8.4))
    levels = [
        Layout("Simple", **simple),
        Layout("Simple10", (10.0, 10.0), simple10, (1.0, 1.0), (1.0, 9.0), max_steps=250),
        Layout("SimpleDynamic", **simple, movers=simple_movers),
        Layout("Complex10", (10.0, 10.0), complex10, (1.0, 1.0), (9.0, 9.0), max_steps=400),
        Layout("Complex", **complex_, max_steps=500),
        Layout("ComplexDynamic", **complex_, max_steps=600, movers=complex_movers),
    ]  # fmt: skip
    return {one.name: one for one in levels}


LEVELS = _levels()
NAMES = (*LEVELS, "Random")


def level(name: str) -> Layout:
    """A layout by its name. Raises ConfigError."""
    if name not in LEVELS:
        raise ConfigError(f"no warehouse {name!r}; choose one of {', '.join(NAMES)}, or give a Layout")
    return LEVELS[name]


def random_layout(seed: int, movers: int = 0, size: tuple[float, float] = (8.0, 16.0)) -> Layout:
    """Shelves and walls with gaps on a 0.5 m lattice, start and goal at free places; the same seed, the same layout.

    Kept only if the hull with 0.1 m to spare finds a way of 0.8 to 2.5 diagonals. size: range of the arena's sides.
    Raises LayoutError after 100 draws.
    """
    draws = np.random.default_rng([seed, 2404])
    for _ in range(TRIES):
        found = _draw(draws, seed, movers, size)
        if found is not None:
            return found
    raise LayoutError(f"seed {seed}: no solvable layout of size {size} in {TRIES} draws")


def _draw(draws: np.random.Generator, seed: int, movers: int, size: tuple[float, float]) -> Layout | None:
    width, height = (LATTICE * draws.integers(round(size[0] / LATTICE), round(size[1] / LATTICE) + 1, 2)).tolist()
    boxes = []
    for y in _rows(draws, height):  # walls from one side, the gap at the other
        gap = LATTICE * draws.integers(3, 6)
        boxes.append(_wall(y, 0, width - gap) if draws.random() < 0.5 else _wall(y, gap, width))
    for _ in range(round(width * height / 12)):
        x, y = LATTICE * draws.integers(2, 2 * width - 1), LATTICE * draws.integers(2, 2 * height - 1)
        across = draws.random() < 0.5
        boxes.append(_shelf(float(x), float(y), *((1.2, 0.4) if across else (0.4, 1.2))))
    obstacles = with_outer_walls((width, height), tuple(boxes))
    x, y = np.meshgrid(np.arange(1, 2 * width), np.arange(1, 2 * height), indexing="ij")
    lattice = LATTICE * np.stack([x, y], -1).reshape(-1, 2)
    places = lattice[free_points((width, height), obstacles, lattice, MARGIN)]
    if len(places) < 2:
        return None
    start, goal = places[draws.integers(len(places), size=2)]
    diagonal = np.hypot(width, height)
    length = Geodesic(obstacles, HULL_RADIUS + MARGIN, goal).distance(start)
    if not 0.8 * diagonal <= length <= 2.5 * diagonal:
        return None
    steps = int(np.ceil(4 * length / MAX_SPEED / CONTROL_PERIOD))
    return Layout("Random", (width, height), tuple(boxes), tuple(start.tolist()), tuple(goal.tolist()), steps,
                  _mover_lines(draws, width, height, movers), start_jitter=0.0, seed=seed)  # fmt: skip


def _rows(draws: np.random.Generator, height: float) -> list[float]:
    """Heights of the walls: none, one or two, at least 2.5 m apart and from the ends."""
    count = int(draws.integers(0, 1 + min(2, int(height // 4))))
    return [float(LATTICE * round(height * (i + 1) / (count + 1) / LATTICE)) for i in range(count)]


def _mover_lines(draws: np.random.Generator, width: float, height: float, count: int) -> tuple[Mover, ...]:
    """Movers along x or y; in the simulation they pass through walls and shelves as the levels' movers do."""
    lines = []
    for _ in range(count):
        x, y = draws.uniform(1, width - 1), draws.uniform(1, height - 1)
        line = ((x, 1.0), (x, height - 1.0)) if draws.random() < 0.5 else ((1.0, y), (width - 1.0, y))
        lines.append(Mover(*line, speed=float(draws.uniform(0.3, 0.8))))
    return tuple(lines)
