"""Frames: a2b maps coordinates of a to coordinates of b."""

import numpy as np
import pytest

from common import geometry as g

RNG = np.random.default_rng(5)


def random_pose(rng=RNG):
    return g.pose(rng.normal(size=3) * 10, rng.normal(size=4))


def test_a_quarter_turn_about_z_takes_x_to_y():
    half = np.sqrt(0.5)
    body2world = g.pose([1, 2, 3], [half, 0, 0, half])
    np.testing.assert_allclose(g.transform(body2world, [1, 0, 0]), [1, 3, 3], atol=1e-12)


def test_a_quaternion_need_not_be_normalised_and_its_sign_does_not_matter():
    q = RNG.normal(size=4)
    for other in (3 * q, -q):
        np.testing.assert_allclose(g.pose([0, 0, 0], q), g.pose([0, 0, 0], other), atol=1e-12)


def test_rotations_are_proper():
    rotation = random_pose()[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_quaternion_inverts_pose_in_all_four_branches():
    for axis in range(4):
        q = 0.1 * RNG.normal(size=4)
        q[axis] = 1.0  # the largest term decides the branch
        q = q / np.linalg.norm(q) * (1 if q[0] >= 0 else -1)
        np.testing.assert_allclose(g.quaternion(g.pose([0, 0, 0], q)[:3, :3]), q, atol=1e-12)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_quaternion_of_a_half_turn_is_the_axis(axis):
    q = g.quaternion(g.pose([0, 0, 0], (0, *axis))[:3, :3])
    np.testing.assert_allclose(np.abs(q), (0, *axis), atol=1e-12)


def test_invert_is_the_inverse_matrix_for_stacks_too():
    poses = np.stack([random_pose() for _ in range(6)]).reshape(2, 3, 4, 4)
    np.testing.assert_allclose(g.invert(poses) @ poses, np.broadcast_to(np.eye(4), poses.shape), atol=1e-12)


def test_transforms_compose_from_right_to_left():
    a2b, b2c, points = random_pose(), random_pose(), RNG.normal(size=(7, 3))
    np.testing.assert_allclose(g.transform(b2c @ a2b, points), g.transform(b2c, g.transform(a2b, points)), atol=1e-12)


def test_transform_broadcasts_one_pose_per_point():
    poses, points = np.stack([random_pose() for _ in range(4)]), RNG.normal(size=(4, 3))
    each = [g.transform(pose, point) for pose, point in zip(poses, points, strict=True)]
    np.testing.assert_allclose(g.transform(poses, points), each, atol=1e-12)


@pytest.mark.parametrize("yaw", [-3.0, -0.5, 0.0, 1.2, 3.1])
def test_yaw_of_recovers_the_heading(yaw):
    body2world = g.yaw_pose(4, 5, 6, yaw)
    assert g.yaw_of(body2world) == pytest.approx(yaw)
    np.testing.assert_allclose(body2world[:3, 3], [4, 5, 6])


def test_wrapped_angles_keep_their_direction_and_lie_in_one_turn():
    angles = np.linspace(-20, 20, 4001)
    wrapped = g.wrap_angle(angles)
    assert (wrapped >= -np.pi).all() and (wrapped < np.pi).all()
    np.testing.assert_allclose(np.exp(1j * wrapped), np.exp(1j * angles), atol=1e-9)
