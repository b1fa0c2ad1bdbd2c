"""The warehouse without a physics engine: N vehicles at once in numpy, tens of thousands of control steps a second."""

import numpy as np

from control.envs.warehouse.geometry import FAR, boxes_to_points, cast_rays, with_row
from control.envs.warehouse.layout import Layout, discs_at, movers_at
from control.envs.warehouse.levels import CONTROL_PERIOD
from control.envs.warehouse.world import MASS, RAY_RANGE, SLIP_GAIN, SPEED_GAIN, SUBSTEP, YAW_GAIN, directions

PIECES = 2  # of a substep, for the way between
PIECE = SUBSTEP / PIECES
STEP = 0.02  # s, the engine's: its implicit servos answer in steps of it


def _answer(rate: float) -> float:
    """Share of a command that a velocity servo has not yet reached after a piece; rate = gain / inertia, 1/s."""
    return (1 + rate * STEP) ** (-PIECE / STEP)


SPEED_KEPT = _answer(SPEED_GAIN / MASS)
YAW_KEPT = _answer(YAW_GAIN / (0.5 * MASS * 0.25**2))
SLIP = 1 / (SLIP_GAIN / MASS + 1 / STEP)  # s: sideways speed of a turning vehicle is -SLIP x forward x yaw rate


class KinematicWorld:
    """Speed and yaw rate follow their commands as the servos of the MuJoCo model do; walls stop the hull as soon as it
    touches (it is put back to where it only touches). Implements `World` for any N."""

    def __init__(self, count: int):
        self.pose, self.velocity = np.zeros((count, 3)), np.zeros((count, 2))
        self.boxes, self.radius = np.full((count, 1, 4), FAR), np.zeros(count)

    def place(self, row: int, layout: Layout, pose: np.ndarray, radius: float) -> None:
        self.pose[row], self.velocity[row], self.radius[row] = pose, 0.0, radius
        self.boxes = with_row(self.boxes, row, layout.obstacles, FAR)

    def advance(self, command: np.ndarray, movers: np.ndarray, time: np.ndarray) -> np.ndarray:
        touched = np.zeros(len(self.pose), bool)
        kept = np.array([SPEED_KEPT, YAW_KEPT])
        for substep in range(round(CONTROL_PERIOD / SUBSTEP)):
            for _ in range(PIECES):
                before = self.velocity
                self.velocity = command + (before - command) * kept
                forward, yaw = (0.5 * (before + self.velocity)).T
                heading = self.pose[:, 2] + 0.5 * yaw * PIECE
                sideways = -SLIP * forward * yaw
                cos, sin = np.cos(heading), np.sin(heading)
                self.pose[:, 0] += (forward * cos - sideways * sin) * PIECE
                self.pose[:, 1] += (forward * sin + sideways * cos) * PIECE
                self.pose[:, 2] += yaw * PIECE
                touched |= self._push_out()
            if movers.shape[1]:
                at = movers_at(movers, time + (substep + 1) * SUBSTEP)
                gap = ((at - self.pose[:, None, :2]) ** 2).sum(-1)
                touched |= (gap < (movers[..., 6] + self.radius[:, None]) ** 2).any(1)
        return touched

    def _push_out(self) -> np.ndarray:
        """Move hulls that are inside a box, or the other way round, to where they touch. Returns (N,) which were."""
        distance = boxes_to_points(self.pose[:, :2], self.boxes)
        hit = (distance < self.radius[:, None]).any(1)
        for row in np.flatnonzero(hit):
            for box, gap in zip(self.boxes[row], distance[row], strict=True):
                if gap >= self.radius[row]:
                    continue
                nearest = self.pose[row, :2].clip(box[:2], box[2:])
                away = self.pose[row, :2] - nearest
                length = np.linalg.norm(away)
                if length > 0:
                    self.pose[row, :2] = nearest + away / length * self.radius[row]
                    self.velocity[row, 0] = 0.0
        return hit

    def state(self) -> dict[str, np.ndarray]:
        return {"pose": self.pose.copy(), "velocity": self.velocity.copy()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.pose[:], self.velocity = state["pose"], np.array(state["velocity"])

    def rays(self, movers: np.ndarray, time: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        pose, discs = self.pose[rows], discs_at(movers[rows], time[rows])
        return cast_rays(pose[:, :2], directions(pose[:, 2]), self.boxes[rows], discs, RAY_RANGE)
