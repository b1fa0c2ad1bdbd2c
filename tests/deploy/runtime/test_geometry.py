import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from deploy.frames import surround_rig
from deploy.parity import batch
from deploy.runtime.errors import InputError, PoseError
from deploy.runtime.geometry import Lift, PoseHistory, Rig, cam2lidar_at, camera_vector, check_pose, cur2past


def matrices(rig: Rig) -> dict[str, torch.Tensor]:
    names = ("cam2img", "cam2lidar", "img_aug")
    tensors = {name: torch.from_numpy(np.array(getattr(rig, name))).float()[None] for name in names}
    return {**tensors, "bev_aug": torch.eye(4)[None]}


def yaw_pose(x, y, yaw, z=0.0):
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = x, y, z
    return pose


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("choice", [("block_centre", "floor", "edge"), ("stretched", "truncate", "middle")])
def test_the_pool_index_is_that_of_training(manifest, detector, seed, choice):
    from perception.detection.view_transform import build_pool_index, frustum, lift_points

    sampling, rounding, lift_at = choice
    rig = surround_rig(manifest, 4, raw_size=(900, 1600), seed=seed)
    core = detector.core
    points = frustum(core.image_hw, core.stride, core.depth_bins, sampling=sampling, lift_at=lift_at)
    wanted = build_pool_index(lift_points(points, **matrices(rig)), core.grid, rounding=rounding)
    got = Lift(replace(manifest, frustum=sampling, rounding=rounding, lift_at=lift_at)).index(rig)
    assert len(got.cell) > 500
    theirs = set(zip(wanted.depth.tolist(), wanted.feature.tolist(), wanted.cell.tolist(), strict=True))
    ours = set(zip(got.depth.tolist(), got.feature.tolist(), got.cell.tolist(), strict=True))
    # A point within float32 rounding of a cell's edge may fall to either side.
    assert len(ours ^ theirs) <= 2e-3 * len(theirs)
    assert (np.diff(got.cell) >= 0).all()


def test_the_camera_vector_is_that_of_training(manifest):
    from perception.detection.depth_net import camera_vector as torch_vector

    rig = surround_rig(manifest, 4, raw_size=(900, 1600), seed=3)
    inputs = matrices(rig)
    wanted = torch_vector(inputs["cam2img"], inputs["img_aug"], inputs["bev_aug"], inputs["cam2lidar"])
    np.testing.assert_array_equal(camera_vector(rig), wanted.numpy())


def test_a_frustum_point_lies_where_its_pixel_projects(manifest):
    rig = surround_rig(manifest, 3, raw_size=(900, 1600), seed=5)
    lift = Lift(manifest)
    lidar = lift.points(rig).reshape(3, 3, -1).astype(np.float64)
    for camera in range(3):
        lidar2cam = np.linalg.inv(rig.cam2lidar[camera])
        cam = lidar2cam[:3, :3] @ lidar[camera] + lidar2cam[:3, 3:]
        pixel = rig.img_aug[camera] @ rig.cam2img[camera] @ cam
        np.testing.assert_allclose(pixel[:2] / pixel[2], lift.frustum.reshape(-1, 3).T[:2], atol=2e-3)
        np.testing.assert_allclose(cam[2], lift.frustum[..., 2].reshape(-1), atol=1e-4)


def test_dropping_a_camera_drops_exactly_its_points(manifest, rig):
    lift = Lift(manifest)
    index = lift.index(rig)
    part = lift.without(index, [1])
    camera = index.depth // (len(lift.frustum.reshape(-1, 3)))
    np.testing.assert_array_equal(part.depth, index.depth[camera != 1])
    np.testing.assert_array_equal(part.cell, index.cell[camera != 1])
    assert 0 < len(part.cell) < len(index.cell)


def test_motion_is_that_of_training_far_from_the_origin(random):
    from perception.detection.history import cur2past as torch_cur2past

    past = [yaw_pose(*random.uniform(-5e3, 5e3, 2), random.uniform(-3, 3), 1.8) for _ in range(4)]
    cur = yaw_pose(*random.uniform(-5e3, 5e3, 2), 1.0, 2.0)
    wanted = torch_cur2past(torch.from_numpy(np.stack(past))[None], torch.from_numpy(cur)[None])[0].numpy()
    np.testing.assert_allclose([cur2past(cur, pose) for pose in past], wanted, atol=1e-9)


def test_driving_one_metre_forward_leaves_the_past_map_one_metre_behind():
    motion = cur2past(yaw_pose(10, 21, 0.0), yaw_pose(10, 20, 0.0))
    np.testing.assert_allclose(motion, [[1, 0, 0], [0, 1, 1], [0, 0, 1]], atol=1e-12)


