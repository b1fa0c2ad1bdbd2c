"""nuScenes sweeps put together and SemanticKITTI's sequences, as data sets."""

import numpy as np
import pytest
from mmengine.config import Config
from nuscenes import NuScenes
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion
from scipy.spatial import cKDTree

from common.errors import ConfigError, DataError
from deploy.completion_export_command import first_sample
from perception.completion import nuscenes_sweeps as sweeps
from perception.completion.profiles import Profile
from perception.completion.real_scenes import KittiScenes, SweepScenes

from .test_semantic_kitti import cloud, write
from .tiny import TINY

FAR = Profile(**{**vars(TINY), "radius": 40.0, "cube": 8.0})


@pytest.fixture(scope="module")
def nusc(simulated_root):
    return NuScenes(version="v1.0-mini", dataroot=str(simulated_root), verbose=False)


@pytest.fixture(scope="module")
def read(nusc):
    return sweeps.scene_sweeps(nusc, nusc.scene[0], 40.0)


def test_all_sweeps_of_a_scene_come_in_time_and_key_frames_are_marked(nusc, read):
    records = sweeps.sweeps_of(nusc, nusc.scene[0])
    times = [one["timestamp"] for one in records]
    assert times == sorted(times) and len(read) == len(records)
    assert sum(one.key for one in read) == nusc.scene[0]["nbr_samples"]


def test_what_moves_is_named_and_what_is_parked_is_not(nusc):
    scene = nusc.scene[0]
    moving = sweeps.moving_instances(nusc, scene)
    for token in {a["instance_token"] for a in nusc.sample_annotation}:
        chain = [a for a in nusc.sample_annotation if a["instance_token"] == token]
        if nusc.get("sample", chain[0]["sample_token"])["scene_token"] != scene["token"]:
            assert token not in moving
            continue
        path = np.array([a["translation"] for a in chain])
        if np.linalg.norm(path - path[0], axis=1).max() > 0.5:
            assert token in moving
    assert 0 < len(moving) < len(nusc.instance)


def test_points_in_a_box_are_left_out_and_those_beside_it_are_not():
    box = Box([10.0, 0, 0], [2.0, 4.0, 1.5], Quaternion(axis=[0, 0, 1], radians=np.pi / 2))  # 4 m along y
    points = np.array([[10.0, 1.9, 0], [10.0, 2.25, 0], [10.0, 2.35, 0], [11.3, 0, 0], [10.0, 0, 1.2]])
    assert sweeps.outside(points, [box]).tolist() == [False, False, True, True, True]


def test_moving_objects_leave_no_points_in_their_boxes(nusc, read):
    moving = sweeps.moving_instances(nusc, nusc.scene[0])
    inside = 0
    for one in read:
        if not one.key:
            continue
        world = one.points.astype(float) @ one.sensor2global[:3, :3].T + one.sensor2global[:3, 3]
        for box in nusc.get_boxes(one.token):
            if nusc.get("sample_annotation", box.token)["instance_token"] in moving:
                inside += int((~sweeps.outside(world, [box])).sum())
    assert inside == 0


def test_static_walls_of_all_sweeps_coincide(read):
    """A sweep laid over the others by its own pose: their points of the ground and walls lie near each other; by its
    neighbour's pose they do not."""
    first, second = read[0], read[-1]
    there = first.points.astype(float) @ first.sensor2global[:3, :3].T + first.sensor2global[:3, 3]

    def gap(sensor2global):
        world = second.points.astype(float) @ sensor2global[:3, :3].T + sensor2global[:3, 3]
        high = world[:, 2] > 0.5  # ground is everywhere
        return np.median(cKDTree(there[there[:, 2] > 0.5]).query(world[high])[0])

    assert gap(second.sensor2global) < 0.5 * gap(first.sensor2global)


def test_cells_of_a_single_sweep_are_ghosts():
    common = np.array([[0.0, 0, 0], [5, 5, 0]])
    found = sweeps.common_cells([np.r_[common, [[9.0, 9, 0]]], common + 0.01, common + 0.02])
    assert sorted(map(tuple, np.round(found))) == [(0, 0, 0), (5, 5, 0)]
    assert len(sweeps.common_cells([common])) == 2, "a single sweep has no second witness"


