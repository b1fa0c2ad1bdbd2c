"""The scene pool: what it writes is a nuScenes data set that devkit and mmdet3d accept, and the same one every time."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import create_splits_scenes

from common.errors import ConfigError, DataError
from common.geometry import pose
from perception.simulation import generate as pool
from perception.simulation.profiles import PROFILES

CHANNELS = {
    "LIDAR_TOP", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT",
}  # fmt: skip
SHORT = dataclasses.replace(PROFILES["tiny"], name="short", keyframes=2, width=176, height=64, lidar_columns=360)


@pytest.fixture(scope="module")
def nusc(simulated_root):
    return NuScenes("v1.0-mini", str(simulated_root), verbose=False)


def digests(root):
    """{file: MD5} of everything under root."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.md5(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def short_root(tmp_path_factory):
    """One training and one validation scene of two key frames."""
    root = tmp_path_factory.mktemp("short") / "nuscenes"
    pool.generate(root, profile=SHORT, train=1, val=1, seed=3, workers=1, quiet=True)
    return root


def test_every_sample_has_the_seven_sensors_and_their_files(simulated_root, nusc):
    assert len(nusc.sample) == 3 * PROFILES["tiny"].keyframes
    for sample in nusc.sample:
        assert set(sample["data"]) == CHANNELS
        for name in sample["data"].values():
            assert (simulated_root / nusc.get("sample_data", name)["filename"]).stat().st_size > 0


def test_mini_train_and_mini_val_select_the_scenes(nusc):
    splits = create_splits_scenes()
    names = {s["name"] for s in nusc.scene}
    assert len(names & set(splits["mini_train"])) == 2 and len(names & set(splits["mini_val"])) == 1


def test_the_sample_is_stamped_with_its_lidar_and_the_cameras_stay_within_the_turn(nusc):
    for sample in nusc.sample:
        times = {c: nusc.get("sample_data", t)["timestamp"] for c, t in sample["data"].items()}
        assert times["LIDAR_TOP"] == sample["timestamp"]
        assert max(abs(t - sample["timestamp"]) for t in times.values()) <= 60_000


def test_ego_stands_on_the_drivable_part_of_its_map(nusc):
    for sample in nusc.sample:
        scene = nusc.get("scene", sample["scene_token"])
        mask = nusc.get("map", nusc.get("log", scene["log_token"])["map_token"])["mask"]
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        x, y, _ = nusc.get("ego_pose", lidar["ego_pose_token"])["translation"]
        assert mask.is_on_mask(x, y, dilation=0.5).all(), (scene["name"], x, y)
        assert min(x, y) > 57  # the devkit's ego-centric map crop does not reach below zero


def test_moving_boxes_move_along_their_heading_and_parked_ones_stand_still(nusc):
    seen = set()
    for a in nusc.sample_annotation:
        attribute = nusc.get("attribute", a["attribute_tokens"][0])["name"] if a["attribute_tokens"] else ""
        velocity = nusc.box_velocity(a["token"])[:2]
        if np.isnan(velocity).any():
            continue
        speed = np.linalg.norm(velocity)
        if attribute == "vehicle.parked" or not attribute:
            assert speed < 1e-6, a["category_name"]
        if attribute == "vehicle.moving" and speed > 1.0:
            heading = pose(a["translation"], a["rotation"])[:2, 0]
            assert heading @ velocity / speed > 0.7, a["category_name"]
        seen.add(attribute)
    assert {"vehicle.parked", "vehicle.moving"} <= seen


def test_num_lidar_pts_counts_the_points_of_the_sweep_inside_the_box(nusc):
    sample = nusc.sample[2]
    path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
    points = np.fromfile(path, np.float32).reshape(-1, 5)[:, :3].T.astype(np.float64)
    for box in boxes:
        inside = points_in_box(box, points).sum()
        stored = nusc.get("sample_annotation", box.token)["num_lidar_pts"]
        assert abs(inside - stored) <= max(2, 0.1 * stored), (box.name, inside, stored)


