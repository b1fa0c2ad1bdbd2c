import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from common.errors import ConfigError
from control.envs import make
from control.envs.sensors import Camera, OpenGLPictures, PointCloud, farthest_points, picture, raycast

SCENE = """<mujoco><worldbody><geom type="sphere" size="0.5" rgba="1 0 0 1"/>
<geom type="box" size="0.2 0.2 0.2" pos="2 0 0" rgba="0 0 1 1"/></worldbody></mujoco>"""


@pytest.fixture
def scene():
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def test_the_ray_through_the_middle_meets_the_sphere_at_its_radius(scene):
    camera = Camera((0, -3, 0), (0, 0, 0), 60.0)
    distance, geom, normal = raycast(*scene, camera, 31, 41)
    assert distance[15, 20] == pytest.approx(2.5) and geom[15, 20] == 0
    np.testing.assert_allclose(normal[15, 20], [0, -1, 0], atol=1e-9)
    assert geom[0, 0] == -1 and distance[0, 0] == -1


def test_right_is_right_and_up_is_up():
    rays = Camera((0, -3, 0), (0, 0, 0), 90.0).rays(20, 20)
    assert rays[10, 19, 0] > 0.5 and rays[10, 0, 0] < -0.5  # seen along +y, x points right
    assert rays[0, 10, 2] > 0.5 and rays[19, 10, 2] < -0.5
    corner = Camera((0, -3, 0), (0, 0, 0), 90.0).rays(2, 2)[0, 0]  # pixel centre at half the half angle's tangent
    np.testing.assert_allclose(corner / corner[1], [-0.5, 1, 0.5])


def test_every_point_of_the_cloud_lies_on_a_surface_inside_the_bounds(scene):
    camera = Camera((0, -3, 0), (0, 0, 0), 60.0, ((-1, -1, 0.0), (1, 1, 1)))
    points = PointCloud(camera, 64).points(*scene)
    assert points.shape == (64, 3) and points.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 0.5, atol=1e-6)
    assert (points[:, 2] >= 0).all()
    assert len(np.unique(points, axis=0)) == 64


def test_farthest_points_spread_and_repeat_only_when_there_are_too_few():
    line = np.stack([np.linspace(0, 1, 101), np.zeros(101), np.zeros(101)], 1)
    chosen = np.sort(farthest_points(line, 5)[:, 0])
    np.testing.assert_allclose(chosen, [0, 0.25, 0.5, 0.75, 1], atol=1e-6)
    assert farthest_points(line[:2], 4).shape == (4, 3)
    assert not farthest_points(line[:0], 4).any()


def test_a_picture_shows_a_geom_in_its_colour(scene):
    image = picture(*scene, Camera((0, -3, 0), (0, 0, 0), 90.0), 40, 60)
    red, blue = image[20, 30].astype(int), image[20, 55].astype(int)
    assert image.dtype == np.uint8 and red[0] > 100 and red[1] == red[2] == 0
    assert (image[..., 2].astype(int) - image[..., 0] > 100).any(), blue


@pytest.mark.parametrize("name", ["MetaWorld-drawer-open-v3", "TwoRoutes-v0", "FetchReach-v4", "PointMaze-Ring-v3"])
def test_tasks_give_pictures_and_clouds_without_opengl(name):
    env = make(name, observe=("state", "rgb", "points"), image_hw=(48, 64), points=128)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation["rgb"].std() > 10 and np.unique(observation["points"], axis=0).shape[0] > 60
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation["points"], again["points"])


def test_without_opengl_the_renderer_says_what_to_install(scene, monkeypatch):
    def broken(*args, **kwargs):
        raise mujoco.FatalError("gladLoadGL error")

    monkeypatch.setattr(mujoco, "Renderer", broken)
    told = r"OpenGL backend osmesa \(FatalError: gladLoadGL error\).*MUJOCO_GL=egl.*MUJOCO_GL=osmesa \(.*libosmesa6"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(RuntimeError, match=told):
        OpenGLPictures()(*scene, Camera((0, -3, 0), (0, 0, 0)), 20, 20)
    with pytest.raises(RuntimeError, match=told):
        make("TwoRoutes-v0", observe=("rgb",), renderer="opengl")
    monkeypatch.delenv("MUJOCO_GL")
    with pytest.raises(RuntimeError, match="backend glfw"):
        gym.make("tutelage/TwoRoutes-v0", observe=("rgb",), renderer="opengl")
    assert make("TwoRoutes-v0", renderer="opengl").reset(seed=0)[0].keys() == {"state"}  # no picture, no OpenGL


def test_a_renderer_that_is_none_or_has_nothing_to_draw_is_refused():
    with pytest.raises(ConfigError, match="renderer='vulkan': choose one of raycast, opengl"):
        make("TwoRoutes-v0", renderer="vulkan")
    with pytest.raises(ConfigError, match="PushT is no MuJoCo scene: leave renderer at 'raycast'"):
        make("PushT-v0", renderer="opengl")


BOTH = """
import sys
import numpy as np
try:
    from control.envs import make
    envs = [make(sys.argv[1], observe=("rgb",), image_hw=(96, 128), renderer=r, render_mode="rgb_array")
            for r in ("raycast", "opengl")]
except RuntimeError as error:
    print(error)
    raise SystemExit(3)
found = {}
for env, name in zip(envs, ("raycast", "opengl")):
    found[name] = env.reset(seed=3)[0]["rgb"]
    found["again"] = env.reset(seed=3)[0]["rgb"]
    found[name + "_wide"] = env.render()
    assert env.observation_space.contains({"rgb": found[name]})
wide = make(sys.argv[1], observe=("rgb",), image_hw=(500, 660), renderer="opengl")  # more than MuJoCo's frame buffer
found["large"] = wide.reset(seed=3)[0]["rgb"]
np.savez(sys.argv[2], **found)
"""


def coloured(image, channel):
    """Where a channel stands out against both others."""
    others = np.delete(image.astype(int), channel, -1).max(-1)
    return image[..., channel] - others > 35


@pytest.mark.parametrize("backend", ["egl", "osmesa", None])
@pytest.mark.parametrize("name, channel", [("TwoRoutes-v0", 0), ("MetaWorld-drawer-open-v3", 1)])
def test_both_renderers_see_the_same_scene_or_the_missing_backend_is_named(name, channel, backend, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    environment |= {"MUJOCO_GL": backend} if backend else {}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BOTH, name, str(tmp_path / "found.npz")], env=environment,
        capture_output=True, text=True, cwd=Path(__file__).resolve().parents[3],
    )  # fmt: skip
    if done.returncode == 3:
        assert f"OpenGL backend {backend or 'glfw (MUJOCO_GL is not set)'}" in done.stdout
        assert "set MUJOCO_GL=egl" in done.stdout and "MUJOCO_GL=osmesa" in done.stdout
        return
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr
    with np.load(tmp_path / "found.npz") as stored:
        found = dict(stored)
    np.testing.assert_array_equal(found["opengl"], found["again"])
    assert found["large"].shape == (500, 660, 3) and coloured(found["large"], channel).any()
    for size in ("", "_wide"):
        one, other = (coloured(found[which + size], channel) for which in ("raycast", "opengl"))
        assert (one & other).sum() > 0.6 * (one | other).sum() > 10
        assert not np.array_equal(found["raycast" + size], found["opengl" + size])
