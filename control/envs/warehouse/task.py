"""N warehouses side by side: commands in, observations, rewards and measures of the episodes out. Simulation-blind."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from gymnasium.error import InvalidAction

from common.errors import ConfigError
from control.envs.warehouse import measures
from control.envs.warehouse.geodesic import Geodesic
from control.envs.warehouse.geometry import FAR, clearance, segments_blocked, with_row
from control.envs.warehouse.layout import (
    GOAL_RADIUS,
    HULL_RADIUS,
    Layout,
    LayoutError,
    discs_at,
    mover_rows,
    movers_at,
)
from control.envs.warehouse.levels import CONTROL_PERIOD, MAX_SPEED
from control.envs.warehouse.options import SPEEDS, Options
from control.envs.warehouse.world import RAY_RANGE, RAYS, YAW_RATE, World

RUNNING = ("movers", "goal_line", "start", "previous", "steps", "limit", "gain", "radius", "late", "pending",
           "diagonal", "size", "path", "nearest", "turning", "contacts", "potential")  # fmt: skip
SIGHT = 3.0  # m, of a goal that is seen only in line of sight
POSE = slice(41, 45)  # of an observation with the pose


class ActionError(InvalidAction, ValueError):
    """An action is of a wrong shape, out of range or no number."""


@dataclass(frozen=True)
class Pool:
    """Layouts that episodes draw from: seeds first .. first + count - 1. make: seed -> layout."""

    first: int
    count: int
    make: Callable[[int], Layout]

    def __call__(self, drawn: int) -> Layout:
        """The layout of a number drawn at random, 0 or more."""
        return self.make(self.first + drawn % self.count)

    def option(self, number: int) -> dict[str, int]:
        """For `reset(options=...)`: the layout of a number, 0, 1, .., so that each comes equally often."""
        return {"layout_seed": self.first + number % self.count}


@lru_cache(maxsize=4096)
def ways_to(layout: Layout, goal: tuple[float, float]) -> Geodesic:
    """Shortest ways of the hull to a goal in a layout, kept. Raises LayoutError where the start has none."""
    ways = Geodesic(layout.obstacles, HULL_RADIUS, np.array(goal))
    if not np.isfinite(ways.distance(np.array(layout.start))):
        raise LayoutError(f"layout {layout.name!r}: no way for a hull of radius {HULL_RADIUS} m from {layout.start} to "
                          f"{goal}: leave a gap of more than {2 * HULL_RADIUS} m, or move start or goal")  # fmt: skip
    return ways


class Warehouse:
    """State of N episodes. Arrays have the rows of the N vehicles.

    Args: world; layouts: a Pool, or one Layout; options; count N; max_steps: control steps of an episode, by default
        the layout's.
    """

    def __init__(self, world: World, layouts: Layout | Pool, options: Options, count: int,
                 max_steps: int | None = None):  # fmt: skip
        if max_steps is not None and max_steps < 1:
            raise ConfigError(f"max_steps={max_steps!r}: wanted a number of control steps, 1 or more")
        self.world, self.layouts, self.options, self.max_steps = world, layouts, options, max_steps
        if isinstance(layouts, Layout):
            ways_to(layouts, layouts.goal)  # unsolvable: now rather than at the end of an episode
        self.layout: list[Layout] = [None] * count
        self.movers = np.zeros((count, 0, 7))
        self.boxes = np.full((count, 1, 4), FAR)
        self.goal_line = np.zeros((count, 1, 7))  # the goal as a mover; speed 0 where it stands
        self.start, self.previous = np.zeros((count, 2)), np.zeros((count, 2))
        self.steps, self.limit = np.zeros(count, int), np.ones(count, int)
        self.gain, self.radius = np.ones((count, 2)), np.full(count, HULL_RADIUS)
        self.late, self.pending = np.zeros(count, bool), np.zeros((count, 2))
        self.diagonal, self.size = np.ones(count), np.ones((count, 2))
        self.path, self.nearest = np.zeros(count), np.full(count, np.inf)
        self.turning, self.contacts = np.zeros(count), np.zeros(count, int)
        self.potential = np.zeros(count)
        self.random: list[np.random.Generator] = [None] * count
        low, high = SPEEDS[options.speed]
        self._slope = np.array([(high - low) / 2, YAW_RATE])  # of a command over its action
        self._offset = np.array([(high + low) / 2, 0.0])
        self._goals_move = False

    def reset(self, row: int, random: np.random.Generator, start=None, goal=None, layout_seed: int | None = None):
        """Begin an episode of vehicle `row`; everything random of it comes from `random`, kept for its steps.

        start: (x, y) or (x, y, heading); goal: (x, y); layout_seed: of a random layout, also of one outside the pool.
        Raises LayoutError for a place inside something, or without a way to the goal; ConfigError for a layout_seed
        where there is one layout.
        """
        draw = self.options.randomisation
        layout = self._layout(random, layout_seed)
        self.random[row] = random
        self.layout[row] = layout
        self.diagonal[row], self.size[row] = layout.diagonal, layout.size
        self.limit[row] = self.max_steps or layout.max_steps
        pose = np.array(
            [*(layout.start + random.uniform(-1, 1, 2) * layout.start_jitter), random.uniform(-np.pi, np.pi)]
        )
        if start is not None:
            pose[: len(start)] = _place("start", start, (2, 3))
            _require_free(layout, "start", pose[:2])
        self.gain[row] = 1 + draw.gain * random.uniform(-1, 1, 2)
        self.late[row] = draw.latency and random.random() < 0.5
        # a hull of a few sizes, not of any: models are compiled per size and kept
        self.radius[row] = HULL_RADIUS * (1 + draw.radius * (int(random.integers(5)) - 2) / 2)
        self._place_goal(row, layout, random, goal)
        if start is not None or goal is not None:
            self._require_way(row, layout, pose[:2])
        self._place_movers(row, layout, random)
        self.boxes = with_row(self.boxes, row, layout.obstacles, FAR)
        self.world.place(row, layout, pose, float(self.radius[row]))
        self.start[row] = pose[:2]
        for array in (self.previous, self.pending, self.steps, self.path, self.turning, self.contacts):
            array[row] = 0
        self.nearest[row] = np.inf
        self.potential[row] = self._potential(row) if self.options.reward == "shaped" else 0.0

    def _layout(self, random: np.random.Generator, seed: int | None) -> Layout:
        drawn = int(random.integers(2**31)) if seed is None else None
        if isinstance(self.layouts, Layout):
            if seed is not None:
                raise ConfigError(f"layout_seed={seed!r} is for layout='Random'; this is {self.layouts.name!r}")
            return self.layouts
        return self.layouts(drawn) if seed is None else self.layouts.make(int(seed))

    def _require_way(self, row: int, layout: Layout, start: np.ndarray) -> None:
        goal = tuple(self.goal_line[row, 0, :2].tolist())
        if not np.isfinite(ways_to(layout, goal).distance(start)):
            raise LayoutError(f"start={start.tolist()} in layout {layout.name!r} has no way to goal={goal}: move one")

    def _place_goal(self, row: int, layout: Layout, random: np.random.Generator, goal) -> None:
        at, end, speed, phase = layout.goal, layout.goal, 0.0, 0.0
        if goal is not None:
            at = end = _place("goal", goal, (2,))
            _require_free(layout, "goal", at)
        elif layout.goal_mode == "random":
            at = end = _free_place(layout, random)
        elif layout.goal_mode == "moving":
            end, speed, phase = layout.goal_end, layout.goal_speed, random.uniform(0, 2)
        self.goal_line[row, 0] = *at, *end, speed, phase, GOAL_RADIUS
        self._goals_move = bool(self.goal_line[:, 0, 4].any())

    def _place_movers(self, row: int, layout: Layout, random: np.random.Generator) -> None:
        draw = self.options.randomisation
        count = len(layout.movers)
        scale = draw.mover_scale * (1 + draw.mover_speed * random.uniform(-1, 1))
        phases = random.uniform(0, 2, count)
        rows = mover_rows(layout, phases, scale)
        far = np.array([FAR, FAR, FAR + 1, FAR, 0.0, 0.0, 0.25])
        self.movers = with_row(self.movers, row, rows, far)

    @property
    def time(self) -> np.ndarray:
        """(N,) s since the episodes began."""
        return self.steps * CONTROL_PERIOD

    @property
    def goal(self) -> np.ndarray:
        """(N, 2) where the goals are now."""
        begin, end = self.goal_line[:, 0, :2], self.goal_line[:, 0, 2:4]
        if not self._goals_move:
            return begin
        still = (begin == end).all(1)
        line = np.where(still[:, None, None], [[0, 0, 1, 0, 0, 0, 0]], self.goal_line)
        return np.where(still[:, None], begin, movers_at(line, self.time)[:, 0])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One control step of all. action (N, 2) in [-1, 1]: speed, yaw rate.

        Returns reward (N,), terminated (N,), truncated (N,), and arrays of `is_success`, `is_collision`.
        """
        wanted = (action * self._slope + self._offset) * self.gain
        if self.options.randomisation.latency:
            command = np.where(self.late[:, None], self.pending, wanted)
            self.pending = wanted
        else:
            command = wanted
        before = self.world.pose[:, :2].copy()
        touched = self.world.advance(command, self.movers, self.time)
        self.steps += 1
        here = self.world.pose[:, :2]
        self.path += np.hypot(*(here - before).T)
        self.turning += np.abs(action[:, 1] - self.previous[:, 1]) * YAW_RATE
        self.previous = action.copy()
        discs = discs_at(self.movers, self.time)
        self.nearest = np.minimum(self.nearest, clearance(here, self.boxes, discs) - self.radius)
        self.contacts += touched
        reached = np.hypot(*(here - self.goal).T) < GOAL_RADIUS
        if self.options.stop_at_goal:
            reached &= np.abs(self.world.velocity[:, 0]) < 0.2
        collided = touched & ~reached if self.options.collision == "terminate" else np.zeros_like(touched)
        terminated = reached | collided
        truncated = (self.steps >= self.limit) & ~terminated
        return self._reward(reached, touched, terminated), terminated, truncated, {"is_success": reached,
                                                                               "is_collision": collided}  # fmt: skip

    def _reward(self, reached: np.ndarray, touched: np.ndarray, terminated: np.ndarray) -> np.ndarray:
        reward = reached.astype(np.float64)
        kind = self.options.reward
        if kind == "sparse_collision":
            reward -= 0.1 * (touched & ~reached)
        elif kind == "sparse_step":
            reward -= 1 / self.limit
        elif kind == "shaped":
            after = np.array([0.0 if end else self._potential(row) for row, end in enumerate(terminated)])
            reward += self.options.gamma * after - self.potential
            self.potential = after
        return reward

    def _potential(self, row: int) -> float:
        """Minus the geodesic distance in diagonals; after a push into a wall the straight line."""
        here = self.world.pose[row, :2]
        length = ways_to(self.layout[row], tuple(self.goal[row].round(2).tolist())).distance(here)
        return -(length if np.isfinite(length) else float(np.linalg.norm(here - self.goal[row]))) / self.diagonal[row]

    def observation(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(K, 47) float32 in [-1, 1], or (K, 43) without the pose, of the vehicles `rows`, by default all.

        0:36 rays / 6 m, 36 goal distance / diagonal, 37:39 cos, sin of its bearing from the heading, 39 speed / 1 m/s,
        40 yaw rate / 1.5 rad/s, 41:43 x, y over the arena, 43:45 cos, sin of the heading, 45:47 previous action.
        """
        world, draw = self.world, self.options.randomisation
        pose = world.pose[rows]
        rays = world.rays(self.movers, self.time, rows)
        if draw.ray_noise or draw.ray_dropout:
            of = np.arange(len(self.random))[rows]
            rays = np.stack([self._noisy(one, self.random[row]) for one, row in zip(rays, of, strict=True)])
        heading = pose[:, 2]
        dx, dy = (self.goal[rows] - pose[:, :2]).T
        distance = np.hypot(dx, dy)
        cos, sin, far = np.cos(heading), np.sin(heading), np.maximum(distance, 1e-9)
        found = np.empty((len(pose), 47))
        found[:, :RAYS] = rays / RAY_RANGE
        found[:, 36] = distance / self.diagonal[rows]
        found[:, 37], found[:, 38] = (dx * cos + dy * sin) / far, (dy * cos - dx * sin) / far
        if self.options.goal_visibility == "line_of_sight":
            found[~self._sees_goal(distance, rows), 36:39] = 1.0, 0.0, 0.0
        found[:, 39:41] = world.velocity[rows] / (MAX_SPEED, YAW_RATE)
        found[:, 41:43] = 2 * pose[:, :2] / self.size[rows] - 1
        found[:, 43], found[:, 44], found[:, 45:] = cos, sin, self.previous[rows]
        if not self.options.observe_pose:
            found = np.delete(found, POSE, 1)
        return np.minimum(np.maximum(found, -1, out=found), 1, out=found).astype(np.float32)

    def _noisy(self, rays: np.ndarray, random: np.random.Generator) -> np.ndarray:
        draw = self.options.randomisation
        noisy = (rays + draw.ray_noise * random.standard_normal(RAYS)).clip(0, RAY_RANGE)
        return np.where(random.random(RAYS) < draw.ray_dropout, RAY_RANGE, noisy)

    def _sees_goal(self, distance: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        goal, here = self.goal, self.world.pose[:, :2]
        clear = [
            not segments_blocked(here[i : i + 1], goal[i : i + 1], self.layout[i].obstacles, 0.01)[0]
            for i in np.arange(len(here))[rows]
        ]
        return (distance < SIGHT) & np.array(clear)

    def state(self) -> dict:
        """All of the running episodes, as arrays and strings: `load_state` goes on bit for bit."""
        arrays = {name: np.array(getattr(self, name)) for name in RUNNING}
        random = [json.dumps(one.bit_generator.state) for one in self.random]
        return {"arrays": arrays, "random": random, "layouts": [one.to_json() for one in self.layout],
                "world": self.world.state()}  # fmt: skip

    def load_state(self, state: dict) -> None:
        """Of a warehouse with the same arguments. Raises ValueError for another number of vehicles."""
        if len(state["random"]) != len(self.layout):
            raise ValueError(f"the state is of {len(state['random'])} vehicles, these are {len(self.layout)}")
        for name, array in state["arrays"].items():
            setattr(self, name, np.array(array))
        self._goals_move = bool(self.goal_line[:, 0, 4].any())
        known = {text: Layout.from_json(text) for text in set(state["layouts"])}
        for row, (layout, random) in enumerate(zip(state["layouts"], state["random"], strict=True)):
            self.layout[row] = known[layout]
            self.boxes = with_row(self.boxes, row, self.layout[row].obstacles, FAR)
            self.world.place(row, self.layout[row], np.zeros(3), float(self.radius[row]))
            self.random[row] = np.random.Generator(np.random.PCG64())
            self.random[row].bit_generator.state = json.loads(random)
        self.world.load_state(state["world"])

    def pose_of(self, row: int) -> tuple[float, float, float]:
        """x, y, heading of a vehicle."""
        return tuple(self.world.pose[row].tolist())

    def episode(self, row: int, success: bool, collision: bool) -> dict:
        """Measures of a finished episode; see `measures.of_episode`."""
        layout = self.layout[row]
        goal = tuple(self.goal[row].round(6).tolist())
        shortest = max(0.0, ways_to(layout, goal).distance(self.start[row]) - GOAL_RADIUS)
        return {
            **measures.of_episode(success, float(self.path[row]), shortest, int(self.steps[row]) * CONTROL_PERIOD),
            "is_collision": bool(collision),
            "is_timeout": not (success or collision),
            "min_clearance": float(self.nearest[row]),
            "yaw_change": float(self.turning[row] / self.steps[row]),
            "contacts": int(self.contacts[row]),
            "layout_seed": layout.seed,
        }


def _place(key: str, place: Sequence[float], lengths: tuple[int, ...]) -> np.ndarray:
    """As an array. Raises LayoutError for another number of coordinates, or one that is no number."""
    with suppress(TypeError, ValueError):
        found = np.asarray(place, np.float64)
        if found.ndim == 1 and len(found) in lengths and np.isfinite(found).all():
            return found
    raise LayoutError(f"{key}={place!r}: wanted finite x, y in metres{', and maybe a heading in rad' * (3 in lengths)}")


def _require_free(layout: Layout, key: str, place: np.ndarray) -> None:
    if not layout.free(place)[0]:
        raise LayoutError(f"{key}={place.tolist()} in layout {layout.name!r} is inside a wall or shelf, or nearer than "
                          f"the hull's radius of {HULL_RADIUS} m: move it")  # fmt: skip


def _free_place(layout: Layout, random: np.random.Generator) -> tuple[float, float]:
    """A place from which the start can be reached. Raises ConfigError after 1,000 draws."""
    for _ in range(1000):
        place = (random.uniform(0, 1, 2) * layout.size).round(2)
        if layout.free(place, 0.1)[0]:
            goal = tuple(place.tolist())
            with suppress(LayoutError):
                ways_to(layout, goal)
                return goal
    raise ConfigError(f"layout {layout.name!r}: no free place for the goal in 1,000 draws")


def check_actions(action: np.ndarray | Sequence, shape: tuple[int, ...]) -> np.ndarray:
    """As float64. Raises ActionError for a wrong shape, or a value outside [-1, 1] or no number."""
    action = np.asarray(action, np.float64)
    if action.shape != shape:
        raise ActionError(f"action of shape {action.shape}: wanted {shape}, speed and yaw rate")
    if not (np.abs(action) <= 1).all():  # False for NaN
        raise ActionError(f"action {action.tolist()}: wanted numbers in [-1, 1], speed and yaw rate; clip it before")
    return action
