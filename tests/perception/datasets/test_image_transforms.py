import cv2
import numpy as np
import pytest

from common.errors import ConfigError, DataError
from common.geometry import transform
from perception.datasets import AugmentBEV, LoadAndAugmentImages, LoadLidarDepth, PackBEVInputs
from perception.datasets.transforms.images import ImageDraw, image_augmentation, read_image, shrink, warp


def to_bev(pixels, depth, sample, camera):
    """docs/conventions.md: the BEV point of network pixels (P, 2) at depth (P,), in the packed float32 matrices."""
    get = {key: sample[key].double().numpy() for key in ("img_aug", "cam2img", "cam2lidar", "bev_aug")}
    homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], 1)
    rays = homogeneous @ np.linalg.inv(get["img_aug"][camera]).T
    rays = (rays / rays[:, 2:]) @ np.linalg.inv(get["cam2img"][camera]).T
    return transform(get["bev_aug"] @ get["cam2lidar"][camera], depth[:, None] * rays)


@pytest.fixture(scope="module")
def keyframe(data_root, tmp_path_factory):
    from perception.datasets.converter import create_infos
    from perception.datasets.keyframe import keyframe_root

    root = keyframe_root(data_root / "nuscenes_keyframe", tmp_path_factory.mktemp("keyframe"))
    create_infos(root, "v1.0-mini")
    return root


@pytest.mark.parametrize("draw", range(3))
def test_points_survive_the_round_trip_through_image_and_all_augmentations(keyframe, make_dataset, draw):
    pipeline = [LoadAndAugmentImages((256, 704)), AugmentBEV(), PackBEVInputs()]
    dataset = make_dataset(keyframe, pipeline=pipeline)
    item = dataset._as_item(0)._replace(draw=draw)
    raw, sample = dataset.raw_sample(item), dataset[item]["inputs"]
    rng = np.random.default_rng(draw)
    for camera, name in enumerate(raw["images"]):
        image = raw["images"][name]
        lidar2cam, cam2img = np.array(image["lidar2cam"]), np.array(image["cam2img"])
        cam = rng.uniform([-20, -5, 1], [20, 5, 60], (500, 3))
        points = transform(np.linalg.inv(lidar2cam), cam)  # in the lidar frame
        img_aug = sample["img_aug"][camera].double().numpy()
        pixels = cam @ (img_aug @ cam2img).T
        pixels = pixels[:, :2] / pixels[:, 2:]
        bev = transform(sample["bev_aug"].double().numpy(), points)
        assert np.abs(to_bev(pixels, cam[:, 2], sample, camera) - bev).max() < 1e-4


def marked_image(size, pixels, radius=6):
    """Black, with a bright Gaussian spot at every pixel (u, v)."""
    v, u = np.mgrid[: size[0], : size[1]]
    spots = [np.exp(-((u - pu) ** 2 + (v - pv) ** 2) / (2 * radius**2)) for pu, pv in pixels]
    return np.repeat((255 * np.clip(sum(spots), 0, 1))[..., None], 3, -1).astype(np.uint8)


def centroid(image, around, reach=8):
    v, u = np.mgrid[: image.shape[0], : image.shape[1]]
    weight = image[..., 0].astype(float) * ((np.abs(u - around[0]) <= reach) & (np.abs(v - around[1]) <= reach))
    return np.array([(u * weight).sum(), (v * weight).sum()]) / weight.sum()


@pytest.mark.parametrize(
    "draw",
    [
        ImageDraw(0.44, 0),
        ImageDraw(0.55, 80),
        ImageDraw(0.44, 0, flip=True),
        ImageDraw(0.5, 33, False, np.radians(5.4)),
        ImageDraw(0.53, 20, True, np.radians(-5.0)),
        ImageDraw(0.38, 0, True, np.radians(2.0)),
    ],
)
def test_the_picture_lands_where_the_matrix_says_to_a_tenth_of_a_pixel(draw):
    source, size = (900, 1600), (256, 704)
    marks = [(500.0, 620.0), (820.0, 700.0), (1100.0, 560.0)]
    img_aug = image_augmentation(source, size, draw)
    result = warp(shrink(marked_image(source, marks), 0.55), source, size, img_aug)
    for mark in marks:
        expected = img_aug @ [*mark, 1]
        assert np.abs(centroid(result, expected[:2]) - expected[:2]).max() < 0.1


@pytest.mark.parametrize("angle", [0.09, -0.05])
def test_a_rotation_keeps_right_angles_and_turns_counter_clockwise_about_the_middle(angle):
    plain, turned = (image_augmentation((900, 1600), (256, 704), ImageDraw(0.44, 0, rotation=a)) for a in (0, angle))
    change = turned @ np.linalg.inv(plain)
    assert np.allclose(change[:2, :2] @ change[:2, :2].T, np.eye(2)) and np.linalg.det(change) == pytest.approx(1)
    assert np.allclose(change @ [351.5, 127.5, 1], [351.5, 127.5, 1])
    right = change @ [361.5, 127.5, 1]  # v grows downwards: counter-clockwise moves the right side up
    assert np.sign(right[1] - 127.5) == -np.sign(angle)


