import mujoco
import numpy as np
import pytest

from control.envs import make
from control.envs.sensors import Camera, PointCloud, farthest_points, opengl_picture, picture, raycast

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
    with pytest.raises(RuntimeError, match=r"libosmesa6.*MUJOCO_GL=osmesa"):
        opengl_picture(*scene, Camera((0, -3, 0), (0, 0, 0)), 20, 20)
