import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigError, DataError
from common.geometry import transform
from perception.datasets import (
    OFFICIAL_CLASSES,
    TASK_CLASSES,
    LoadAndAugmentImages,
    LoadLidarDepth,
    PackBEVInputs,
    SequenceItem,
    load_infos,
)
from perception.datasets.nuscenes import split_scenes
from perception.datasets.trajectories import FrameObjects, past_centers


def loading(training=False):
    return [LoadAndAugmentImages((32, 88), training=training), LoadLidarDepth(keep_points=True), PackBEVInputs()]


@pytest.fixture(scope="module")
def dataset(small_root, make_dataset):
    return make_dataset(small_root, pipeline=loading())


def global_centers(sample, row):
    """(K+1, 3) centres of one object's trajectory in the global frame."""
    return transform(sample["lidar2global"], sample["trajectories"][row].astype(float))


def test_a_static_object_stays_in_place_however_the_ego_moves(dataset):
    sample = dataset.raw_sample(9)  # last frame of a scene: 3 past frames are known
    static = [k for k, label in enumerate(sample["gt_labels_3d"]) if TASK_CLASSES[label] != "car"]
    spread = sample["trajectories"][static] - sample["trajectories"][static][:, :1]
    assert len(static) == 9 and np.abs(spread).max() < 1e-4


def test_unaligned_centers_of_a_static_object_wander_with_the_ego(dataset):
    sample = dataset.raw_sample(9)
    static = [k for k, label in enumerate(sample["gt_labels_3d"]) if TASK_CLASSES[label] != "car"]
    steps = np.linalg.norm(np.diff(sample["trajectories_unaligned"][static], axis=1), axis=-1)
    assert np.median(steps) > 1.5  # the ego drives 2 m between key frames


def test_a_moving_car_leaves_centers_spaced_by_its_speed_times_half_a_second(dataset):
    sample = dataset.raw_sample(9)
    speeds = np.linalg.norm(sample["gt_bboxes_3d"].tensor[:, 7:9].numpy(), axis=1)
    (mover,) = np.flatnonzero(speeds > 1)
    steps = np.linalg.norm(np.diff(global_centers(sample, mover), axis=0), axis=1)
    assert np.allclose(steps, 0.5 * 6.0, atol=1e-3)


def test_the_route_through_global_equals_the_route_chained_over_ego_poses(small_root, dataset):
    infos = load_infos(small_root / "tutelage_infos_train.pkl")["data_list"]
    sample = dataset.raw_sample(9)

    def step(older, newer):
        """The move of the ego between two key frames, from the official keys."""
        chain = np.linalg.inv(newer["lidar_points"]["lidar2ego"]) @ np.linalg.inv(newer["ego2global"])
        return chain @ older["ego2global"] @ older["lidar_points"]["lidar2ego"]

    chain = np.eye(4)
    for k in range(1, 4):
        chain = chain @ step(infos[9 - k], infos[10 - k])
        unaligned, aligned = sample["trajectories_unaligned"][:, k], sample["trajectories"][:, k]
        known = ~np.isnan(aligned[:, 0])
        assert known.sum() >= 10
        assert np.abs(transform(chain, unaligned[known].astype(float)) - aligned[known]).max() < 1e-4


def test_the_first_column_is_the_boxes_gravity_center(dataset):
    sample = dataset.raw_sample(7)
    centers = sample["gt_bboxes_3d"].gravity_center.numpy()
    assert np.allclose(sample["trajectories"][:, 0], centers, atol=1e-5)
    assert np.array_equal(sample["trajectories"][:, 0], sample["trajectories_unaligned"][:, 0])


def test_frames_before_the_scene_are_unknown_and_never_another_scenes(dataset):
    sample = dataset.raw_sample(6)  # frame 1 of the second scene
    assert not np.isnan(sample["trajectories"][:, :2]).any() and np.isnan(sample["trajectories"][:, 2:]).all()


def test_an_unknown_velocity_stays_unknown(own_root, make_dataset):
    file = own_root / "tutelage_infos_train.pkl"
    infos = load_infos(file)
    token = infos["data_list"][6]["instances"][2]["instance_token"]
    infos["data_list"][6]["instances"][2]["velocity"] = [float("nan")] * 2
    file.write_bytes(pickle.dumps(infos, protocol=4))
    for options in ({}, {"drop_boxes_without_points": False}):
        sample = make_dataset(own_root, **options).raw_sample(6)
        velocity = sample["gt_bboxes_3d"].tensor[:, 7:9]
        assert sample["instance_tokens"][velocity.isnan().any(-1)].tolist() == [token]
        assert velocity.isnan().all(-1).sum() == 1 and len(velocity) > 5


def test_following_the_predecessors_time_only_falls(small_root, make_dataset):
    dataset = make_dataset(small_root)
    infos = load_infos(small_root / "tutelage_infos_train.pkl")["data_list"]
    followed = 0
    for index, objects in enumerate(dataset._objects):
        if objects.previous is not None:
            before = dataset._objects[objects.previous]
            assert infos[objects.previous]["timestamp"] < infos[index]["timestamp"]
            assert infos[objects.previous]["scene_token"] == infos[index]["scene_token"]
            followed += len(before.tokens.keys() & objects.tokens.keys())
    assert followed > 50