def test_the_pose_history_is_that_of_training_over_two_sequences(random):
    from perception.detection.grid import GridSpec
    from perception.detection.history import History, next_history
    from perception.detection.history import cur2past as torch_cur2past

    grid, history, poses = GridSpec(x=(-2, 2, 1), y=(-2, 2, 1)), None, PoseHistory(3)
    for i in range(8):
        start = i in (0, 5)
        pose = yaw_pose(*random.uniform(-50, 50, 2), random.uniform(-3, 3))
        if start:
            poses.reset()
        got = poses.transforms(pose)[0]
        current, here = torch.zeros(1, 1, 4, 4), torch.from_numpy(pose)[None]
        if history is None:
            history = History(torch.zeros(1, 3, 1, 4, 4), here[:, None].expand(-1, 3, -1, -1))
        wanted = np.tile(np.eye(3), (3, 1, 1)) if start else torch_cur2past(history.bev2global, here)[0].numpy()
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        history = next_history(current, history, here, torch.tensor([start]), grid)
        poses.push(pose)


def test_ego_motion_between_exposure_and_sweep_is_compensated():
    cam2ego, lidar2ego = yaw_pose(1.5, 0, -1.5, 1.5), yaw_pose(0.9, 0, -1.57, 1.8)
    exposure, sweep = yaw_pose(100, 50, 0.3), yaw_pose(101, 50.2, 0.32)
    cam2lidar = cam2lidar_at(cam2ego, exposure, sweep @ lidar2ego)
    point = np.array([0.3, -0.2, 12.0, 1.0])
    np.testing.assert_allclose(sweep @ lidar2ego @ cam2lidar @ point, exposure @ cam2ego @ point, atol=1e-9)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (np.full((4, 4), np.nan), "holds NaN or infinity"),
        (np.eye(3), r"wants \(4, 4\), got \(3, 3\)"),
        (np.diag([1.0, 1, -1, 1]), "is no rigid transform"),
        (np.diag([2.0, 2, 2, 1]), "is no rigid transform"),
        ("here", "is not an array of numbers"),
    ],
)
def test_a_bad_pose_is_named(pose, message):
    with pytest.raises(PoseError, match=f"lidar2global {message}"):
        check_pose(pose, "lidar2global")


def test_a_rig_survives_its_file(manifest, tmp_path):
    rig = surround_rig(manifest, 3, raw_size=(900, 1600), seed=1)
    rig.save(tmp_path / "rig.json")
    back = Rig.load(tmp_path / "rig.json")
    assert back.cameras == rig.cameras and back.raw_size == (900, 1600)
    for name in ("cam2img", "cam2lidar", "img_aug"):
        np.testing.assert_array_equal(getattr(back, name), getattr(rig, name))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"img_aug": [[[1, 0], [0, 1, 0], [0, 0, 1]]] * 3}, "inhomogeneous"),
        ({"img_aug": [[[0, 0, 0], [0, 1, 0], [0, 0, 1]]] * 3}, r"rig\.img_aug is singular: its scales must not be 0"),
        ({"raw_size": "x"}, "invalid literal"),
        ({"cameras": ["CAM"] * 3}, "a name of its own"),
        ({"lens": 1}, "wanted the keys"),
    ],
)
def test_a_broken_rig_file_is_named_with_its_fault(manifest, tmp_path, broken, says):
    path = tmp_path / "rig.json"
    surround_rig(manifest, 3).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **broken}))
    with pytest.raises(InputError, match=rf"rig\.json: .*{says}"):
        Rig.load(path)


def test_a_rig_with_a_wrong_matrix_is_named(manifest, rig):
    with pytest.raises(InputError, match=r"rig\.cam2img wants \(3, 3, 3\) finite numbers, got \(2, 3, 3\)"):
        replace(rig, cam2img=rig.cam2img[:2])
    with pytest.raises(InputError, match=r"rig\.cam2lidar of CAM_1 is no rigid transform"):
        bad = rig.cam2lidar.copy()
        bad[1, 0, 0] += 0.5
        replace(rig, cam2lidar=bad)
    with pytest.raises(InputError, match="give every camera a name of its own"):
        replace(rig, cameras=("A", "A", "B"))


def test_the_batch_of_the_parity_check_carries_the_rig(manifest, rig, frames, detector):
    inputs = batch(rig, frames[0], torch.zeros(1, 3, 3, 64, 96))
    index = detector.core.pool_index(inputs)
    assert index.frustum_shape[:2] == (1, 3)
