"""What a warehouse looks like: walls, shelves, movers, start and goal. Serialisable, checked, and drawn at random."""

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from common.errors import DataError
from control.envs.warehouse.geometry import boxes_to_points, segments_blocked

HULL_RADIUS = 0.25  # m, of the AGV
GOAL_RADIUS = 0.5  # m
WALL = 0.2  # m, thickness
GOAL_MODES = ("fixed", "random", "moving")


class LayoutError(DataError):
    """A layout is malformed, has its start or goal inside something, or cannot be solved."""


def with_outer_walls(size: tuple[float, float], boxes: tuple) -> np.ndarray:
    """(B + 4, 4): boxes, and the four walls around the arena."""
    w, h = size
    walls = [(-WALL, -WALL, 0, h + WALL), (w, -WALL, w + WALL, h + WALL), (-WALL, -WALL, w + WALL, 0),
             (-WALL, h, w + WALL, h + WALL)]  # fmt: skip
    return np.array([*boxes, *walls], np.float64)


def free_points(size: tuple[float, float], obstacles: np.ndarray, points: np.ndarray, margin: float = 0.0):
    """(N,) whether the hull at points (N, 2) is inside the arena and clear of obstacles by more than `margin` m."""
    points = np.atleast_2d(np.asarray(points, np.float64))
    inside = ((points > 0) & (points < size)).all(-1)
    return inside & (boxes_to_points(points, obstacles).min(-1) > HULL_RADIUS + margin)


@dataclass(frozen=True)
class Mover:
    """A cylinder that goes to and fro between two way points (m) at a constant speed (m/s)."""

    begin: tuple[float, float]
    end: tuple[float, float]
    speed: float = 0.8
    radius: float = 0.25