def test_no_path_reaches_over_the_cut_of_a_split_sequence(small_root, make_dataset):
    whole, cut = make_dataset(small_root), make_dataset(small_root, split_sequences=2)
    assert cut.sequences[2:] == [[5, 6, 7], [8, 9]]
    before, after = whole.raw_sample(9), cut.raw_sample(9)  # the second frame of its part
    for key in ("trajectories", "trajectories_unaligned"):
        assert not np.isnan(before[key]).any()
        assert np.array_equal(after[key][:, :2], before[key][:, :2]) and np.isnan(after[key][:, 2:]).all()


def test_an_object_is_unknown_exactly_where_it_was_not_annotated(dataset):
    after_gap = dataset.raw_sample(4)  # frame 3 of scene-0061 is empty
    unknown = np.isnan(after_gap["trajectories"]).any(-1)
    assert unknown[:, 1].all() and not unknown[:, [0, 2, 3]].any()


def test_sequences_are_whole_scenes_in_time_order(dataset):
    assert dataset.sequences == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_scenes_shuffled_in_the_file_are_sorted_by_time():
    infos = [{"scene_token": s, "timestamp": t} for s, t in [("b", 2), ("a", 5), ("b", 1), ("a", 4)]]
    assert split_scenes(infos, 1) == [[2, 0], [3, 1]]


@pytest.mark.parametrize(("frames", "parts"), [(5, 2), (5, 4), (40, 7), (3, 5), (1, 2), (6, 6)])
def test_any_number_of_parts_gives_sizes_that_differ_by_at_most_one(frames, parts):
    cut = split_scenes([{"scene_token": "s", "timestamp": t} for t in range(frames)], parts)
    sizes = [len(part) for part in cut]
    assert len(cut) == min(parts, frames) and max(sizes) - min(sizes) <= 1
    assert [i for part in cut for i in part] == list(range(frames))


def test_test_sets_are_never_cut(small_root, make_dataset):
    assert make_dataset(small_root, "val", test_mode=True, split_sequences=3).sequences == [[0, 1, 2, 3, 4]]


def test_labels_are_indices_into_the_classes_of_the_config(small_root, make_dataset):
    named = {}
    for classes in (TASK_CLASSES, OFFICIAL_CLASSES):
        sample = make_dataset(small_root, metainfo={"classes": classes}).raw_sample(0)
        named[classes] = [classes[label] for label in sample["gt_labels_3d"]]
    assert named[TASK_CLASSES] == named[OFFICIAL_CLASSES] and set(named[TASK_CLASSES]) == set(TASK_CLASSES)


def test_a_file_with_its_own_label_numbers_gives_the_same_classes(own_root, make_dataset):
    wanted = make_dataset(own_root).raw_sample(0)["gt_labels_3d"]
    path = own_root / "tutelage_infos_train.pkl"
    infos = load_infos(path)
    infos["metainfo"]["categories"] = {
        name: 9 - index if index >= 0 else -1 for name, index in infos["metainfo"]["categories"].items()
    }
    for instance in (instance for info in infos["data_list"] for instance in info["instances"]):
        if instance["bbox_label_3d"] >= 0:
            instance["bbox_label_3d"] = instance["bbox_label"] = 9 - instance["bbox_label_3d"]
    path.write_bytes(pickle.dumps(infos))
    assert np.array_equal(make_dataset(own_root).raw_sample(0)["gt_labels_3d"], wanted)


def test_the_version_for_the_metric_comes_from_the_file(dataset):
    assert dataset.metainfo["version"] == "v1.0-mini"


def test_a_config_for_another_version_is_refused(small_root, make_dataset):
    with pytest.raises(DataError, match=r"infos of v1\.0-mini, the config asks for v1\.0-trainval"):
        make_dataset(small_root, metainfo={"classes": TASK_CLASSES, "version": "v1.0-trainval"})


def test_a_version_named_like_a_folder_in_reach_is_still_a_version(small_root, make_dataset, monkeypatch):
    monkeypatch.chdir(small_root)  # mmengine would open the folder v1.0-mini as a file of meta information
    dataset = make_dataset(small_root, metainfo={"classes": TASK_CLASSES, "version": "v1.0-mini"})
    assert dataset.metainfo["version"] == "v1.0-mini"


@pytest.mark.parametrize("metainfo", [{}, {"classes": ("car",)}])
def test_a_config_without_all_classes_is_refused(small_root, make_dataset, metainfo):
    with pytest.raises(ConfigError, match=r"metainfo\.classes"):
        make_dataset(small_root, metainfo=metainfo)


def test_boxes_without_points_are_dropped_only_when_asked(small_root, make_dataset):
    counts = [len(make_dataset(small_root, drop_boxes_without_points=d).raw_sample(0)["gt_labels_3d"]) for d in (1, 0)]
    assert counts == [12, 13]


