"""Pictures are checked where arithmetic says what a pixel must be, and on the real nuScenes key frame."""

import importlib.util
import pickle

import cv2
import numpy as np
import pytest

from common.geometry import yaw_pose
from perception import visualization as vis

# a camera at the lidar's origin looking along +y (forward): u = 100 + 100 x / y, v = 60 - 100 z / y
LIDAR2IMG = np.array([[100.0, 100, 0, 0], [0, 60, -100, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
BOX = np.array([[2.0, 20, -1, 4, 2, 1.5, np.pi / 2, 0, 0]])


def black(height=120, width=200):
    return np.zeros((height, width, 3), np.uint8)


def bounds(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_corners_are_those_of_the_box_turned_by_its_yaw_with_the_front_first():
    corners = vis.box_corners(np.array([[10.0, 5, -1, 4, 2, 1.5, 0.3]]))[0]
    local = np.array([[x, y, z] for z in (0, 1.5) for x, y in ((2, 1), (2, -1), (-2, -1), (-2, 1))])
    placed = yaw_pose(10, 5, -1, 0.3)
    np.testing.assert_allclose(corners, local @ placed[:3, :3].T + placed[:3, 3], atol=1e-12)


def test_a_drawn_box_fills_exactly_the_rectangle_of_its_projected_corners():
    image = vis.draw_boxes_on_image(black(), BOX, LIDAR2IMG, (255, 0, 0), thickness=1)
    # nearest face at y = 18: x from 1 to 3, z from -1 to 0.5; the far face lies inside it, up to u(1, 22)
    expected = (100 + 100 * 1 / 22, 60 - 50 / 18, 100 + 300 / 18, 60 + 100 / 18)
    np.testing.assert_allclose(bounds(image[..., 0] > 60), expected, atol=1.5)


def test_a_box_behind_the_camera_leaves_the_image_unchanged():
    behind = BOX * np.array([1, -1, 1, 1, 1, 1, 1, 1, 1])
    assert not vis.draw_boxes_on_image(black(), behind, LIDAR2IMG, (255, 0, 0)).any()


def test_a_box_reaching_behind_the_camera_is_cut_at_the_camera_and_not_mirrored():
    beside = np.array([[2.0, 0, -1, 40, 1, 1.5, np.pi / 2, 0, 0]])  # from y = -20 to y = 20 on the right-hand side
    image = vis.draw_boxes_on_image(black(), beside, LIDAR2IMG, (255, 0, 0), thickness=1)
    assert image[:, 104:].any() and not image[:, :100].any()


def test_a_nearer_box_is_painted_over_a_farther_one_whatever_their_order():
    far, near = BOX.copy(), BOX.copy()
    far[0, 1] = 30
    colors = np.array([[255, 0, 0], [0, 0, 255]])
    one = vis.draw_boxes_on_image(black(), np.concatenate([near, far]), LIDAR2IMG, colors)
    other = vis.draw_boxes_on_image(black(), np.concatenate([far, near]), LIDAR2IMG, colors[::-1])
    np.testing.assert_array_equal(one, other)


def test_drawing_leaves_its_input_alone():
    image = black()
    vis.draw_boxes_on_image(image, BOX, LIDAR2IMG, (255, 0, 0), ["car"])
    assert not image.any()


def test_bev_puts_forward_up_and_right_right():
    ahead_right = np.array([[20.0, 30, -1, 4, 2, 1.5, np.pi / 2, 0, 0]])
    image = vis.draw_bev(boxes_gt=ahead_right, x=(-50, 50), y=(-50, 50), size=400)
    left, top, right, bottom = bounds((image == vis.TRUTH_IN_BEV).all(-1))
    np.testing.assert_allclose([(left + right) / 2, (top + bottom) / 2], [(20 + 50) * 4, (50 - 30) * 4], atol=1.5)
    np.testing.assert_allclose([right - left, bottom - top], [2 * 4, 4 * 4], atol=3)


def test_bev_mask_row_zero_is_the_lowest_y_and_column_zero_the_lowest_x():
    mask = np.zeros((4, 8))
    mask[0, 7] = 1
    plain = vis.draw_bev(x=(-50, 50), y=(-50, 50), size=400)
    image = vis.draw_bev(x=(-50, 50), y=(-50, 50), size=400, mask=mask)
    assert bounds((image != plain).any(-1)) == (350, 300, 399, 399)


def test_a_lidar_point_lights_its_own_pixel():
    plain = vis.draw_bev(x=(-50, 50), y=(-50, 50), size=200)
    image = vis.draw_bev(np.array([[10.0, -20, 0]]), x=(-50, 50), y=(-50, 50), size=200)
    left, top, right, bottom = bounds((image != plain).any(-1))
    assert left <= (10 + 50) * 2 <= right + 1 and top <= (50 + 20) * 2 <= bottom + 1 and right - left <= 1


def test_near_depth_is_painted_over_far_depth_and_nothing_where_there_is_no_point():
    depth = np.zeros((120, 200))
    depth[60, 100], depth[60, 101] = 50, 5
    near_only = np.where(depth == 5, depth, 0)
    both, near = (vis.draw_depth(black(), d, side=3)[:, :150] for d in (depth, near_only))
    np.testing.assert_array_equal(both[59:62, 100:103], near[59:62, 100:103])
    assert bounds(both.any(-1)) == (99, 59, 102, 61)


def test_depth_map_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"depth map is \(60, 100\), image is \(120, 200\)"):
        vis.draw_depth(black(), np.zeros((60, 100)))


def test_expected_depth_of_a_certain_bin_is_its_middle_and_of_no_knowledge_the_middle_of_the_range():
    certain = np.zeros((10, 2, 3))
    certain[4] = 1
    np.testing.assert_allclose(vis.expected_depth(certain, 2.0, 0.5), 2.0 + 4.5 * 0.5)
    np.testing.assert_allclose(vis.expected_depth(np.full((10, 2, 3), 0.1), 2.0, 0.5), 2.0 + 5 * 0.5)


def test_depth_distribution_shows_four_captioned_pictures():
    lidar = np.zeros((120, 200))
    lidar[50, 50] = 10
    two = vis.draw_depth_distribution(black(), np.full((8, 12), 20.0))
    four = vis.draw_depth_distribution(black(), np.full((8, 12), 20.0), np.full((8, 12), 40.0), lidar)
    assert two.shape[1] == four.shape[1] and four.shape[0] > 2 * 120 > two.shape[0]


def test_montage_keeps_every_image_whole():
    images = [np.full((10, 20, 3), k + 1, np.uint8) for k in range(5)]
    out = vis.montage(images, columns=3, gap=4)
    assert out.shape == (24, 68, 3)
    for k in range(5):
        top, left = k // 3 * 14, k % 3 * 24
        assert (out[top : top + 10, left : left + 20] == k + 1).all()


def evaluation(boxes_pred, scores=None):
    cameras = ("CAM_BACK", "CAM_FRONT")
    return vis.evaluation_picture(
        dict.fromkeys(cameras, black()), dict.fromkeys(cameras, LIDAR2IMG), boxes_pred, np.zeros(len(boxes_pred)), BOX,
        np.ones((5, 5)), scores=scores, classes=("car",), title="frame",
    )  # fmt: skip


def test_evaluation_picture_leaves_out_predictions_under_the_threshold():
    shifted = BOX + np.array([3.0, 0, 0, 0, 0, 0, 0, 0, 0])
    nothing = evaluation(np.zeros((0, 9)))
    np.testing.assert_array_equal(evaluation(shifted, scores=np.array([0.1])), nothing)
    assert (evaluation(shifted, scores=np.array([0.9])) != nothing).any()


def test_evaluation_picture_asks_for_the_same_cameras_in_both_dictionaries():
    with pytest.raises(ValueError, match="give both the same cameras"):
        vis.evaluation_picture({"CAM_FRONT": black()}, {}, BOX, [0], BOX)


def test_a_saved_picture_reads_back_as_it_was(tmp_path):
    image = np.random.randint(0, 255, (7, 9, 3), np.uint8)
    file = vis.save_png(tmp_path / "new" / "picture.png", image)
    np.testing.assert_array_equal(cv2.imread(str(file))[..., ::-1], image)
    assert [p.name for p in file.parent.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8)])
def test_an_image_that_is_not_rgb_bytes_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"wanted \(H, W, 3\) uint8 RGB"):
        vis.save_png(tmp_path / "picture.png", wrong)