def test_devkit_scores_the_true_boxes_with_a_map_of_one(nusc, tmp_path):
    results = {}
    for sample in nusc.sample:
        boxes = []
        for name in sample["anns"]:
            a = nusc.get("sample_annotation", name)
            label = category_to_detection_name(a["category_name"])
            if label is None or a["num_lidar_pts"] == 0:  # the evaluation leaves out true boxes without points
                continue
            velocity = np.nan_to_num(nusc.box_velocity(name)[:2])
            attribute = nusc.get("attribute", a["attribute_tokens"][0])["name"] if a["attribute_tokens"] else ""
            boxes.append(
                {
                    **{k: a[k] for k in ("sample_token", "translation", "size", "rotation")},
                    "velocity": velocity.tolist(),
                    "detection_name": label,
                    "detection_score": 1.0,
                    "attribute_name": attribute,
                }
            )
        results[sample["token"]] = boxes
    val = nusc.field2token("scene", "name", "scene-0103")
    results = {t: b for t, b in results.items() if nusc.get("sample", t)["scene_token"] in val}
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    (tmp_path / "results.json").write_text(json.dumps({"meta": meta, "results": results}))
    config = config_factory("detection_cvpr_2019")
    evaluation = DetectionEval(nusc, config, str(tmp_path / "results.json"), "mini_val", str(tmp_path), verbose=False)
    metrics, _ = evaluation.evaluate()
    present = {b.detection_name for boxes in evaluation.gt_boxes.boxes.values() for b in boxes}
    aps = metrics.mean_dist_aps
    assert len(present) >= 3
    assert min(aps[name] for name in present) > 0.99, aps
    for name in present - {"traffic_cone", "barrier"}:
        errors = [metrics.get_label_tp(name, metric) for metric in ("trans_err", "scale_err", "orient_err", "vel_err")]
        assert np.nanmax(errors) < 1e-6, name


def test_stock_mmdet3d_reads_it_and_its_boxes_hold_their_points(simulated_root, tmp_path):
    from mmcv.ops import points_in_boxes_cpu
    from mmdet3d.datasets import NuScenesDataset
    from mmdet3d.utils import register_all_modules

    from perception.datasets.converter import create_infos

    register_all_modules(init_default_scope=False)
    files = create_infos(simulated_root, "v1.0-mini", tmp_path)
    cameras = {channel: f"samples/{channel}" for channel in CHANNELS if channel != "LIDAR_TOP"}
    dataset = NuScenesDataset(
        data_root=str(simulated_root),
        ann_file=str(files["train"]),
        data_prefix={"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP", **cameras},
        modality={"use_lidar": True, "use_camera": True},
        pipeline=[
            {"type": "mmdet3d.LoadMultiViewImageFromFiles", "num_views": 6},
            {"type": "mmdet3d.LoadPointsFromFile", "coord_type": "LIDAR", "load_dim": 5, "use_dim": 5},
            {"type": "mmdet3d.LoadAnnotations3D", "with_bbox_3d": True, "with_label_3d": True},
            {"type": "mmdet3d.Pack3DDetInputs", "keys": ["img", "points", "gt_bboxes_3d", "gt_labels_3d"]},
        ],
        test_mode=False,
    )
    assert len(dataset) == 2 * PROFILES["tiny"].keyframes
    data, annotation = dataset[3], dataset.get_data_info(3)["ann_info"]
    assert data["inputs"]["img"].shape == (6, 3, PROFILES["tiny"].height, PROFILES["tiny"].width)
    boxes, points = data["data_samples"].gt_instances_3d.bboxes_3d.tensor[:, :7], data["inputs"]["points"][:, :3]
    inside = points_in_boxes_cpu(points[None], boxes[None])[0].sum(0).numpy()
    stored = annotation["num_lidar_pts"]
    assert len(stored) == len(inside) > 3
    # the lidar sways with the car, and mmdet3d's boxes keep only the yaw: points near the faces may change sides
    np.testing.assert_array_less(np.abs(inside - stored), 3 + 0.15 * stored)


def test_a_scene_has_the_same_bytes_whichever_scenes_are_asked_for_with_it(short_root, tmp_path):
    root = tmp_path / "alone"
    pool.generate(root, profile=SHORT, train=0, val=1, seed=3, workers=1, quiet=True)
    mine, both = digests(root), digests(short_root)
    scene = [name for name in mine if not name.startswith("v1.0-mini/")]
    assert len(scene) > 2 * len(CHANNELS) and all(mine[name] == both[name] for name in scene)


def test_another_seed_gives_other_bytes(short_root, tmp_path):
    pool.generate(tmp_path / "other", profile=SHORT, train=1, val=0, seed=4, workers=1, quiet=True)
    mine, theirs = digests(tmp_path / "other"), digests(short_root)
    images = [name for name in mine if name.startswith("samples/") and name in theirs]
    assert all(mine[name] != theirs[name] for name in images)
    tokens = [
        {s["token"] for s in json.loads((r / "v1.0-mini/sample.json").read_text())}
        for r in (tmp_path / "other", short_root)
    ]
    assert not tokens[0] & tokens[1]


@pytest.mark.slow
def test_one_and_two_workers_give_the_same_bytes(short_root, tmp_path):
    root = tmp_path / "two"
    summary = pool.generate(root, profile=SHORT, train=1, val=1, seed=3, workers=2, quiet=True)
    assert summary.workers == 2 and summary.simulated == 2
    assert digests(root) == digests(short_root)