@dataclass(frozen=True)
class Layout:
    """size: of the arena, m, from (0, 0). boxes: (x low, y low, x high, y high), m. start: centre of the start square
    of half side start_jitter. goal_mode: "fixed"; "random": a free place drawn at every reset; "moving": between `goal`
    and `goal_end` at goal_speed. max_steps: control steps of an episode."""

    name: str
    size: tuple[float, float]
    boxes: tuple[tuple[float, float, float, float], ...]
    start: tuple[float, float]
    goal: tuple[float, float]
    max_steps: int
    movers: tuple[Mover, ...] = ()
    start_jitter: float = 0.3
    goal_mode: str = "fixed"
    goal_end: tuple[float, float] | None = None
    goal_speed: float = 0.3
    seed: int = field(default=-1)  # of a random layout

    def __post_init__(self):
        check(self)

    @cached_property
    def obstacles(self) -> np.ndarray:
        """(B + 4, 4): the boxes, and the four outer walls."""
        return with_outer_walls(self.size, self.boxes)

    @cached_property
    def diagonal(self) -> float:
        return float(np.hypot(*self.size))

    def free(self, points: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """(N,) whether the hull at points (N, 2) keeps clear of walls and shelves by more than `margin` m."""
        return free_points(self.size, self.obstacles, points, margin)

    def to_json(self, path: str | Path | None = None) -> str:
        """The layout as JSON; also written to `path` where given."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        if path is not None:
            Path(path).write_text(text)
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> "Layout":
        """From a file, or from the text itself. Raises LayoutError that names the file and the key."""
        text, name = str(source), "the layout"
        if not text.lstrip().startswith("{"):
            name = text
            try:
                text = Path(text).read_text()
            except OSError as error:
                raise LayoutError(f"{name}: {error.strerror}") from error
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise LayoutError(f"{name} is no JSON: {error}") from error
        try:
            return cls(**_typed(raw))
        except LayoutError as error:
            raise LayoutError(f"{name}: {error}") from error


def _typed(raw: dict) -> dict:
    """Lists as tuples, movers as Movers. Raises LayoutError that names the key."""
    known = {one.name for one in fields(Layout)}
    if not isinstance(raw, dict):
        raise LayoutError(f"wanted an object with the keys {', '.join(sorted(known))}")
    if unknown := sorted(set(raw) - known):
        raise LayoutError(f"unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    if missing := sorted({"name", "size", "boxes", "start", "goal", "max_steps"} - set(raw)):
        raise LayoutError(f"key {missing[0]!r} is missing")
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    try:
        made["boxes"] = tuple(tuple(box) for box in raw["boxes"])
        made["movers"] = tuple(
            Mover(tuple(one["begin"]), tuple(one["end"]), **{k: one[k] for k in ("speed", "radius") if k in one})
            for one in raw.get("movers", ())
        )
    except (TypeError, KeyError) as error:
        raise LayoutError(f"boxes are lists of four numbers, movers objects with begin and end: {error!r}") from error
    return made


def _numbers(key: str, value, count: int) -> None:
    if not isinstance(value, tuple) or len(value) != count or not all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and np.isfinite(one) for one in value
    ):  # fmt: skip
        raise LayoutError(f"{key}={value!r}: wanted {count} finite numbers")


def check(layout: Layout) -> None:
    """Raises LayoutError that names the key and the place."""
    for key in ("size", "start", "goal"):
        _numbers(key, getattr(layout, key), 2)
    if min(layout.size) < 4 * HULL_RADIUS:
        raise LayoutError(f"size={layout.size}: no room for a hull of radius {HULL_RADIUS} m")
    for i, box in enumerate(layout.boxes):
        _numbers(f"boxes[{i}]", box, 4)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise LayoutError(f"boxes[{i}]={box}: wanted (x low, y low, x high, y high)")
    for i, mover in enumerate(layout.movers):
        _numbers(f"movers[{i}].begin", mover.begin, 2)
        _numbers(f"movers[{i}].end", mover.end, 2)
        _numbers(f"movers[{i}]: (speed, radius)", (mover.speed, mover.radius), 2)
        if mover.begin == mover.end or not mover.speed > 0 or not mover.radius > 0:
            raise LayoutError(f"movers[{i}]={mover}: wanted two way points, speed and radius above 0")
    if layout.goal_mode not in GOAL_MODES:
        raise LayoutError(f"goal_mode={layout.goal_mode!r}: choose one of {', '.join(GOAL_MODES)}")
    if layout.goal_mode == "moving" and layout.goal_end is None:
        raise LayoutError("goal_mode='moving' needs goal_end")
    if not isinstance(layout.max_steps, int) or layout.max_steps < 1:
        raise LayoutError(f"max_steps={layout.max_steps!r}: wanted a number of control steps, 1 or more")
    places = {"start": layout.start, "goal": layout.goal, "goal_end": layout.goal_end}
    for key, place in places.items():
        if place is None:
            continue
        _numbers(key, place, 2)
        if not layout.free(place)[0]:
            nearest = layout.obstacles[boxes_to_points(np.array([place], float), layout.obstacles)[0].argmin()]
            box = tuple(float(one) for one in nearest)
            raise LayoutError(
                f"{key}={place} is inside the wall or shelf {box}, or nearer than the hull's radius, {HULL_RADIUS} m: "
                "move it"
            )
    _numbers("(start_jitter, goal_speed)", (layout.start_jitter, layout.goal_speed), 2)
    jitter, start, boxes = layout.start_jitter, np.array(layout.start), layout.obstacles
    gap = np.maximum(0, np.maximum(boxes[:, :2] - start, start - boxes[:, 2:]) - jitter)  # of the square's edges
    if jitter < 0 or (np.linalg.norm(gap, axis=1) <= HULL_RADIUS).any():
        raise LayoutError(f"start_jitter={jitter}: around start={layout.start} there is not that much room")
    if layout.goal_mode == "moving":
        line = np.array([layout.goal, layout.goal_end], np.float64)
        if not layout.goal_speed > 0 or segments_blocked(line[:1], line[1:], boxes, HULL_RADIUS)[0]:
            raise LayoutError(
                f"goal_mode='moving' at goal_speed={layout.goal_speed}: wanted more than 0, and a line from "
                f"{layout.goal} to {layout.goal_end} that keeps {HULL_RADIUS} m off walls and shelves"
            )


def movers_at(movers: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Positions (N, M, 2) of movers (N, M, 7) at `time` (N,): begin x, y, end x, y, speed, phase, radius.

    A triangle wave: phase 0 .. 2 in legs, 0 at `begin`, 1 at `end`.
    """
    begin, end = movers[..., :2], movers[..., 2:4]
    length = np.sqrt(((end - begin) ** 2).sum(-1))
    legs = movers[..., 5] + movers[..., 4] * time[:, None] / length
    share = 1 - np.abs(np.mod(legs, 2.0) - 1)
    return begin + share[..., None] * (end - begin)


def discs_at(movers: np.ndarray, time: np.ndarray) -> np.ndarray:
    """(N, M, 3) x, y, radius of movers (N, M, 7) at `time` (N,)."""
    if not movers.shape[1]:
        return np.zeros((len(movers), 0, 3))
    return np.concatenate([movers_at(movers, time), movers[..., 6:]], -1)


def mover_rows(layout: Layout, phases: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """(M, 7) for `movers_at`; phases (M,); scale of the speeds. A moving goal is no mover."""
    rows = [(*one.begin, *one.end, one.speed * scale, phase, one.radius)
            for one, phase in zip(layout.movers, phases, strict=True)]  # fmt: skip
    return np.array(rows, np.float64).reshape(-1, 7)
