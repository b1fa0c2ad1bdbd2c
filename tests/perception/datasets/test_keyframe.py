"""The real key frame as a nuScenes root: what the devkit, our data set and the metric make of it."""

import numpy as np
import pytest
import torch
from mmdet3d.evaluation.metrics import NuScenesMetric
from nuscenes import NuScenes

from common.errors import DataError
from perception.datasets import TASK_CLASSES, LoadAndAugmentImages, LoadLidarDepth, PackBEVInputs
from perception.datasets.converter import create_infos
from perception.datasets.keyframe import keyframe_info, keyframe_root


@pytest.fixture(scope="module")
def root(data_root, tmp_path_factory):
    root = keyframe_root(data_root / "nuscenes_keyframe", tmp_path_factory.mktemp("keyframe"))
    create_infos(root, "v1.0-mini")
    return root


@pytest.fixture(scope="module")
def dataset(root, make_dataset):
    pipeline = [LoadAndAugmentImages((256, 704), training=False), LoadLidarDepth(keep_points=True), PackBEVInputs()]
    return make_dataset(root, "val", test_mode=True, pipeline=pipeline)


def test_the_devkit_loads_all_thirteen_tables_and_projects_the_points(root):
    nusc = NuScenes("v1.0-mini", str(root), verbose=False)
    assert len(nusc.table_names) == 13 and [scene["name"] for scene in nusc.scene] == ["scene-0061", "scene-0103"]
    sample = nusc.sample[0]
    pixels, _, image = nusc.explorer.map_pointcloud_to_image(sample["data"]["LIDAR_TOP"], sample["data"]["CAM_FRONT"])
    assert pixels.shape[1] > 1000 and image.size == (1600, 900)


def test_points_counted_by_the_annotators_lie_in_the_boxes(dataset):
    """The boxes sit on the points: in most boxes the count of the info file is met to a third."""
    sample = dataset[0]
    boxes = sample["data_samples"].gt_instances_3d.bboxes_3d
    points = sample["inputs"]["points"][:, :3]
    x, y = (points[None, :, :2] - boxes.gravity_center[:, None, :2]).unbind(-1)
    c, s = boxes.yaw.cos()[:, None], boxes.yaw.sin()[:, None]
    z = points[None, :, 2] - boxes.gravity_center[:, 2:3]
    length, width, height = (boxes.dims / 2 + 0.05).unbind(-1)
    inside = ((c * x + s * y).abs() <= length[:, None]) & ((c * y - s * x).abs() <= width[:, None])
    counted = (inside & (z.abs() <= height[:, None])).sum(1)
    assert (counted >= 1).float().mean() > 0.9


def test_the_devkits_own_depths_are_in_our_depth_map(root, dataset):
    """Same sweep, same camera: every depth the devkit projects into the crop is no nearer than our pixel's depth."""
    nusc = NuScenes("v1.0-mini", str(root), verbose=False)
    sample = next(s for s in nusc.sample if s["token"] == dataset.get_data_info(0)["token"])
    packed = dataset[0]["inputs"]
    for camera, name in enumerate(dataset.get_data_info(0)["images"]):
        data = sample["data"]
        pixels, depths, _ = nusc.explorer.map_pointcloud_to_image(data["LIDAR_TOP"], data[name])
        u, v, _ = packed["img_aug"][camera].double().numpy() @ pixels
        column, row = np.floor(u + 0.5).astype(int), np.floor(v + 0.5).astype(int)
        inside = (column >= 0) & (column < 704) & (row >= 0) & (row < 256) & (depths < 59.9)
        ours = packed["lidar_depth"][camera].numpy()[row[inside], column[inside]]
        assert inside.sum() > 500 and (ours > 0).mean() > 0.98  # float32 rounding moves a few to the next pixel
        near = ours > 0
        assert (ours[near] <= depths[inside][near] + 1e-3).mean() > 0.995


def test_the_true_boxes_of_the_real_frame_score_one_in_the_classes_it_shows(root, dataset, tmp_path):
    metric = NuScenesMetric(str(root), dataset.ann_file, jsonfile_prefix=str(tmp_path))
    metric.dataset_meta = dataset.metainfo
    raw = dataset.raw_sample(0)
    labels = torch.from_numpy(raw["gt_labels_3d"])
    found = {"bboxes_3d": raw["gt_bboxes_3d"], "labels_3d": labels, "scores_3d": torch.ones(len(labels))}
    metric.process({}, [{"pred_instances_3d": found, "pred_instances": {}, "sample_idx": 0}])
    scores = metric.compute_metrics(metric.results)
    prefix = "pred_instances_3d_NuScenes"
    shown = {name: scores[f"{prefix}/{name}_AP_dist_1.0"] for name in TASK_CLASSES}
    near = {"car", "truck", "barrier", "pedestrian", "traffic_cone"}  # within the range of their class
    assert all(shown[name] > 0.99 for name in near)


def test_the_boxes_are_upright_in_the_global_frame(root):
    nusc = NuScenes("v1.0-mini", str(root), verbose=False)
    assert all(abs(a["rotation"][1]) + abs(a["rotation"][2]) < 1e-9 for a in nusc.sample_annotation)


def test_attributes_are_those_of_the_monocular_records(data_root, root):
    info = keyframe_info(data_root / "nuscenes_keyframe")
    nusc = NuScenes("v1.0-mini", str(root), verbose=False)
    moving = [a for a in nusc.sample_annotation if a["attribute_tokens"]]
    names = {nusc.get("attribute", a["attribute_tokens"][0])["name"] for a in moving}
    assert {"vehicle.moving", "vehicle.parked", "pedestrian.moving"} <= names and len(info["instances"]) == 69


def test_a_folder_without_the_frame_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds 0 info files"):
        keyframe_root(tmp_path, tmp_path / "out")
