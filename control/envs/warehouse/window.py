"""The warehouse in a window: MuJoCo's viewer on the layout's model, whatever simulates the vehicle."""

import atexit
import subprocess
import sys
import threading
import time
from functools import cache

import mujoco

from common.errors import ConfigError
from control.envs.warehouse.layout import movers_at
from control.envs.warehouse.levels import CONTROL_PERIOD
from control.envs.warehouse.mujoco_world import PAINT, compiled
from control.envs.warehouse.task import Warehouse

PROBE = """import glfw
hidden = glfw.init() and not glfw.window_hint(glfw.VISIBLE, False)
raise SystemExit(not (hidden and glfw.create_window(8, 8, "", None, None)))"""


@cache
def require_display() -> None:
    """Raises ConfigError where no window can be opened. Asked in a process of its own: without a display the viewer
    would wait for its window for ever."""
    if subprocess.run([sys.executable, "-W", "ignore", "-c", PROBE], capture_output=True).returncode:
        raise ConfigError(
            "render_mode='human' needs a display with OpenGL and there is none: set DISPLAY (xvfb-run gives a virtual "
            "one), or take render_mode='rgb_array', which needs neither"
        )


class Window:
    """Shows a vehicle at the pace of its control steps. A window that was closed by hand stays closed.

    Raises: ConfigError where there is no display.
    """

    def __init__(self):
        require_display()
        self.model = self.viewer = None
        self._due = 0.0

    def show(self, warehouse: Warehouse, row: int = 0) -> None:
        """Draw what is now, then wait until the control step is over."""
        if self.viewer is not None and not self.viewer.is_running():
            return
        layout = warehouse.layout[row]
        model = compiled(layout, float(warehouse.radius[row]))
        if model is not self.model:
            self._open(model, layout.size)
        data, movers = self.data, len(layout.movers)
        with self.viewer.lock():
            data.qpos[:] = warehouse.world.pose[row]
            data.mocap_pos[:movers, :2] = movers_at(warehouse.movers, warehouse.time)[row, :movers]
            data.mocap_pos[movers, :2] = warehouse.goal[row]
            mujoco.mj_forward(model, data)
        self.viewer.sync()
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = time.monotonic() + CONTROL_PERIOD

    def _open(self, model: mujoco.MjModel, size: tuple[float, float]) -> None:
        from mujoco.viewer import launch_passive  # brings a window system with it

        self.close()
        self.model, self.data = model, mujoco.MjData(model)
        before = set(threading.enumerate())
        self.viewer = launch_passive(model, self.data, show_left_ui=False, show_right_ui=False)
        self._threads = set(threading.enumerate()) - before
        atexit.register(self.close)
        self.viewer.opt.geomgroup[PAINT] = 1
        camera = self.viewer.cam
        camera.lookat[:] = size[0] / 2, size[1] / 2, 0
        camera.distance, camera.azimuth, camera.elevation = 1.5 * max(size), 90, -80

    def close(self) -> None:
        """Once or more often; returns when the viewer has ended, which must not outlive the interpreter."""
        if self.viewer is not None:
            self.viewer.close()
            for thread in self._threads:
                thread.join(5)
            atexit.unregister(self.close)
        self.model = self.viewer = None
