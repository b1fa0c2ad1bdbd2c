import numpy as np
import pytest
import torch
from mmdet3d.structures import LiDARInstance3DBoxes

from common.errors import ConfigError
from common.geometry import transform, wrap_angle
from perception.datasets import AugmentBEV, FilterBoxRange, LoadAndAugmentImages, LoadLidarDepth, PackBEVInputs
from perception.datasets.transforms.bev import augment_boxes, bev_augmentation


def some_boxes(count=40):
    rng = np.random.default_rng(1)
    low, high = [-40, -40, -2, 0.5, 0.5, 0.5, -np.pi, -9, -9], [40, 40, 1, 9, 3, 3, np.pi, 9, 9]
    return rng.uniform(low, high, (count, 9)).astype(np.float32)


def corners_moved(boxes, bev_aug):
    """Corner sets of the boxes, moved one by one (the boxes' own corners, as mmdet3d makes them)."""
    corners = LiDARInstance3DBoxes(torch.from_numpy(boxes), box_dim=9).corners.numpy()
    return transform(bev_aug, corners.astype(np.float64))


@pytest.mark.parametrize("args", [(0.3, 1.0), (0, 1.05), (0, 1, True), (0, 1, False, True), (-0.39, 0.95, True, True)])
def test_box_corners_are_the_moved_corners(args):
    bev_aug, boxes = bev_augmentation(*args), some_boxes()
    moved = LiDARInstance3DBoxes(torch.from_numpy(augment_boxes(boxes, bev_aug)), box_dim=9).corners.numpy()
    wanted = corners_moved(boxes, bev_aug)
    distance = np.linalg.norm(moved[:, :, None] - wanted[:, None], axis=-1)
    assert distance.min(2).max() < 1e-4 and distance.min(1).max() < 1e-4  # as sets: flips permute the corners


@pytest.mark.parametrize("args", [(0.3, 1.0), (0, 1.05), (0, 1, True), (0, 1, False, True), (-0.39, 0.95, True, True)])
def test_a_box_that_drives_along_its_heading_still_does(args):
    boxes = some_boxes()
    boxes[:, 7], boxes[:, 8] = 5 * np.cos(boxes[:, 6]), 5 * np.sin(boxes[:, 6])
    moved = augment_boxes(boxes, bev_augmentation(*args))
    course = np.arctan2(moved[:, 8], moved[:, 7])
    assert np.abs(wrap_angle(course - moved[:, 6])).max() < 1e-5
    assert np.allclose(np.linalg.norm(moved[:, 7:9], axis=1), 5 * args[1], rtol=1e-5)


def test_a_velocity_is_the_moved_difference_of_centers():
    bev_aug, boxes, later = bev_augmentation(0.2, 1.04, True), some_boxes(), some_boxes()
    later[:, :2] += 0.1 * boxes[:, 7:9]
    moved, moved_later = augment_boxes(boxes, bev_aug), augment_boxes(later, bev_aug)
    assert np.allclose((moved_later - moved)[:, :2] / 0.1, moved[:, 7:9], atol=1e-3)


def test_it_agrees_with_mmdet3ds_own_box_operations():
    boxes = some_boxes()
    theirs = LiDARInstance3DBoxes(torch.from_numpy(boxes), box_dim=9)
    theirs.rotate(0.3)
    theirs.scale(1.03)
    theirs.flip("horizontal")  # turns the sign of y
    ours = augment_boxes(boxes, bev_augmentation(0.3, 1.03, flip_y=True))
    assert np.allclose(np.delete(theirs.tensor.numpy(), 6, 1), np.delete(ours, 6, 1), atol=1e-4)
    assert np.abs(wrap_angle(theirs.tensor.numpy()[:, 6] - ours[:, 6])).max() < 1e-4


def test_no_boxes_stay_no_boxes():
    assert augment_boxes(np.zeros((0, 9), np.float32), bev_augmentation(0.3)).shape == (0, 9)


@pytest.fixture(scope="module")
def dataset(small_root, make_dataset):
    pipeline = [LoadAndAugmentImages((32, 88)), LoadLidarDepth(keep_points=True), AugmentBEV(), PackBEVInputs()]
    return make_dataset(small_root, pipeline=pipeline)