def test_an_empty_frame_is_kept_and_packs_empty_boxes(dataset):
    packed = dataset[3]
    assert packed["data_samples"].gt_instances_3d.bboxes_3d.tensor.shape == (0, 9)
    assert packed["inputs"]["trajectories"].shape == (0, 4, 3)
    assert packed["data_samples"].instance_tokens == []


def test_the_number_of_cameras_comes_from_the_file(own_root, make_dataset):
    path = own_root / "tutelage_infos_train.pkl"
    infos = load_infos(path)
    for info in infos["data_list"]:
        info["images"] = {name: info["images"][name] for name in ("CAM_FRONT", "CAM_BACK")}
    path.write_bytes(pickle.dumps(infos))
    assert make_dataset(own_root, pipeline=loading())[0]["inputs"]["imgs"].shape == (2, 3, 32, 88)


def test_lidar2global_is_the_sweeps_pose_to_a_micrometre(small_root, dataset):
    info = load_infos(small_root / "tutelage_infos_train.pkl")["data_list"][2]
    assert dataset[2]["inputs"]["lidar2global"].dtype.is_floating_point
    assert np.abs(dataset[2]["inputs"]["lidar2global"].numpy() - np.array(info["lidar2global"])).max() < 1e-6


def test_a_corrupted_image_ends_in_an_error_that_names_it(own_root, make_dataset):
    dataset = make_dataset(own_root, pipeline=loading())
    victim = dataset.get_data_info(2)["images"]["CAM_BACK"]["img_path"]
    content = Path(victim).read_bytes()
    Path(victim).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"{victim} is corrupted or cut short.*on_error='skip'"):
        dataset[2]


def test_skipped_frames_are_logged_and_the_sequence_goes_on(own_root, make_dataset, caplog):
    dataset = make_dataset(own_root, pipeline=loading(), on_error="skip")
    victim = dataset.get_data_info(0)["lidar_path"]
    Path(victim).write_bytes(b"abc")
    with caplog.at_level(logging.WARNING):
        sample = dataset[SequenceItem(0, True, 17, 2)]
    assert sample["data_samples"].sample_idx == 1 and bool(sample["inputs"]["start"])
    assert sample["data_samples"].draw == 17
    assert dataset[3]["data_samples"].sample_idx == 3
    Path(dataset.get_data_info(3)["lidar_path"]).write_bytes(b"abc")
    assert dataset[3]["data_samples"].sample_idx in (2, 4)  # a neighbour, as near as can be
    Path(dataset.get_data_info(2)["lidar_path"]).write_bytes(b"abc")
    assert dataset[3]["data_samples"].sample_idx == 4
    Path(dataset.get_data_info(4)["lidar_path"]).write_bytes(b"abc")
    assert dataset[3]["data_samples"].sample_idx == 1
    last = dataset.get_data_info(9)["lidar_path"]
    Path(last).write_bytes(b"abc")
    assert dataset[9]["data_samples"].sample_idx == 8


def test_a_sequence_without_a_readable_frame_is_an_error_even_when_skipping(own_root, make_dataset):
    dataset = make_dataset(own_root, pipeline=loading(), on_error="skip")
    for index in range(5):
        Path(dataset.get_data_info(index)["lidar_path"]).write_bytes(b"")
    with pytest.raises(DataError, match="no frame of sequence 0 can be read; the last error was: LiDAR sweep"):
        dataset[1]


def test_skipping_is_refused_in_evaluation(small_root, make_dataset):
    with pytest.raises(ConfigError, match="the metric needs every sample"):
        make_dataset(small_root, "val", test_mode=True, on_error="skip")


def test_shuffled_lidar_changes_the_depth_map_and_nothing_else(small_root, make_dataset, dataset):
    shuffled = make_dataset(small_root, pipeline=loading(), lidar_shuffle_seed=5)
    item = SequenceItem(2, False, 40, 1)
    plain, control = dataset[item]["inputs"], shuffled[item]["inputs"]
    assert {key for key in plain if not np.array_equal(plain[key].numpy(), control[key].numpy(), equal_nan=True)} == {
        "lidar_depth"
    }


def test_shuffled_lidar_never_comes_from_the_sample_itself_and_depends_on_the_draw(small_root, make_dataset):
    shuffled = make_dataset(small_root, lidar_shuffle_seed=5)
    own = shuffled.get_data_info(4)["lidar_path"]
    others = {shuffled.raw_sample(SequenceItem(4, False, d, 0))["depth_source"]["lidar_path"] for d in range(100)}
    assert own not in others and len(others) == 9


def test_past_frames_are_found_by_their_token_not_by_their_place_in_the_file():
    def frame(x, previous):
        return FrameObjects({"car": 0}, np.array([[x, 0.0, 0.0]]), np.eye(4), previous)

    frames = [frame(3.0, 2), frame(9.0, 0), frame(1.0, None)]  # in time: 2, 0, 1
    aligned, _ = past_centers(frames, 1, ["car"], 3)
    assert aligned[0, :, 0].tolist()[:3] == [9.0, 3.0, 1.0] and np.isnan(aligned[0, 3]).all()
