"""The submission and its evaluation against mmdet3d's formatter and against boxes that are known to be right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.evaluation.metrics import NuScenesMetric
from mmdet3d.structures import LiDARInstance3DBoxes

from common.errors import DataError
from perception.datasets.converter import create_infos
from perception.datasets.infos import TASK_CLASSES, load_infos
from perception.datasets.metric import NuScenesSequenceMetric


@pytest.fixture(scope="module")
def val_infos(simulated_root, tmp_path_factory):
    paths = create_infos(simulated_root, "v1.0-mini", tmp_path_factory.mktemp("infos"))
    return simulated_root, paths["val"], load_infos(paths["val"])


def truth_as_prediction(infos, classes=TASK_CLASSES):
    """One result per sample: the annotated boxes that the devkit counts (at least one point), with full score."""
    names = {label: name for name, label in infos["metainfo"]["categories"].items()}
    results = []
    for index, info in enumerate(infos["data_list"]):
        kept = [i for i in info["instances"] if names.get(i["bbox_label_3d"]) in classes and i["num_lidar_pts"]]
        boxes = np.array([[*i["bbox_3d"], *np.nan_to_num(i["velocity"])] for i in kept], np.float32).reshape(-1, 9)
        boxes = LiDARInstance3DBoxes(torch.tensor(boxes), box_dim=9, origin=(0.5, 0.5, 0.5))
        labels = torch.tensor([classes.index(names[i["bbox_label_3d"]]) for i in kept], dtype=torch.long)
        found = {"bboxes_3d": boxes, "labels_3d": labels, "scores_3d": torch.ones(len(kept))}
        results.append({"pred_instances_3d": found, "pred_instances": {}, "sample_idx": index})
    return results


def metric_of(root, ann_file, **kwargs):
    metric = NuScenesSequenceMetric(data_root=str(root), ann_file=str(ann_file), **kwargs)
    metric.dataset_meta = {"classes": list(TASK_CLASSES), "version": "v1.0-mini"}
    return metric


def test_annotated_boxes_as_predictions_score_a_perfect_map(val_infos, tmp_path):
    root, ann_file, infos = val_infos
    metric = metric_of(root, ann_file, out_dir=str(tmp_path))
    values = metric.compute_metrics(truth_as_prediction(infos))
    summary = json.loads((tmp_path / "metrics_summary.json").read_text())
    names = {label: name for name, label in infos["metainfo"]["categories"].items()}
    counted = [i for info in infos["data_list"] for i in info["instances"] if i["num_lidar_pts"]]
    near = [i for i in counted if np.hypot(*i["bbox_3d"][:2]) < 28]  # inside every class's evaluation range
    present = {names[i["bbox_label_3d"]] for i in near} & set(TASK_CLASSES)
    assert len(present) >= 4
    for name in present:
        assert summary["mean_dist_aps"][name] == pytest.approx(1, abs=0.01)
        assert summary["label_tp_errors"][name]["trans_err"] < 0.01
        assert summary["label_tp_errors"][name]["scale_err"] < 0.01
        for error in ("orient_err", "vel_err"):  # NaN where the devkit defines none
            assert not summary["label_tp_errors"][name][error] > 0.01
    errors = [values[key] for key in ("mATE", "mASE", "mAOE", "mAVE", "mAAE")]
    assert values["NDS"] == pytest.approx((5 * values["mAP"] + sum(1 - min(1, e) for e in errors)) / 10)


def test_moved_boxes_score_less_than_true_ones(val_infos, tmp_path):
    root, ann_file, infos = val_infos
    moved = truth_as_prediction(infos)
    for result in moved:
        result["pred_instances_3d"]["bboxes_3d"].tensor[:, 0] += 1.5
    values = metric_of(root, ann_file).compute_metrics(moved)
    assert values["mAP"] < 0.6 * metric_of(root, ann_file).compute_metrics(truth_as_prediction(infos))["mAP"]
    assert values["mATE"] > 1.0


def test_the_submission_equals_that_of_mmdet3d(val_infos, tmp_path):
    root, ann_file, infos = val_infos
    metric = metric_of(root, ann_file, out_dir=str(tmp_path / "ours"), format_only=True)
    results = truth_as_prediction(infos)
    metric.compute_metrics(results)
    ours = json.loads((tmp_path / "ours" / "results_nusc.json").read_text())["results"]
    stock = NuScenesMetric(data_root=str(root), ann_file=str(ann_file))
    stock.data_infos = infos["data_list"]
    files, _ = stock.format_results(results, list(TASK_CLASSES), str(tmp_path / "stock"))
    theirs = json.loads(Path(files["pred_instances_3d"]).read_text())["results"]
    assert ours.keys() == theirs.keys()
    assert sum(map(len, ours.values())) == sum(map(len, theirs.values())) > 20
    for token, boxes in theirs.items():
        for mine, other in zip(ours[token], boxes, strict=True):
            assert mine["detection_name"] == other["detection_name"]
            assert mine["attribute_name"] == other["attribute_name"]
            for key in ("translation", "size", "velocity"):
                np.testing.assert_allclose(mine[key], other[key], atol=1e-4)
            assert abs(np.dot(mine["rotation"], other["rotation"])) == pytest.approx(1, abs=1e-6)


def test_a_split_with_scenes_that_were_not_on_disk_is_refused_before_any_training(val_infos):
    root, ann_file, _ = val_infos
    meta = {"version": "v1.0-mini", "classes": TASK_CLASSES, "absent_scenes": ["scene-0916"]}
    with pytest.raises(DataError, match=r"lacks 1 scenes of its split .*\(scene-0916\).*unpack their archives"):
        metric_of(root, ann_file).dataset_meta = meta
    metric_of(root, ann_file, format_only=True).dataset_meta = meta


def test_predictions_that_miss_samples_are_refused(val_infos):
    root, ann_file, infos = val_infos
    with pytest.raises(DataError, match=r"has \d+ samples, predictions cover 1"):
        metric_of(root, ann_file).compute_metrics(truth_as_prediction(infos)[:1])