def test_an_interrupted_run_simulates_only_what_is_missing_and_ends_with_the_same_bytes(short_root, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(short_root, root)
    record = root / ".scenes" / "scene-0103.json"
    torn = root / json.loads(record.read_text())["captures"][0]["filename"]
    record.unlink()
    torn.write_bytes(torn.read_bytes()[:100])
    shutil.rmtree(root / "v1.0-mini")
    summary = pool.generate(root, profile=SHORT, train=1, val=1, seed=3, workers=1, quiet=True)
    assert summary.simulated == 1
    assert digests(root) == digests(short_root)


def test_a_finished_scene_with_a_file_emptied_or_removed_counts_as_missing(short_root, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(short_root, root)
    record = pool._finished(root, "scene-0061")
    file = root / record["captures"][3]["filename"]
    file.write_bytes(b"")
    assert pool._finished(root, "scene-0061") is None
    file.unlink()
    assert pool._finished(root, "scene-0061") is None
    assert pool._finished(root, "scene-0103") is not None


def test_a_finished_folder_is_reused_without_simulating(short_root):
    before = {p: p.stat().st_mtime_ns for p in short_root.rglob("*.jpg")}
    summary = pool.generate(short_root, profile=SHORT, train=1, val=1, seed=3, quiet=True)
    assert summary.simulated == 0 and summary.scenes == 2
    assert {p: p.stat().st_mtime_ns for p in short_root.rglob("*.jpg")} == before


def test_other_settings_are_refused_by_name_and_the_folder_is_left_alone(short_root):
    before = digests(short_root)
    with pytest.raises(DataError, match=r"other settings \(seed: 3 there, 5 asked for\): pass --force"):
        pool.generate(short_root, profile=SHORT, train=1, val=1, seed=5, quiet=True)
    assert digests(short_root) == before


def test_force_starts_over_and_leaves_nothing_of_the_other_settings(short_root, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(short_root, root)
    settings = json.loads((root / ".scenes" / "settings.json").read_text())
    (root / ".scenes" / "settings.json").write_text(json.dumps({**settings, "seed": 99}))
    (root / "samples" / "CAM_BACK" / "left_over.jpg").write_bytes(b"old")
    pool.generate(root, profile=SHORT, train=0, val=1, seed=3, workers=1, force=True, quiet=True)
    mine, both = digests(root), digests(short_root)
    assert not [name for name in mine if "left_over" in name or "scene-0061" in name]
    assert all(mine[name] == both[name] for name in mine if name.startswith("samples/"))


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_another_origin_is_never_touched(tmp_path, force):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"files of another origin \(thesis.tex\): give a new or an empty folder"):
        pool.generate(tmp_path, profile=SHORT, train=1, val=1, force=force, quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_eight_and_two_scenes_are_mini_and_one_more_is_trainval():
    splits = create_splits_scenes()
    assert pool.scene_names(8, 2) == ("v1.0-mini", splits["mini_train"] + splits["mini_val"])
    version, names = pool.scene_names(9, 2)
    assert version == "v1.0-trainval" and names == splits["train"][:9] + splits["val"][:2]
    assert pool.scene_names(1, 1, "v1.0-trainval")[1] == [splits["train"][0], splits["val"][0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 2, "v1.0-mini"), "9 scenes for mini_train of v1.0-mini: the split has 8 names; .* version v1.0-trainval"),
        ((701, 1), "701 scenes for train of v1.0-trainval: the split has 700 names; ask for fewer"),
        ((1, 1, "v2"), "version 'v2': choose one of v1.0-mini, v1.0-trainval"),
        ((0, 0), "ask for at least one scene"),
    ],
)
def test_scene_counts_that_no_split_holds_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        pool.scene_names(*arguments)


def test_the_verb_reports_what_it_wrote_and_how_fast(short_root, monkeypatch, capsys):
    monkeypatch.setitem(PROFILES, "short", SHORT)
    assert pool.main([str(short_root), "--profile", "short", "--scenes", "1", "--seed", "3"]) == 0
    assert "nuScenes v1.0-mini, 2 scenes, 4 key frames; all of them were there already" in capsys.readouterr().out
    assert pool.main([str(short_root), "--profile", "huge"]) == 2
    assert "profile 'huge': choose one of tiny, small, full" in capsys.readouterr().err


def test_help_imports_neither_torch_nor_open3d():
    code = (
        "import sys\nfrom perception.simulation import generate\n"
        "try:\n    generate.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'open3d', 'cv2', 'nuscenes') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "simulate-driving" in done.stdout and done.stdout.strip().endswith("[]")
