import pickle

import numpy as np
import pytest

from common.errors import ConfigError, DataError
from perception.datasets.infos import OFFICIAL_CLASSES, TASK_CLASSES, check_infos, label_mapping, load_infos


class _Payload:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (self.file, "w"))


def test_a_pickle_that_would_run_code_is_refused_by_name_and_nothing_runs(tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "infos.pkl"
    path.write_bytes(pickle.dumps({"metainfo": {}, "data_list": [_Payload(str(touched))]}))
    with pytest.raises(DataError, match=r"infos\.pkl contains the class (io|_io)\.open"):
        load_infos(path)
    assert not touched.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_numpy_scalars_are_read_under_every_protocol(tmp_path, protocol):
    sample = {"a": np.arange(6.0).reshape(2, 3), "b": np.int64(3), "c": np.bool_(True)}
    content = {"metainfo": {}, "data_list": [sample]}
    (tmp_path / "i.pkl").write_bytes(pickle.dumps(content, protocol))
    got = load_infos(tmp_path / "i.pkl")["data_list"][0]
    assert np.array_equal(got["a"], content["data_list"][0]["a"]) and got["b"] == 3 and got["c"]


def test_the_official_info_file_is_readable(data_root):
    (path,) = (data_root / "nuscenes_keyframe").glob("*.pkl")
    assert load_infos(path)["metainfo"]["info_version"] == "1.1"


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_a_file_cut_short_is_named(small_root, tmp_path, cut):
    content = (small_root / "tutelage_infos_val.pkl").read_bytes()
    (tmp_path / "cut.pkl").write_bytes(content[:cut])
    with pytest.raises(DataError, match=r"cut\.pkl is not a readable info file.*make it again"):
        load_infos(tmp_path / "cut.pkl")


def test_a_version_1_file_is_named_with_the_command_that_mends_it(tmp_path):
    (tmp_path / "old.pkl").write_bytes(pickle.dumps({"infos": [], "metadata": {"version": "v1.0-mini"}}))
    with pytest.raises(DataError, match=r"version-1 info file.*converter DATA_ROOT --version v1.0-mini"):
        load_infos(tmp_path / "old.pkl")


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pkl does not exist.*perception\.datasets\.converter"):
        load_infos(tmp_path / "none.pkl")


@pytest.fixture
def infos(small_root):
    return load_infos(small_root / "tutelage_infos_train.pkl")


def test_good_infos_pass(infos):
    check_infos(infos, "x.pkl", "v1.0-mini")


def test_official_infos_without_our_keys_are_named(data_root):
    (path,) = (data_root / "nuscenes_keyframe").glob("*.pkl")
    with pytest.raises(DataError, match=r"no scene, frame and instance keys.*converter DATA_ROOT --version v1.0-mini"):
        check_infos(load_infos(path), path)


def test_another_version_than_the_config_asks_for_is_named(infos):
    with pytest.raises(DataError, match=r"infos of v1.0-mini, the config asks for v1.0-trainval"):
        check_infos(infos, "x.pkl", "v1.0-trainval")


@pytest.mark.parametrize("key", ["cam2img", "lidar2cam", "img_path"])
def test_a_missing_calibration_names_sample_and_camera(infos, key):
    del infos["data_list"][2]["images"]["CAM_BACK"][key]
    with pytest.raises(DataError, match=rf"data_list\[2\].*images\.CAM_BACK\.{key}.*converter"):
        check_infos(infos, "x.pkl")


def test_swapped_length_and_width_are_recognised_as_the_old_convention(infos):
    for info in infos["data_list"]:
        for instance in info["instances"]:
            box = instance["bbox_3d"]
            box[3], box[4] = box[4], box[3]
    with pytest.raises(DataError, match=r"1\.90 m long and 4\.50 m wide.*before 1\.0.*converter"):
        check_infos(infos, "x.pkl")


def test_a_turned_yaw_is_recognised_as_the_old_convention(infos):
    for info in infos["data_list"]:
        for instance in info["instances"]:
            instance["bbox_3d"][6] = -instance["bbox_3d"][6] - np.pi / 2
    with pytest.raises(DataError, match=r"degrees off their heading.*before 1\.0"):
        check_infos(infos, "x.pkl")


def test_labels_follow_the_files_own_categories_in_the_order_of_the_config():
    shuffled = {name: index for index, name in enumerate(reversed(OFFICIAL_CLASSES))}
    mapping = label_mapping({**shuffled, "animal": -1}, TASK_CLASSES, "x.pkl")
    assert all(TASK_CLASSES[mapping[shuffled[name]]] == name for name in OFFICIAL_CLASSES) and mapping[-1] == -1


@pytest.mark.parametrize("classes", [TASK_CLASSES[:9], (*TASK_CLASSES[:9], "cone"), (*TASK_CLASSES, "car")])
def test_an_incomplete_class_list_is_refused(classes):
    with pytest.raises(ConfigError, match=r"metainfo\.classes.*in task order"):
        label_mapping({name: k for k, name in enumerate(OFFICIAL_CLASSES)}, classes, "x.pkl")
