"""SemanticKITTI's format, written by hand: poses, maps, and what is refused."""

import os

import numpy as np
import pytest

from common.errors import DataError
from common.geometry import invert, transform, yaw_pose
from perception.completion.semantic_kitti import Map, Sequence, read_scan

VELODYNE2CAMERA = np.array([[0.0, -1, 0, 0.1], [0, 0, -1, 0.3], [1, 0, 0, -0.2], [0, 0, 0, 1]])


def write(folder, clouds, labels, velodyne2first):
    """A sequence of clouds (P, 3), labels (P,), and poses of the velodyne."""
    for name in ("velodyne", "labels"):
        (folder / name).mkdir(parents=True)
    for i, (points, kind) in enumerate(zip(clouds, labels, strict=True)):
        np.c_[points, np.zeros(len(points))].astype(np.float32).tofile(folder / "velodyne" / f"{i:06d}.bin")
        (np.asarray(kind, np.uint32) | 7 << 16).astype(np.uint32).tofile(folder / "labels" / f"{i:06d}.label")
    rows = [VELODYNE2CAMERA @ pose @ invert(VELODYNE2CAMERA) for pose in velodyne2first]
    (folder / "poses.txt").write_text("\n".join(" ".join(map(str, one[:3].ravel())) for one in rows) + "\n")
    tr = " ".join(map(str, VELODYNE2CAMERA[:3].ravel()))
    (folder / "calib.txt").write_text(f"P0: {' '.join(['0'] * 12)}\nTr: {tr}\n")
    return folder


def cloud(count=400, seed=0):
    return np.random.default_rng(seed).uniform([5, -20, -2], [40, 20, 3], (count, 3)).astype(np.float32)


def test_a_pole_seen_from_many_poses_is_one_pole_in_the_map(tmp_path):
    """The camera's poses alone, without the change of frames, smear it."""
    poses = [yaw_pose(0.5 * i, 0.1 * i, 0, 0.05 * i) for i in range(21)]
    pole = np.c_[np.full(20, 20.05), np.full(20, 3.05), np.linspace(-1.5, 2, 20)]
    clouds = [transform(invert(pose), pole) for pose in poses]
    sequence = Sequence.load(write(tmp_path / "00", clouds, [[80] * 20] * 21, poses))
    found = sequence.map(progress=False)
    assert np.linalg.norm(found[:, :2] - [20.05, 3.05], axis=1).max() < 0.01 and len(found) < 40
    cameras = [VELODYNE2CAMERA @ pose @ invert(VELODYNE2CAMERA) for pose in poses]
    smeared = np.concatenate([transform(one, points) for one, points in zip(cameras, clouds, strict=True)])
    assert np.linalg.norm(smeared[:, :2] - [20.05, 3.05], axis=1).max() > 1


def test_two_equal_scans_make_the_map_of_one_of_measured_points(tmp_path):
    points = cloud()
    one = Sequence.load(write(tmp_path / "a", [points], [[40] * 400], [np.eye(4)])).map(progress=False)
    two = Sequence.load(write(tmp_path / "b", [points] * 2, [[40] * 400] * 2, [np.eye(4)] * 2)).map(progress=False)
    np.testing.assert_allclose(one, two, atol=1e-5)
    gap = np.abs(one[:, None] - points[None]).max(-1).min(1)
    assert gap.max() < 1e-5, "every kept point was measured"
    cells = np.floor(one.astype(np.float64) / 0.1 + 1e-9)
    assert len(np.unique(cells, axis=0)) >= 0.99 * len(one)


def test_moving_unlabelled_and_near_points_are_not_in_the_map(tmp_path):
    points = cloud()
    points[:50] *= 0.05  # within 3.5 m
    labels = np.full(400, 40)
    labels[100:150], labels[150:200], labels[200:250], labels[250:300] = 0, 1, 252, 259
    found = Sequence.load(write(tmp_path / "a", [points], [labels], [np.eye(4)])).map(progress=False)
    gap = np.abs(found[:, None] - points[None]).max(-1).argmin(1)
    assert not set(gap) & set(range(100, 300)) and not set(gap) & set(
        np.flatnonzero(np.linalg.norm(points, axis=1) < 3.5)
    )