def test_points_and_boxes_move_together(dataset, small_root, make_dataset):
    still = [LoadAndAugmentImages((32, 88)), LoadLidarDepth(keep_points=True), PackBEVInputs()]
    plain = make_dataset(small_root, pipeline=still)
    item = dataset._as_item(0)._replace(draw=9)
    moved, original = dataset[item], plain[item]
    bev_aug = moved["inputs"]["bev_aug"].double().numpy()
    assert np.abs(bev_aug - np.eye(4)).max() > 0.1
    assert (
        np.abs(
            transform(bev_aug, original["inputs"]["points"][:, :3].numpy()) - moved["inputs"]["points"][:, :3].numpy()
        ).max()
        < 1e-4
    )
    boxes = original["data_samples"].gt_instances_3d.bboxes_3d.gravity_center.numpy()
    got = moved["data_samples"].gt_instances_3d.bboxes_3d.gravity_center.numpy()
    assert np.abs(transform(bev_aug, boxes) - got).max() < 1e-4
    assert torch.equal(moved["inputs"]["lidar_depth"], original["inputs"]["lidar_depth"])  # BEV only


def test_the_order_of_loading_points_and_augmenting_does_not_matter(dataset, small_root, make_dataset):
    swapped = [LoadAndAugmentImages((32, 88)), AugmentBEV(), LoadLidarDepth(keep_points=True), PackBEVInputs()]
    item = dataset._as_item(0)._replace(draw=9)
    a, b = dataset[item]["inputs"], make_dataset(small_root, pipeline=swapped)[item]["inputs"]
    assert torch.equal(a["points"], b["points"]) and torch.equal(a["lidar_depth"], b["lidar_depth"])


def test_without_the_transform_the_augmentation_is_the_identity(small_root, make_dataset):
    dataset = make_dataset(small_root, pipeline=[LoadAndAugmentImages((32, 88), training=False), PackBEVInputs()])
    assert torch.equal(dataset[0]["inputs"]["bev_aug"], torch.eye(4))


def drawn(augment, **keys):
    results = {"seed": 0, "draw": 0, "walk": 0, **keys}
    return augment.transform(results)["bev_aug"]


def test_per_sequence_draws_hold_over_a_walk_and_change_with_the_next():
    augment = AugmentBEV(per_sequence=True)
    assert np.array_equal(drawn(augment, draw=1, walk=7), drawn(augment, draw=65, walk=7))
    assert not np.array_equal(drawn(augment, draw=1, walk=7), drawn(augment, draw=1, walk=8))
    assert not np.array_equal(drawn(AugmentBEV(), draw=1, walk=7), drawn(AugmentBEV(), draw=65, walk=7))


def test_draws_cover_the_released_ranges_and_both_flips():
    matrices = np.stack([drawn(AugmentBEV(), draw=d)[:2, :2] for d in range(400)])
    scales = np.sqrt(np.abs(np.linalg.det(matrices)))
    assert 0.95 <= scales.min() < 0.955 and 1.045 < scales.max() <= 1.05
    unflipped = matrices[(np.linalg.det(matrices) > 0) & (matrices[:, 0, 0] > 0)]
    angles = np.arctan2(unflipped[:, 1, 0], unflipped[:, 0, 0])
    assert np.abs(angles).max() <= np.radians(22.5) and np.abs(angles).max() > np.radians(21)
    kinds = {(d > 0, x > 0) for d, x in zip(np.linalg.det(matrices), matrices[:, 0, 0], strict=True)}
    assert len(kinds) == 4


def test_the_range_filter_keeps_all_per_object_rows_together(small_root, make_dataset):
    results = make_dataset(small_root).raw_sample(1)
    tokens = {token: k for k, token in enumerate(results["instance_tokens"])}
    before = results["trajectories"].copy()
    filtered = FilterBoxRange((-51.2, 0.0), (-51.2, 51.2)).transform(results)
    centers = filtered["gt_bboxes_3d"].tensor[:, 0].numpy()
    assert 0 < len(centers) < len(before) and (centers < 0).all()
    assert len(filtered["gt_labels_3d"]) == len(filtered["trajectories_unaligned"]) == len(centers)
    for row, token in enumerate(filtered["instance_tokens"]):
        assert np.array_equal(filtered["trajectories"][row], before[tokens[token]], equal_nan=True)


def test_a_frame_that_loses_all_boxes_stays(small_root, make_dataset):
    results = FilterBoxRange((200, 300), (0, 1)).transform(make_dataset(small_root).raw_sample(1))
    assert results["gt_bboxes_3d"].tensor.shape == (0, 9) and results["trajectories"].shape == (0, 4, 3)


def test_an_empty_range_is_refused():
    with pytest.raises(ConfigError, match="low < high"):
        FilterBoxRange((5, 5), (0, 1))
