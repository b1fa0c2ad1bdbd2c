import numpy as np
import pytest

from common.errors import ConfigError, DataError
from common.geometry import pose, transform
from perception.datasets import LoadLidarDepth
from perception.datasets.keyframe import keyframe_info
from perception.datasets.transforms.images import ImageDraw, image_augmentation
from perception.datasets.transforms.lidar import depth_maps, read_sweep

SIZE = (256, 704)


def brute_force(points, lidar2cam, cam2img, img_aug, size, low, high):
    """Point by point, pixel by pixel."""
    maps = np.zeros((len(lidar2cam), *size), np.float32)
    for n in range(len(lidar2cam)):
        cam = transform(lidar2cam[n], points[:, :3])
        for x, y, z in cam:
            depth = np.float32(z)
            if not low <= depth < high:
                continue
            u, v, w = img_aug[n] @ cam2img[n] @ [x, y, z]
            column, row = int(np.floor(u / w + 0.5)), int(np.floor(v / w + 0.5))
            if 0 <= column < size[1] and 0 <= row < size[0]:
                old = maps[n, row, column]
                maps[n, row, column] = depth if old == 0 else min(old, depth)
    return maps


@pytest.fixture(scope="module")
def real(data_root):
    """points, lidar2cam, cam2img, img_aug of the real key frame; every camera with flip and rotation of its own."""
    source = data_root / "nuscenes_keyframe"
    info = keyframe_info(source)
    points = read_sweep(source / info["lidar_points"]["lidar_path"])
    images = list(info["images"].values())
    draws = [ImageDraw(0.4 + 0.02 * k, 5 * k, k % 2 == 1, 0.02 * (k - 3)) for k in range(6)]
    return (
        points,
        np.array([image["lidar2cam"] for image in images], np.float64),
        np.array([image["cam2img"] for image in images], np.float64),
        np.stack([image_augmentation((900, 1600), SIZE, draw) for draw in draws]),
    )


@pytest.fixture(scope="module")
def real_maps(real):
    return depth_maps(*real, SIZE, 1.0, 60.0)


def test_every_pixel_holds_the_brute_force_minimum(real, real_maps):
    points, *cameras = real
    some = [camera[:2] for camera in cameras]
    assert np.array_equal(real_maps[:2], brute_force(points, *some, SIZE, 1.0, 60.0))


def test_several_points_on_one_pixel_leave_the_nearest():
    points = np.array([[0, 0, 30.0], [0, 0, 12.0], [0, 0, 47.0], [0.001, 0, 12.5]])
    maps = depth_maps(points, np.eye(4)[None], np.array([[[100.0, 0, 3], [0, 100, 2], [0, 0, 1]]]), np.eye(3)[None],
                      (5, 7), 1.0, 60.0)  # fmt: skip
    assert maps[0, 2, 3] == 12.0 and np.count_nonzero(maps) == 1


def test_the_order_of_the_points_changes_nothing(real, real_maps):
    points, *cameras = real
    shuffled = points[np.random.default_rng(0).permutation(len(points))]
    assert np.array_equal(depth_maps(shuffled, *cameras, SIZE, 1.0, 60.0), real_maps)


def test_every_depth_lies_in_the_range_and_every_camera_has_some(real_maps):
    depth = real_maps[real_maps > 0]
    assert depth.min() >= 1.0 and depth.max() < 60.0
    assert (np.count_nonzero(real_maps.reshape(6, -1), axis=1) > 500).all()


@pytest.mark.parametrize(("z", "kept"), [(0.99, 0), (1.0, 1), (59.99, 1), (59.999999999, 0), (60.0, 0), (-5.0, 0)])
def test_the_range_is_half_open_and_points_behind_are_out(z, kept):
    maps = depth_maps(np.array([[0.0, 0, z]]), np.eye(4)[None], np.eye(3)[None], np.eye(3)[None], (2, 2), 1.0, 60.0)
    assert np.count_nonzero(maps) == kept


@pytest.mark.parametrize(("u", "column"), [(2.49, 2), (2.51, 3), (-0.49, 0)])
def test_pixels_are_rounded_to_the_nearest(u, column):
    maps = depth_maps(np.array([[u * 10, 0, 10.0]]), np.eye(4)[None], np.eye(3)[None], np.eye(3)[None], (1, 6), 1, 60)
    assert np.nonzero(maps[0, 0])[0].tolist() == [column]


@pytest.mark.parametrize("u", [-0.51, 5.51])
def test_pixels_just_outside_are_dropped(u):
    maps = depth_maps(np.array([[u * 10, 0, 10.0]]), np.eye(4)[None], np.eye(3)[None], np.eye(3)[None], (1, 6), 1, 60)
    assert not maps.any()


def test_a_sweep_cut_short_is_named(tmp_path):
    (tmp_path / "s.bin").write_bytes(np.ones((10, 5), np.float32).tobytes()[:-4])
    with pytest.raises(DataError, match=r"s\.bin has 196 bytes, not a multiple of 20.*cut short"):
        read_sweep(tmp_path / "s.bin")


def test_an_empty_or_missing_sweep_is_named(tmp_path):
    (tmp_path / "s.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"s\.bin has 0 bytes"):
        read_sweep(tmp_path / "s.bin")
    with pytest.raises(DataError, match=r"none\.bin cannot be read"):
        read_sweep(tmp_path / "none.bin")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_not_finite_are_counted_and_the_file_named(tmp_path, bad):
    points = np.ones((10, 5), np.float32)
    points[3, 1] = points[7, 2] = bad
    points.tofile(tmp_path / "s.bin")
    with pytest.raises(DataError, match=r"s\.bin has 2 of 10 points that are not finite"):
        read_sweep(tmp_path / "s.bin")


def test_a_depth_range_from_zero_is_refused():
    with pytest.raises(ConfigError, match="0 < low < high"):
        LoadLidarDepth(low=0.0)


def test_the_ego_motion_between_sweep_and_exposure_is_in_the_projection(data_root):
    """lidar2cam differs from the static mounts by the ego's own motion between the two times."""
    info = keyframe_info(data_root / "nuscenes_keyframe")
    image = info["images"]["CAM_FRONT_LEFT"]
    mounts = np.linalg.inv(image["cam2ego"]) @ info["lidar_points"]["lidar2ego"]
    shift = np.linalg.norm((np.array(image["lidar2cam"]) - mounts)[:3, 3])
    assert 0.1 < shift < 1.0  # 43 ms at some 10 m/s
    assert np.allclose(pose([0, 0, 0], [1, 0, 0, 0]), np.eye(4))
