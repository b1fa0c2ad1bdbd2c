"""Drivers that know the whole warehouse: pure pursuit of the shortest way, and a dynamic window for what moves."""

import numpy as np

from control.envs.warehouse.geodesic import Geodesic
from control.envs.warehouse.geometry import boxes_to_points, segments_blocked
from control.envs.warehouse.kinematic import SPEED_KEPT, YAW_KEPT
from control.envs.warehouse.layout import HULL_RADIUS, Layout, movers_at
from control.envs.warehouse.levels import MAX_SPEED
from control.envs.warehouse.options import SPEEDS
from control.envs.warehouse.task import Warehouse
from control.envs.warehouse.world import YAW_RATE

MARGINS = (0.2, 0.1, 0.05, 0.0)  # m beside the hull, the first that leaves a way
TURN = 0.9  # rad off the way's direction beyond which the vehicle turns on the spot


def shortest_way(layout: Layout, start: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """(K, 2) from start to goal, with as much room beside the hull as there is. Raises ValueError where none is."""
    for margin in MARGINS:
        path = Geodesic(layout.obstacles, HULL_RADIUS + margin, goal).path(start)
        if path is not None:
            return path
    raise ValueError(f"layout {layout.name!r}: no way from {start.tolist()} to {goal.tolist()}")


def point_ahead(path: np.ndarray, here: np.ndarray, ahead: float) -> np.ndarray:
    """(2,) the point of the path `ahead` metres after the path's nearest point to `here`."""
    begin, along = path[:-1], np.diff(path, axis=0)
    length = np.linalg.norm(along, axis=1)
    share = (((here - begin) * along).sum(1) / np.maximum(length**2, 1e-12)).clip(0, 1)
    gap = np.linalg.norm(begin + share[:, None] * along - here, axis=1)
    nearest = len(gap) - 1 - int(gap[::-1].argmin())  # of equals the later one
    distance = np.concatenate([[0.0], np.cumsum(length)])
    at = min(distance[nearest] + share[nearest] * length[nearest] + ahead, distance[-1])
    return np.array([np.interp(at, distance, path[:, axis]) for axis in (0, 1)])


class PurePursuit:
    """Steers on a circle through the point of the shortest way `ahead` metres on (Coulter 1992), or less where the
    straight line to it would cut a corner.

    `begin(warehouse, row)` plans; `act(warehouse, row)` is the action (2,) of a control step. Blind to what moves.
    """

    def __init__(self, ahead: float = 0.6):
        self.ahead = ahead

    def begin(self, warehouse: Warehouse, row: int = 0) -> None:
        here, goal = warehouse.world.pose[row, :2], warehouse.goal[row]
        self.path = shortest_way(warehouse.layout[row], here.copy(), goal.copy())

    def act(self, warehouse: Warehouse, row: int = 0) -> np.ndarray:
        x, y, heading = warehouse.world.pose[row]
        target, share = self._target(warehouse.layout[row], np.array([x, y]))
        offset = np.arctan2(target[1] - y, target[0] - x) - heading
        offset = (offset + np.pi) % (2 * np.pi) - np.pi
        if abs(offset) > TURN * share:
            return command_to_action(warehouse, 0.0, np.sign(offset) * YAW_RATE)
        curvature = 2 * np.sin(offset) / max(np.hypot(target[0] - x, target[1] - y), 0.1)
        speed = min(MAX_SPEED, YAW_RATE / max(abs(curvature), 1e-6))
        return command_to_action(warehouse, speed, speed * curvature)

    def _target(self, layout: Layout, here: np.ndarray) -> tuple[np.ndarray, float]:
        """The point and the share of `ahead` at which it lies: the tighter, the straighter it has to be driven at."""
        for share in (1.0, 0.75, 0.5, 0.25):
            target = point_ahead(self.path, here, share * self.ahead)
            if not segments_blocked(here[None], target[None], layout.obstacles, HULL_RADIUS + 0.02)[0]:
                break
        return target, share


class DynamicWindow(PurePursuit):
    """Of a grid of commands, the one whose next seconds stay clear of walls and movers and end nearest to the point
    ahead (Fox, Burgard, Thrun 1997). It knows where the movers will be.

    Args: ahead, m; horizon, s; clear: m that count as clear beside the hull.
    """

    def __init__(self, ahead: float = 1.2, horizon: float = 1.6, clear: float = 0.1):
        super().__init__(ahead)
        self.horizon, self.clear = horizon, clear
        speeds, yaws = np.meshgrid([0.0, 0.3, 0.6, 1.0], np.linspace(-YAW_RATE, YAW_RATE, 11), indexing="ij")
        self.commands = np.stack([speeds.ravel(), yaws.ravel()], -1)  # (C, 2)

    def act(self, warehouse: Warehouse, row: int = 0) -> np.ndarray:
        pose, velocity = warehouse.world.pose[row], warehouse.world.velocity[row]
        places, headings = self._roll(pose, velocity)  # (T, C, 2), (T, C)
        steps, count = places.shape[:2]
        flat = places.reshape(-1, 2)
        gap = boxes_to_points(flat, warehouse.layout[row].obstacles).min(1).reshape(steps, count) - HULL_RADIUS
        movers = warehouse.movers[row : row + 1]
        if movers.shape[1]:
            times = warehouse.time[row] + 0.1 * (1 + np.arange(steps))
            at = movers_at(np.repeat(movers, steps, 0), times)  # (T, M, 2)
            apart = np.linalg.norm(places[:, :, None] - at[:, None], axis=-1) - movers[0, :, 6] - HULL_RADIUS
            gap = np.minimum(gap, apart.min(-1))
        nearest = gap.min(0)
        target = point_ahead(self.path, pose[:2], self.ahead)
        offset = target - places[-1]
        turn = np.abs((np.arctan2(offset[:, 1], offset[:, 0]) - headings[-1] + np.pi) % (2 * np.pi) - np.pi)
        cost = np.linalg.norm(offset, axis=1) + 0.15 * turn + 2.0 * np.maximum(0, self.clear - nearest)
        cost[nearest < 0.02] += 100 - 50 * nearest[nearest < 0.02]  # all collide: the one that collides least
        return command_to_action(warehouse, *self.commands[int(cost.argmin())])

    def _roll(self, pose: np.ndarray, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places (T, C, 2) and headings (T, C) every 0.1 s under all commands."""
        now = np.broadcast_to(velocity, self.commands.shape)
        kept = np.array([SPEED_KEPT, YAW_KEPT]) ** 2  # of pieces of 0.05 s
        xy, heading = np.repeat(pose[None, :2], len(now), 0), np.full(len(now), pose[2])
        places, headings = [], []
        for _ in range(round(self.horizon / 0.1)):
            before, now = now, self.commands + (now - self.commands) * kept
            forward, yaw = 0.05 * (before + now).T
            middle = heading + 0.5 * yaw
            xy = xy + forward[:, None] * np.stack([np.cos(middle), np.sin(middle)], -1)
            heading = heading + yaw
            places.append(xy)
            headings.append(heading)
        return np.array(places), np.array(headings)


DRIVERS = {"pure_pursuit": PurePursuit, "dynamic_window": DynamicWindow}


def command_to_action(warehouse: Warehouse, speed: float, yaw: float) -> np.ndarray:
    """(2,) in [-1, 1] of a speed (m/s) and a yaw rate (rad/s)."""
    low, high = SPEEDS[warehouse.options.speed]
    return np.array([2 * (speed - low) / (high - low) - 1, yaw / YAW_RATE]).clip(-1, 1)


def drive(driver, env, seed: int | None = None, options: dict | None = None) -> tuple[dict, np.ndarray]:
    """One episode of a driver in an `AGVWarehouse`. Returns the episode's measures and its way (K, 2)."""
    env.reset(seed=seed, options=options)
    driver.begin(env.warehouse)
    way = [env.warehouse.pose_of(0)[:2]]
    while True:
        *_, ended, cut, info = env.step(driver.act(env.warehouse))
        way.append(info["pose"][:2])
        if ended or cut:
            return info, np.array(way)
