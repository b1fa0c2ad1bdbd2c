"""The warehouse in MuJoCo: a differential drive made of velocity servos on the hull's centre, built from a layout."""

import math
from functools import lru_cache
from xml.sax.saxutils import quoteattr

import mujoco
import numpy as np

from control.envs.warehouse.layout import GOAL_RADIUS, Layout, movers_at
from control.envs.warehouse.levels import CONTROL_PERIOD
from control.envs.warehouse.world import (
    MASS,
    RAY_ANGLES,
    RAY_RANGE,
    RAYS,
    SLIP_GAIN,
    SPEED_GAIN,
    SUBSTEP,
    YAW_GAIN,
)

TIMESTEP = 0.02  # s; with the implicit integrator the vehicle does not slip, explicit Euler at 0.04 s slips 0.2 m/s
RAY_HEIGHT = 0.15  # m
HULL, FIXED, MOVING, PAINT = 0, 1, 2, 3  # geom groups: rays see walls, shelves (1) and movers (2)
SEEN = np.array([0, 1, 1, 0, 0, 0], np.uint8)


def model_xml(layout: Layout, radius: float) -> str:
    """MJCF of a layout; radius of the hull, m. Bodies by name: agv, goal, mover0, mover1, .."""
    width, height = layout.size
    boxes = "\n".join(
        f'<geom type="box" pos="{(x0 + x1) / 2} {(y0 + y1) / 2} 0.25" size="{(x1 - x0) / 2} {(y1 - y0) / 2} 0.25" '
        f'group="{FIXED}" contype="2" conaffinity="1" rgba="0.55 0.45 0.35 1"/>'
        for x0, y0, x1, y1 in layout.obstacles
    )
    movers = "\n".join(
        f'<body name="mover{i}" mocap="true" pos="{one.begin[0]} {one.begin[1]} 0.25"><geom type="cylinder" '
        f'size="{one.radius} 0.25" group="{MOVING}" contype="2" conaffinity="1" rgba="0.8 0.3 0.2 1"/></body>'
        for i, one in enumerate(layout.movers)
    )
    return f"""
<mujoco model={quoteattr(str(layout.name))}>
  <option timestep="{TIMESTEP}" integrator="implicitfast" gravity="0 0 0"/>
  <visual><headlight ambient="0.5 0.5 0.5"/><global offwidth="1280" offheight="1280"/></visual>
  <worldbody>
    <light pos="{width / 2} {height / 2} 10" directional="true"/>
    <geom type="plane" pos="{width / 2} {height / 2} 0" size="{width / 2} {height / 2} 0.1" group="{PAINT}" contype="0"
          conaffinity="0" rgba="0.9 0.9 0.87 1"/>
    {boxes}
    {movers}
    <body name="goal" mocap="true" pos="{layout.goal[0]} {layout.goal[1]} 0.005">
      <geom type="cylinder" size="{GOAL_RADIUS} 0.005" group="{PAINT}" contype="0" conaffinity="0"
            rgba="0.2 0.65 0.3 1"/>
    </body>
    <body name="agv">
      <joint type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/><joint type="hinge" axis="0 0 1"/>
      <geom type="cylinder" pos="0 0 0.1" size="{radius} 0.1" mass="{MASS}" group="{HULL}" contype="1" conaffinity="2"
            rgba="0.2 0.35 0.7 1"/>
      <site name="drive"/>
    </body>
  </worldbody>
  <actuator>
    <velocity site="drive" gear="1 0 0 0 0 0" kv="{SPEED_GAIN}"/>
    <velocity site="drive" gear="0 1 0 0 0 0" kv="{SLIP_GAIN}"/>
    <velocity site="drive" gear="0 0 0 0 0 1" kv="{YAW_GAIN}"/>
  </actuator>
</mujoco>"""


@lru_cache(maxsize=256)
def compiled(layout: Layout, radius: float) -> mujoco.MjModel:
    """The model of a layout; compiling takes some milliseconds, as long as ten control steps."""
    return mujoco.MjModel.from_xml_string(model_xml(layout, radius))


class MujocoWorld:
    """One vehicle, N = 1. Implements `World`."""

    def __init__(self, count: int = 1):
        if count != 1:
            raise ValueError(f"{count} vehicles: a MuJoCo world holds one; put several environments side by side")
        self.pose, self.velocity = np.zeros((1, 3)), np.zeros((1, 2))
        self.model = self.data = None
        self._rays = np.zeros((RAYS, 3))
        self._hit, self._range = np.zeros(RAYS, np.int32), np.zeros(RAYS)
        self._movers_time = None
        self._origin = np.array([0.0, 0.0, RAY_HEIGHT])
        self._substeps = round(SUBSTEP / TIMESTEP)

    def place(self, row: int, layout: Layout, pose: np.ndarray, radius: float) -> None:
        model = compiled(layout, radius)
        if model is not self.model:
            self.model, self.data = model, mujoco.MjData(model)
            self._vehicle = model.body("agv").id
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = pose
        mujoco.mj_forward(self.model, self.data)
        self._movers_time = None
        self._read()

    def _read(self) -> None:
        self.pose[0] = pose = self.data.qpos.tolist()
        heading = pose[2]
        vx, vy, yaw = self.data.qvel.tolist()
        self.velocity[0] = vx * math.cos(heading) + vy * math.sin(heading), yaw

    def _move(self, movers: np.ndarray, time: np.ndarray) -> None:
        self.data.mocap_pos[: movers.shape[1], :2] = movers_at(movers, time)[0]
        self._movers_time = time[0]

    def advance(self, command: np.ndarray, movers: np.ndarray, time: np.ndarray) -> np.ndarray:
        data, touched, moving = self.data, False, movers.shape[1]
        data.ctrl[0], data.ctrl[2] = command[0].tolist()
        for substep in range(1, 1 + round(CONTROL_PERIOD / SUBSTEP)):
            if moving:
                self._move(movers, time + substep * SUBSTEP)
            mujoco.mj_step(self.model, data, nstep=self._substeps)
            touched |= data.ncon > 0
        mujoco.mj_kinematics(self.model, data)
        self._read()
        return np.array([touched])

    def state(self) -> dict[str, np.ndarray]:
        found = np.empty(mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(self.model, self.data, found, mujoco.mjtState.mjSTATE_INTEGRATION)
        return {"integration": found}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        mujoco.mj_setState(self.model, self.data, np.array(state["integration"]), mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_kinematics(self.model, self.data)
        self._movers_time = None
        self._read()

    def rays(self, movers: np.ndarray, time: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        if movers.shape[1] and time[0] != self._movers_time:
            self._move(movers, time)
            mujoco.mj_kinematics(self.model, self.data)
        angles = self.pose[0, 2] + RAY_ANGLES
        self._rays[:, 0], self._rays[:, 1] = np.cos(angles), np.sin(angles)
        self._origin[:2] = self.pose[0, :2]
        mujoco.mj_multiRay(self.model, self.data, self._origin, self._rays.ravel(), SEEN, 1, self._vehicle, self._hit,
                           self._range, None, RAYS, RAY_RANGE)  # fmt: skip
        # a miss is -1; the cutoff only spares work: what stands beyond it may be reported
        return np.where(self._range < 0, RAY_RANGE, np.minimum(self._range, RAY_RANGE))[None]
