"""Ground truth through mmdet3d's exporter and the devkit: the frames, labels and versions of the whole chain agree."""

import json

import pytest
import torch
from mmdet3d.evaluation.metrics import NuScenesMetric

from perception.datasets import OFFICIAL_CLASSES, TASK_CLASSES
from perception.datasets.converter import create_infos


def evaluate(dataset, root, out, classes=None):
    """metrics_summary.json of the devkit for the data set's own boxes as predictions of score 1."""
    metric = NuScenesMetric(str(root), dataset.ann_file, jsonfile_prefix=str(out))
    metric.dataset_meta = {**dataset.metainfo, **({"classes": classes} if classes else {})}
    for index in range(len(dataset)):
        raw = dataset.raw_sample(index)
        labels = torch.from_numpy(raw["gt_labels_3d"])
        found = {"bboxes_3d": raw["gt_bboxes_3d"], "labels_3d": labels, "scores_3d": torch.ones(len(labels))}
        metric.process({}, [{"pred_instances_3d": found, "pred_instances": {}, "sample_idx": index}])
    metric.compute_metrics(metric.results)
    return json.loads((out / "pred_instances_3d" / "metrics_summary.json").read_text())


@pytest.fixture(scope="module", params=["v1.0-mini", "v1.0-trainval"])
def summary(request, small_root, make_root, make_dataset, tmp_path_factory):
    trainval = request.param == "v1.0-trainval"
    root = make_root(request.param, {"scene-0001": set(), "scene-0003": {2}}) if trainval else small_root
    return evaluate(make_dataset(root, "val", test_mode=True), root, tmp_path_factory.mktemp("metric"))


def test_true_boxes_score_one_in_every_class(summary):
    assert min(summary["mean_dist_aps"].values()) > 0.99 and summary["mean_ap"] > 0.99


def test_true_boxes_have_no_errors(summary):
    assert all(summary["tp_errors"][name] < 0.01 for name in ("trans_err", "scale_err", "orient_err", "vel_err"))
    assert summary["tp_errors"]["attr_err"] < 0.01  # attributes follow the speeds in this root


def test_nds_is_the_devkits_formula_of_its_parts(summary):
    errors = sum(1 - min(1, value) for value in summary["tp_errors"].values())
    assert summary["nd_score"] == pytest.approx((5 * summary["mean_ap"] + errors) / 10)


def test_labels_read_in_another_class_order_lose_the_score(small_root, make_dataset, tmp_path):
    """The trap itself: labels in task order, names in mmdet3d's order. Our data set hands both over together."""
    dataset = make_dataset(small_root, "val", test_mode=True)
    assert dataset.metainfo["classes"] == TASK_CLASSES
    assert evaluate(dataset, small_root, tmp_path, classes=OFFICIAL_CLASSES)["mean_ap"] < 0.5


def test_true_boxes_of_the_simulated_world_score_one_in_the_classes_it_shows(simulated_root, make_dataset, tmp_path):
    paths = create_infos(simulated_root, "v1.0-mini", out_dir=tmp_path)
    dataset = make_dataset(simulated_root, str(paths["val"]), test_mode=True)
    summary = evaluate(dataset, simulated_root, tmp_path / "metric")
    shown = {TASK_CLASSES[k] for i in range(len(dataset)) for k in dataset.raw_sample(i)["gt_labels_3d"]}
    assert len(shown) >= 3
    assert min(summary["mean_dist_aps"][name] for name in shown) > 0.99