@pytest.mark.skipif(importlib.util.find_spec("rerun") is not None, reason="rerun-sdk is installed")
def test_without_rerun_the_error_says_what_to_install(tmp_path):
    with pytest.raises(ImportError, match=r"No module named 'rerun'.*pip install rerun-sdk"):
        vis.log_to_rerun(tmp_path / "a.rrd", {}, BOX, BOX, np.zeros((1, 3)))


def test_on_the_real_key_frame_the_boxes_hold_the_lidar_points_they_were_annotated_with(data_root):
    folder = data_root / "nuscenes_keyframe"
    info = pickle.loads(next(folder.glob("*.pkl")).read_bytes())["data_list"][0]
    points = np.fromfile(folder / info["lidar_points"]["lidar_path"], np.float32).reshape(-1, 5)[:, :3]
    boxes = np.array([i["bbox_3d"] for i in info["instances"]])
    boxes[:, 2] -= boxes[:, 5] / 2  # the info file stores the middle, ours is the bottom face
    counts = np.zeros(len(boxes))
    for k, c in enumerate(vis.box_corners(boxes)):
        edges = np.stack([c[0] - c[3], c[0] - c[1], c[4] - c[0]])  # along, across, up from the corner opposite
        share = (points - c[2]) @ np.linalg.inv(edges)
        counts[k] = ((share >= 0) & (share <= 1)).all(1).sum()
    annotated = np.array([i["num_lidar_pts"] for i in info["instances"]])
    assert np.mean(counts == annotated) > 0.85  # 0.88; the annotators' boxes were stored with rounded sizes
    assert abs(counts.sum() / annotated.sum() - 1) < 0.05