def test_the_test_view_is_the_released_one():
    """0.44 of 900x1600 is 396x704; the top 140 rows are cut."""
    transform_ = LoadAndAugmentImages((256, 704), training=False)
    draw = transform_.draw((900, 1600), np.random.default_rng(0))
    img_aug = image_augmentation((900, 1600), (256, 704), draw)
    top_left, bottom_right = img_aug @ [-0.5, -0.5, 1], img_aug @ [1599.5, 899.5, 1]
    assert np.allclose(top_left[:2], [-0.5, -140.5]) and np.allclose(bottom_right[:2], [703.5, 255.5])


def test_the_crop_keeps_the_bottom_and_pads_narrow_images_on_the_right_with_black():
    image = np.full((900, 1600, 3), 200, np.uint8)
    img_aug = image_augmentation((900, 1600), (256, 704), ImageDraw(0.4, 0))  # 360 x 640
    result = warp(image, (900, 1600), (256, 704), img_aug)
    assert (result[:, 640:] == 0).all() and (result[:, :639] > 150).all() and result[255, 0, 0] > 150


def test_training_draws_cover_the_released_ranges_and_stay_in_them():
    transform_ = LoadAndAugmentImages((256, 704))
    draws = [transform_.draw((900, 1600), np.random.default_rng(seed)) for seed in range(400)]
    scales = np.array([draw.scale for draw in draws])
    assert scales.min() > 0.38 and scales.max() < 0.55 and scales.min() < 0.385 and scales.max() > 0.545
    assert max(abs(draw.rotation) for draw in draws) < np.radians(5.4)
    assert 0.4 < np.mean([draw.flip for draw in draws]) < 0.6
    assert all(0 <= draw.offset <= max(0, round(1600 * draw.scale) - 704) for draw in draws)


def test_cameras_are_augmented_independently_and_draws_repeat(small_root, make_dataset):
    dataset = make_dataset(small_root, pipeline=[LoadAndAugmentImages((32, 88)), PackBEVInputs()])
    first, again, other = (dataset[dataset._as_item(2)._replace(draw=d)]["inputs"]["img_aug"] for d in (4, 4, 5))
    assert (first == again).all() and (first != other).any(-1).any(-1).all()
    assert len({tuple(matrix.flatten().tolist()) for matrix in first}) == 6


def test_the_seed_changes_the_augmentation(small_root, make_dataset):
    dataset = make_dataset(small_root, pipeline=[LoadAndAugmentImages((32, 88)), AugmentBEV(), PackBEVInputs()])
    a, b = (dataset[dataset._as_item(2)._replace(seed=s)]["inputs"] for s in (0, 1))
    assert (a["img_aug"] != b["img_aug"]).any() and (a["bev_aug"] != b["bev_aug"]).any()


def test_cached_images_give_the_same_pixels_without_reading_again(own_root, make_dataset):
    plain = make_dataset(own_root, pipeline=[LoadAndAugmentImages((32, 88)), PackBEVInputs()])
    cached = make_dataset(own_root, pipeline=[LoadAndAugmentImages((32, 88), cache=True), PackBEVInputs()])
    wanted = [plain[plain._as_item(1)._replace(draw=d)]["inputs"]["imgs"] for d in (3, 8)]
    first = cached[cached._as_item(1)._replace(draw=3)]["inputs"]["imgs"]
    for image in plain.get_data_info(1)["images"].values():
        (own_root / image["img_path"]).unlink()
    second = cached[cached._as_item(1)._replace(draw=8)]["inputs"]["imgs"]
    assert (first == wanted[0]).all() and (second == wanted[1]).all()


def test_images_are_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((4, 4, 3), (0, 0, 255), np.uint8))  # OpenCV writes B, G, R
    assert read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("keep", [0, 3, 200, 0.5, 0.99])
def test_an_image_cut_short_anywhere_is_named(tmp_path, kind, keep):
    path = tmp_path / f"cut.{kind}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8))
    assert read_image(path).shape == (90, 160, 3)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(DataError, match=rf"cut\.{kind} is corrupted or cut short.*restore it"):
        read_image(path)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("this is no picture at all")
    with pytest.raises(DataError, match=r"text\.jpg is corrupted"):
        read_image(tmp_path / "text.jpg")


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jpg cannot be read"):
        read_image(tmp_path / "none.jpg")


def test_a_range_that_would_make_images_vanish_is_refused():
    with pytest.raises(ConfigError, match="raise its low end"):
        LoadAndAugmentImages((32, 88), resize=(-0.9, -0.8)).draw((900, 1600), np.random.default_rng(0))


def test_the_depth_map_moves_with_the_augmentation(small_root, make_dataset):
    """A LiDAR pixel of the augmented image, carried back, is a point of the sweep."""
    pipeline = [LoadAndAugmentImages((64, 176)), LoadLidarDepth(keep_points=True), AugmentBEV(), PackBEVInputs()]
    dataset = make_dataset(small_root, pipeline=pipeline)
    sample = dataset[dataset._as_item(1)._replace(draw=12)]["inputs"]
    for camera in range(6):
        depth = sample["lidar_depth"][camera].numpy()
        v, u = np.nonzero(depth)
        found = to_bev(np.stack([u, v], 1), depth[v, u].astype(float), sample, camera)
        distance = np.linalg.norm(found[:, None] - sample["points"][None, :, :3].numpy(), axis=-1).min(1)
        assert len(u) > 20 and (distance < 0.02 * depth[v, u]).all()  # half a pixel of about 1/60 radian
