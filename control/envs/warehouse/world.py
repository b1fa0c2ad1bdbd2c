"""What both simulations of a warehouse share: the vehicle's numbers, and the protocol behind which they stand."""

from typing import Protocol

import numpy as np

from control.envs.warehouse.layout import Layout

RAYS = 36
RAY_RANGE = 6.0  # m
YAW_RATE = 1.5  # rad/s at action 1
SUBSTEP = 0.1  # s between two looks for contacts and two places of the movers; two to a control step
MASS, SPEED_GAIN, SLIP_GAIN, YAW_GAIN = 40.0, 400.0, 2000.0, 60.0  # kg; N s/m, N s/m, N m s/rad of the servos
RAY_ANGLES = 2 * np.pi * np.arange(RAYS) / RAYS  # from the heading, counter-clockwise


class World(Protocol):
    """N vehicles, each in a warehouse of its own. pose (N, 3): x, y (m), heading (rad). velocity (N, 2): forward (m/s),
    yaw rate (rad/s)."""

    pose: np.ndarray
    velocity: np.ndarray

    def place(self, row: int, layout: Layout, pose: np.ndarray, radius: float) -> None:
        """Put vehicle `row`, at rest, into a layout; radius of its hull, m."""

    def advance(self, command: np.ndarray, movers: np.ndarray, time: np.ndarray) -> np.ndarray:
        """One control step from `time` (N,) s under command (N, 2): m/s, rad/s; movers (N, M, 7) as `movers_at`.
        Returns (N,) whether the hull touched something."""

    def rays(self, movers: np.ndarray, time: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(K, 36) m along RAY_ANGLES from the hulls' centres to walls, shelves and movers, at most RAY_RANGE; of the
        vehicles `rows`, by default all."""

    def state(self) -> dict[str, np.ndarray]:
        """All that the next step depends on besides the placed layouts."""

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """After `place` of the same layouts."""


def directions(heading: np.ndarray) -> np.ndarray:
    """(N, 36, 2) unit vectors of the rays of vehicles at heading (N,)."""
    angles = heading[:, None] + RAY_ANGLES
    return np.stack([np.cos(angles), np.sin(angles)], -1)
