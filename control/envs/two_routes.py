"""Reach behind an obstacle, by the left or by the right: multi-modal by construction, and measurable."""

import mujoco
import numpy as np
from gymnasium import spaces

from control.envs.sensors import Camera, Draw, picture

HAND, OBSTACLE = 0.025, 0.12  # radii, m
GOAL_RADIUS = 0.03
STEP = 0.02  # m of the hand's target per unit of action
LEANING = OBSTACLE / 2  # m beside the obstacle's centre from which on a hand counts as going round by that side
SCENE = f"""
<mujoco>
  <option timestep="0.005" integrator="implicitfast"/>
  <visual><headlight ambient="0.5 0.5 0.5"/></visual>
  <worldbody>
    <light pos="0 0 2"/>
    <geom type="plane" size="0.7 0.7 0.1" rgba="0.85 0.85 0.8 1" contype="0" conaffinity="0"/>
    <body name="obstacle" mocap="true" pos="0 0 0.05">
      <geom name="obstacle" type="cylinder" size="{OBSTACLE} 0.05" rgba="0.75 0.3 0.25 1"/>
    </body>
    <body name="goal" mocap="true" pos="0 0.4 0.002">
      <geom type="cylinder" size="{GOAL_RADIUS} 0.002" rgba="0.2 0.6 0.3 1" contype="0" conaffinity="0"/>
    </body>
    <body name="hand" pos="0 0 0.05">
      <joint name="x" type="slide" axis="1 0 0" damping="8"/>
      <joint name="y" type="slide" axis="0 1 0" damping="8"/>
      <geom name="hand" type="cylinder" size="{HAND} 0.05" mass="0.5" rgba="0.2 0.35 0.7 1"/>
    </body>
  </worldbody>
  <actuator>
    <position joint="x" kp="120" dampratio="1"/>
    <position joint="y" kp="120" dampratio="1"/>
  </actuator>
</mujoco>
"""


class TwoRoutes:
    """A hand on a plane, at 20 Hz. The obstacle stands between start and goal; both ways around it are equally long up
    to a few centimetres of placement.

    State (10): hand x, y (m), its vx, vy (m/s), its target x, y, goal x, y, obstacle x, y. Action: step of the hand's
    target, 2 cm per unit. The episode is decided by reaching the goal (within 3 cm) or by touching the obstacle.
    info: `success`, `collision`, `side`: +1 right, -1 left of the obstacle when the hand passed it, 0 before;
    `switches`: how often it went over to the other side before it passed, 6 cm beside the obstacle's centre or more.
    """

    control_hz = 20.0
    camera = Camera((0.0, -0.75, 1.15), (0.0, 0.02, 0.0), 45.0)

    def __init__(self):
        self.model = mujoco.MjModel.from_xml_string(SCENE)
        self.data = mujoco.MjData(self.model)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state_space = spaces.Box(-np.inf, np.inf, (10,), np.float32)
        self._substeps = round(1 / self.control_hz / self.model.opt.timestep)

    def reset(self, seed: int) -> None:
        draws = np.random.default_rng(seed)
        mujoco.mj_resetData(self.model, self.data)
        hand = np.array([0.0, -0.42]) + draws.uniform(-0.04, 0.04, 2)
        self.goal = np.array([0.0, 0.42]) + draws.uniform(-0.04, 0.04, 2)
        self.obstacle = draws.uniform(-0.02, 0.02, 2)
        self.data.qpos[:], self.data.ctrl[:] = hand, hand
        self.data.mocap_pos[0, :2], self.data.mocap_pos[1, :2] = self.obstacle, self.goal
        mujoco.mj_forward(self.model, self.data)
        self.collision, self.side, self.switches, self._leaning = False, 0, 0, 0

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        before = self._gap()
        self.data.ctrl[:] = (self.data.ctrl + STEP * action).clip(-0.6, 0.6)
        for _ in range(self._substeps):
            mujoco.mj_step(self.model, self.data)
            self.collision |= self.data.ncon > 0
        beside, beyond = self.data.qpos - self.obstacle
        if not self.side:
            if abs(beside) >= LEANING:
                leaning = 1 if beside > 0 else -1
                self.switches += self._leaning == -leaning
                self._leaning = leaning
            if beyond > 0:
                self.side = 1 if beside > 0 else -1
        return before - self._gap(), self.collision or self._gap() < GOAL_RADIUS

    def state(self) -> np.ndarray:
        parts = [self.data.qpos, self.data.qvel, self.data.ctrl, self.goal, self.obstacle]
        return np.concatenate(parts).astype(np.float32)

    def info(self) -> dict:
        reached = self._gap() < GOAL_RADIUS
        return {
            "success": bool(reached and not self.collision),
            "collision": bool(self.collision),
            "side": self.side,
            "switches": int(self.switches),
        }

    def frame(self, height: int, width: int, draw: Draw = picture) -> np.ndarray:
        return draw(self.model, self.data, self.camera, height, width)

    def _gap(self) -> float:
        return float(np.linalg.norm(self.data.qpos - self.goal))
