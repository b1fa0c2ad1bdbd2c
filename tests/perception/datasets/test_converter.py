import numpy as np
import pytest
from mmdet3d.datasets import NuScenesDataset
from nuscenes import NuScenes

from common.errors import DataError
from common.geometry import pose
from perception.datasets import load_infos
from perception.datasets.converter import create_infos, main
from perception.datasets.keyframe import keyframe_info, keyframe_root

OURS = {"scene_token", "scene_name", "frame_idx", "prev_token", "lidar2global"}


def differences(got, wanted, path="", skip=()):
    """Paths at which `got` lacks what `wanted` has or differs from it by more than float32 rounding."""
    if path in skip or path.split(".")[-1] in skip:
        return []
    if isinstance(wanted, dict):
        out = [f"{path}.{key} missing" for key in wanted if key not in got]
        return out + [d for k in wanted if k in got for d in differences(got[k], wanted[k], f"{path}.{k}", skip)]
    if isinstance(wanted, list) and wanted and isinstance(wanted[0], dict):
        if len(got) != len(wanted):
            return [f"{path} has {len(got)} entries, not {len(wanted)}"]
        pairs = enumerate(zip(got, wanted, strict=True))
        return [d for k, (a, b) in pairs for d in differences(a, b, f"{path}[{k}]", skip)]
    if isinstance(wanted, str):
        return [] if got == wanted else [f"{path}: {got} != {wanted}"]
    same = np.allclose(np.array(got, float), np.array(wanted, float), atol=2e-4, equal_nan=True)
    return [] if same else [f"{path}: {got} != {wanted}"]


@pytest.fixture(scope="module")
def real(data_root, tmp_path_factory):
    """The official info of the real key frame, and ours made from tables around the same frame."""
    source = data_root / "nuscenes_keyframe"
    root = keyframe_root(source, tmp_path_factory.mktemp("keyframe"))
    paths = create_infos(root, "v1.0-mini")
    return keyframe_info(source), load_infos(paths["train"]), root


def test_a_real_key_frame_gives_the_official_keys_and_values(real):
    official, ours, _ = real
    # tokens are new, a lone frame has no velocity, the writer adds radar points to the LiDAR's
    skip = ("token", "sample_data_token", "velocity", "num_lidar_pts", "num_radar_pts")
    assert differences(ours["data_list"][0], official, skip=skip) == []


def test_the_sample_has_the_official_keys_and_ours_and_no_others(real):
    official, ours, _ = real
    assert set(ours["data_list"][0]) == set(official) | OURS
    assert set(ours["data_list"][0]["images"]["CAM_BACK"]) == set(official["images"]["CAM_BACK"]) | {"ego2global"}
    assert set(ours["data_list"][0]["instances"][0]) == set(official["instances"][0]) | {"instance_token"}


@pytest.fixture(scope="module")
def tables(small_root):
    return NuScenes("v1.0-mini", str(small_root), verbose=False)


def test_velocities_are_the_devkits_turned_into_the_lidar_frame(small_root, tables):
    info = load_infos(small_root / "tutelage_infos_train.pkl")["data_list"][1]
    sample = tables.get("sample", info["token"])
    rotation = np.array(info["lidar2global"])[:3, :3]
    for instance, token in zip(info["instances"], sample["anns"], strict=True):
        wanted = tables.box_velocity(token)
        assert np.allclose((rotation @ [*instance["velocity"], 0])[:2], wanted[:2], atol=1e-6)
        assert instance["instance_token"] == tables.get("sample_annotation", token)["instance_token"]


def test_frames_count_within_the_scene_and_point_to_their_predecessor(small_root):
    data_list = load_infos(small_root / "tutelage_infos_train.pkl")["data_list"]
    tokens = {info["token"]: info for info in data_list}
    for info in data_list:
        if info["frame_idx"] == 0:
            assert info["prev_token"] is None
        else:
            previous = tokens[info["prev_token"]]
            assert previous["frame_idx"] == info["frame_idx"] - 1
            assert previous["scene_token"] == info["scene_token"] and previous["timestamp"] < info["timestamp"]


def test_camera_ego_poses_are_those_of_the_cameras_own_exposure(small_root, tables):
    info = load_infos(small_root / "tutelage_infos_val.pkl")["data_list"][2]
    for camera in info["images"].values():
        record = tables.get("ego_pose", tables.get("sample_data", camera["sample_data_token"])["ego_pose_token"])
        assert np.array_equal(camera["ego2global"], pose(record["translation"], record["rotation"]))
    assert len({str(camera["ego2global"]) for camera in info["images"].values()}) == 6


def test_splits_follow_the_devkits_scene_names(small_root):
    names = {
        split: {info["scene_name"] for info in load_infos(small_root / f"tutelage_infos_{split}.pkl")["data_list"]}
        for split in ("train", "val")
    }
    assert names == {"train": {"scene-0061", "scene-0553"}, "val": {"scene-0103"}}


def test_mmdet3ds_stock_data_set_accepts_the_file_unchanged(small_root):
    prefix = {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP", "CAM_BACK": "samples/CAM_BACK"}
    stock = NuScenesDataset(str(small_root), "tutelage_infos_train.pkl", data_prefix=prefix,
                            modality={"use_camera": True, "use_lidar": True})  # fmt: skip
    info = stock.get_data_info(0)
    assert info["ann_info"]["gt_bboxes_3d"].tensor.shape == (13, 9)  # debris included
    assert info["images"]["CAM_BACK"]["img_path"].startswith(str(small_root / "samples" / "CAM_BACK"))


def test_two_processes_write_the_same_infos_as_one(small_root, tmp_path):
    paths = create_infos(small_root, "v1.0-mini", out_dir=tmp_path, workers=2)
    assert load_infos(paths["train"]) == load_infos(small_root / "tutelage_infos_train.pkl")


def test_scenes_without_files_are_left_out_and_named(own_root, tmp_path, make_dataset, capsys):
    for file in (own_root / "samples" / "LIDAR_TOP").glob("scene-0553*"):
        file.unlink()
    paths = create_infos(own_root, "v1.0-mini", out_dir=tmp_path)
    assert {info["scene_name"] for info in load_infos(paths["train"])["data_list"]} == {"scene-0061"}
    assert "scene-0553" in capsys.readouterr().err
    assert load_infos(paths["train"])["metainfo"]["absent_scenes"] == ["scene-0553"]
    assert load_infos(paths["val"])["metainfo"]["absent_scenes"] == []
    dataset = make_dataset(own_root, str(paths["train"]), test_mode=True)
    assert dataset.metainfo["absent_scenes"] == ["scene-0553"]


def test_a_missing_table_ends_in_one_line_that_names_it(tmp_path, capsys):
    assert main([str(tmp_path), "--version", "v1.0-mini"]) == 1
    assert "sample.json does not exist" in capsys.readouterr().err


def test_an_unknown_version_is_refused(small_root):
    with pytest.raises(DataError, match=r"version 'v1\.0'"):
        create_infos(small_root, "v1.0")


def test_the_test_set_has_no_boxes_and_still_makes_samples(make_root, make_dataset):
    root = make_root("v1.0-test", {"scene-0077": set()})
    assert [path.name for path in root.glob("*.pkl")] == ["tutelage_infos_test.pkl"]
    dataset = make_dataset(root, "test", test_mode=True)
    assert dataset.metainfo["version"] == "v1.0-test" and len(dataset) == 5
    assert dataset.raw_sample(0)["gt_bboxes_3d"].tensor.shape == (0, 9)
    assert "cam_instances" not in load_infos(root / "tutelage_infos_test.pkl")["data_list"][0]
