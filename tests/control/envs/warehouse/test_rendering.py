"""What a warehouse looks like: pictures without a display, and a window, with a stand-in for MuJoCo's viewer."""

from contextlib import nullcontext
from types import SimpleNamespace

import gymnasium as gym
import mujoco.viewer
import numpy as np
import pytest

from common.errors import ConfigError
from control.envs.warehouse import register_all
from control.envs.warehouse.env import AGVWarehouse
from control.envs.warehouse.layout import discs_at

register_all()


def test_a_picture_without_a_display():
    env = AGVWarehouse("SimpleDynamic", render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([0.5, 0.2]))
    picture = env.render()
    assert picture.shape == (480, 480, 3) and picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 8


class Viewer:
    """Stands in for MuJoCo's, which needs a display."""

    def __init__(self, model, data, **kwargs):
        self.model, self.data, self.shown, self.running = model, data, [], True
        self.cam = SimpleNamespace(lookat=np.zeros(3), distance=0, azimuth=0, elevation=0)
        self.opt = SimpleNamespace(geomgroup=np.zeros(6))

    def lock(self):
        return nullcontext()

    def sync(self):
        self.shown.append(np.concatenate([self.data.qpos, self.data.mocap_pos[:, :2].ravel()]))

    def is_running(self):
        return self.running

    def close(self):
        self.running = False


@pytest.fixture
def viewers(monkeypatch):
    """All that were opened."""
    opened = []
    monkeypatch.setattr(mujoco.viewer, "launch_passive", lambda *a, **k: opened.append(Viewer(*a, **k)) or opened[-1])
    monkeypatch.setattr("control.envs.warehouse.window.require_display", lambda: None)
    monkeypatch.setattr("control.envs.warehouse.window.CONTROL_PERIOD", 0.0)
    return opened


@pytest.mark.parametrize("backend", ["mujoco", "kinematic"])
def test_a_window_shows_every_step_of_either_backend(viewers, backend):
    env = gym.make("tutelage/AGVWarehouse-SimpleDynamic-v0", render_mode="human", backend=backend)
    env.reset(seed=0)
    hall = env.unwrapped.warehouse
    assert not viewers and env.render() is None
    for _ in range(3):
        pose = env.step(np.array([0.5, 0.2], np.float32))[-1]["pose"]
    (viewer,) = viewers
    movers = discs_at(hall.movers, hall.time)[0, :, :2]
    np.testing.assert_allclose(viewer.shown[-1], [*pose, *movers.ravel(), *hall.goal[0]])
    env.reset(seed=1)
    assert len(viewer.shown) == 4 and viewer.opt.geomgroup[3] == 1
    viewer.close()
    env.step(np.array([0.5, 0.2], np.float32))
    assert len(viewers) == 1 and len(viewer.shown) == 4
    env.close()
    env.close()


def test_another_layout_gets_another_window(viewers):
    env = AGVWarehouse("Random", "kinematic", render_mode="human")
    for seed in (0, 1):
        env.reset(options={"layout_seed": seed})
        env.step(np.zeros(2))
    assert [one.running for one in viewers] == [False, True]
    env.close()
    assert not viewers[1].running


def test_a_window_without_a_display_says_what_to_do(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    env = AGVWarehouse("Simple", render_mode="human")
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=r"needs a display.*rgb_array"):
        env.step(np.zeros(2))
    env.close()