def test_a_sample_has_its_scene_around_it_with_x_ahead(nusc, read):
    index = next(i for i, one in enumerate(read) if one.key and i)
    scan, scene = sweeps.sample(read, index, 40.0)
    assert len(scene) > len(scan) / 4 and np.linalg.norm(scene, axis=1).max() < 40
    np.testing.assert_allclose(scan, read[index].points[:, [1, 0, 2]] * [1, -1, 1], rtol=1e-6)
    distance = cKDTree(scene).query(scan[np.linalg.norm(scan, axis=1) < 15])[0]
    assert np.median(distance) < 0.5
    alone, _ = sweeps.sample(read, index, 40.0, window=0.0)
    assert len(alone) == len(scan)
    between = [i for i, one in enumerate(read) if not one.key]
    if between:
        with pytest.raises(DataError, match="lies between key frames"):
            sweeps.sample(read, between[0], 40.0)


def test_damaged_sweeps_are_named(tmp_path):
    with pytest.raises(DataError, match="is missing"):
        sweeps.read_points(tmp_path / "a.bin", 40.0)
    (tmp_path / "b.bin").write_bytes(b"1" * 30)
    with pytest.raises(DataError, match="30 bytes are no whole number"):
        sweeps.read_points(tmp_path / "b.bin", 40.0)
    near = np.zeros((3, 5), np.float32)
    near[:, :2] = [[1.0, 2.0], [1.0, 3.0], [30.0, 30.0]]
    near.tofile(tmp_path / "c.bin")
    assert sweeps.read_points(tmp_path / "c.bin", 40.0).tolist() == [[1.0, 3.0, 0.0]]


def test_nuscenes_samples_are_made_once(simulated_root, tmp_path):
    made = SweepScenes(str(simulated_root), "v1.0-mini", str(tmp_path), FAR, train=True)
    item = made[1]
    assert item["scan"].shape == (40, 3) and item["scene"].shape == (120, 3)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(files) == len(made)
    again = SweepScenes(str(simulated_root), "v1.0-mini", str(tmp_path), FAR, train=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == files and len(again) == len(made)
    val = SweepScenes(str(simulated_root), "v1.0-mini", str(tmp_path), FAR, train=False, dense=2)
    assert val[0]["dense"].shape == (240, 3) and not set(val.tokens) & set(made.tokens)
    assert all((val[0][key] == val[0][key]).all() for key in ("scan", "scene"))


def test_kitti_sequences_give_every_scan_with_the_map_around_it(tmp_path):
    write(tmp_path / "00", [cloud(seed=i) for i in range(3)], [[40] * 400] * 3, [np.eye(4)] * 3)
    made = KittiScenes(str(tmp_path), FAR, sequences=("00",))
    assert len(made) == len(made.sequences[0].scans)
    assert made[0]["scan"].shape == (40, 3) and made[0]["scene"].shape == (120, 3)
    assert len(KittiScenes(str(tmp_path), FAR, sequences=("00",), every=2)) == -(-len(made) // 2)
    config = Config({"test_dataloader": {"dataset": {"type": KittiScenes, "root": str(tmp_path), "profile": FAR,
                                                     "sequences": ("00",)}}})  # fmt: skip
    assert first_sample(config)["scan"].shape == (40, 3)  # of scenes that cannot be counted out in advance
    with pytest.raises(DataError, match="holds no scan"):
        KittiScenes(str(tmp_path), FAR, sequences=("99",))


def test_a_version_without_scenes_of_the_split_is_refused(simulated_root, tmp_path, monkeypatch):
    monkeypatch.setattr("nuscenes.utils.splits.create_splits_scenes", lambda: {"mini_train": [], "mini_val": []})
    with pytest.raises(ConfigError, match="holds no scene of mini_train"):
        SweepScenes(str(simulated_root), "v1.0-mini", str(tmp_path), FAR)