def test_a_map_is_kept_and_built_anew_when_the_poses_change(tmp_path):
    folder = write(tmp_path / "a", [cloud()], [[40] * 400], [np.eye(4)])
    first = Sequence.load(folder).map(progress=False)
    stamp = (folder / "map_clean.npz").stat().st_mtime_ns
    assert np.array_equal(Sequence.load(folder).map(progress=False), first)
    assert (folder / "map_clean.npz").stat().st_mtime_ns == stamp
    moved = VELODYNE2CAMERA @ yaw_pose(1, 0, 0, 0) @ invert(VELODYNE2CAMERA)
    (folder / "poses.txt").write_text(" ".join(map(str, moved[:3].ravel())) + "\n")
    np.testing.assert_allclose(
        np.sort(Sequence.load(folder).map(progress=False)[:, 0]), np.sort(first[:, 0]) + 1, atol=0.15
    )
    before, label = Sequence.load(folder).map(progress=False), folder / "labels" / "000000.label"
    np.full(400, 252, np.uint32).tofile(label)  # corrected: all of it moves
    os.utime(label, ns=(0, 1))
    assert len(Sequence.load(folder).map(progress=False)) == 0 < len(before)
    (folder / "map_clean.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match=r"map_clean\.npz is damaged"):
        Sequence.load(folder).map(progress=False)


def test_a_scan_that_is_missing_leaves_the_others_their_poses(tmp_path):
    poses = [yaw_pose(float(i), 0, 0, 0) for i in range(3)]
    folder = write(tmp_path / "a", [cloud(seed=i) for i in range(3)], [[40] * 400] * 3, poses)
    (folder / "velodyne" / "000001.bin").unlink()
    np.testing.assert_allclose(Sequence.load(folder).poses[:, 0, 3], [0, 2], atol=1e-6)


def test_a_sample_is_the_still_scan_and_the_map_around_it_in_the_scans_frame(tmp_path):
    pose = yaw_pose(10, 2, 0, 0.4)
    labels = np.full(400, 40)
    labels[:100] = 252
    sequence = Sequence.load(write(tmp_path / "a", [cloud(), cloud(seed=1)], [labels, labels], [np.eye(4), pose]))
    scan, scene = sequence.sample(1, sequence.map(progress=False), 25.0)
    np.testing.assert_allclose(scan, cloud(seed=1)[100:])
    assert np.linalg.norm(scene, axis=1).max() < 25.001
    own = scan[np.linalg.norm(scan, axis=1) < 24]
    assert np.linalg.norm(own[:, None] - scene[None], axis=-1).min(1).max() < 0.18  # a cell's diagonal


def test_grids_keep_the_first_point_of_a_cell_over_several_additions():
    grid = Map(0.1)
    grid.add(np.array([[0.01, 0, 0], [0.05, 0, 0], [0.15, 0, 0]]))
    grid.add(np.array([[0.02, 0, 0], [0.25, 0, 0]]))
    assert grid.points[:, 0].tolist() == [0.01, 0.15, 0.25]
    with pytest.raises(ValueError, match="a hundred kilometres"):
        grid.add(np.array([[1e9, 0, 0]]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "poses.txt").unlink(), r"poses\.txt is missing"),
        (lambda f: (f / "calib.txt").write_text("P0: 1\n"), r"calib\.txt: wanted one line 'Tr:'"),
        (lambda f: (f / "poses.txt").write_text("1 2 3\n"), r"poses\.txt: wanted 12 numbers"),
        (lambda f: (f / "poses.txt").write_text(""), r"has 0 poses, none for 000000\.bin"),
        (lambda f: (f / "poses.txt").write_text("nan " * 12 + "\n"), r"poses\.txt holds numbers that are not finite"),
        (lambda f: (f / "calib.txt").write_text("Tr:" + " a" * 12 + "\n"), r"calib\.txt: wanted one line 'Tr:'"),
        (lambda f: (f / "velodyne/000000.bin").rename(f / "velodyne/first.bin"), r"first\.bin: wanted scans named by"),
        (lambda f: (f / "velodyne/000000.bin").unlink(), "holds no scan"),
    ],
)
def test_incomplete_sequences_are_refused_by_file(tmp_path, spoil, message):
    folder = write(tmp_path / "a", [cloud()], [[40] * 400], [np.eye(4)])
    spoil(folder)
    with pytest.raises(DataError, match=message):
        Sequence.load(folder)


def test_damaged_scans_and_labels_are_refused_by_file(tmp_path):
    folder = write(tmp_path / "a", [cloud()], [[40] * 399], [np.eye(4)])
    with pytest.raises(DataError, match=r"000000\.label: 399 labels for 400 points"):
        Sequence.load(folder).map(progress=False)
    (folder / "labels/000000.label").unlink()
    with pytest.raises(DataError, match=r"000000\.label is missing"):
        Sequence.load(folder).map(progress=False)
    path = folder / "velodyne/000000.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="no whole number of points"):
        read_scan(path)
    np.full((3, 4), np.nan, np.float32).tofile(path)
    with pytest.raises(DataError, match="3 points are not finite"):
        read_scan(path)
