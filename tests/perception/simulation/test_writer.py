"""The writer against the nuScenes devkit, on small hand-made scenes whose files are real JPEGs and sweeps."""

import dataclasses
import json

import cv2
import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
from nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes

from common.errors import DataError
from common.geometry import invert, pose, transform, yaw_pose
from perception.simulation import writer
from perception.simulation.records import AnnotationRecord, CaptureRecord, SceneRecord, SensorRecord

START, KEY, SWEEP = 1_532_402_900_000_000, 500_000, 50_000  # microseconds
SPEED = np.array([3.0, -1.0, 0.0])  # of the moving car, m/s
CAM2IMG = np.array([[200.0, 0, 160], [0, 200, 90], [0, 0, 1]])


def make_scene(root, name="scene-0061", frames=4, seed=0):
    """A camera looking ahead and a LiDAR over `frames` key frames with one sweep between; a moving car, a parked truck,
    and a pedestrian that the third key frame misses."""
    rng = np.random.default_rng(seed)
    cam2ego = np.eye(4)
    cam2ego[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)
    cam2ego[:3, 3] = 1.5, 0, 1.6
    sensors = [
        SensorRecord("LIDAR_TOP", "lidar", yaw_pose(0.9, 0, 1.8, -np.pi / 2)),
        SensorRecord("CAM_FRONT", "camera", cam2ego, CAM2IMG, 320, 180),
    ]
    captures, times, annotations = [], [], []
    for t in range(frames):
        times.append(START + t * KEY + int(name[-4:]) * 60_000_000)
        for sensor in sensors:
            for ago in (1, 0):
                time = times[-1] - ago * SWEEP
                folder = "sweeps" if ago else "samples"
                ending = "jpg" if sensor.modality == "camera" else "pcd.bin"
                file = f"{folder}/{sensor.channel}/sim__{name}__{sensor.channel}__{time}.{ending}"
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                if ending == "jpg":
                    cv2.imwrite(str(root / file), rng.integers(0, 255, (180, 320, 3), np.uint8))
                else:
                    rng.uniform(-30, 30, (500, 5)).astype(np.float32).tofile(root / file)
                ego = yaw_pose(100 + 5e-6 * (time - times[0]), 80, 0, 0.1)
                captures.append(CaptureRecord(sensor.channel, file, time, ego, t, ago == 0))
        car = AnnotationRecord(
            7, "vehicle.car", "vehicle.moving", np.array([115.0, 83, 0.8]) + SPEED * t * 0.5,
            np.array([1.9, 4.6, 1.6]), np.array([1.0, 0, 0, 0]), 4, 31,
        )  # fmt: skip
        truck = dataclasses.replace(
            car,
            instance=8,
            category="vehicle.truck",
            attribute="vehicle.parked",
            translation=np.array([118.0, 76, 1.5]),
        )
        walker = dataclasses.replace(
            car, instance=9, category="human.pedestrian.adult", attribute="pedestrian.moving", visibility=2,
            translation=np.array([112.0, 81 + t, 0.9]), size=np.array([0.6, 0.7, 1.7]),
        )  # fmt: skip
        annotations.append([car, truck] if t == 2 else [car, truck, walker])
    drivable = np.zeros((500, 750), np.uint8)
    drivable[50:150] = 1  # y in [70, 90) at 0.2 m: the last row begins at y = 0
    return SceneRecord(name, "a made-up road", "town", sensors, captures, times, annotations, drivable, 0.2)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    scenes = [make_scene(root), make_scene(root, "scene-0103", frames=3, seed=1)]
    writer.write_tables(root, scenes, "v1.0-mini")
    return root, scenes, NuScenes("v1.0-mini", str(root), verbose=False)


def test_every_table_of_the_schema_is_written_and_tokens_are_unique(written):
    root, _, nusc = written
    assert sorted(p.stem for p in (root / "v1.0-mini").iterdir()) == sorted(nusc.table_names)
    assert len(nusc.category) == 23 and len(nusc.attribute) == 8 and len(nusc.visibility) == 4
    tokens = [row["token"] for name in nusc.table_names if name != "ego_pose" for row in getattr(nusc, name)]
    assert len(tokens) == len(set(tokens))


def test_sample_chains_visit_every_key_frame_in_time_order(written):
    _, scenes, nusc = written
    for scene, row in zip(scenes, nusc.scene, strict=True):
        times, at = [], row["first_sample_token"]
        while at:
            sample = nusc.get("sample", at)
            times.append(sample["timestamp"])
            last, at = at, sample["next"]
        assert times == scene.keyframe_times and last == row["last_sample_token"] and row["nbr_samples"] == len(times)


def test_sensor_chains_run_through_sweeps_and_key_frames_in_time_order(written):
    _, scenes, nusc = written
    sample = nusc.get("sample", nusc.scene[0]["first_sample_token"])
    for channel in ("LIDAR_TOP", "CAM_FRONT"):
        row = nusc.get("sample_data", sample["data"][channel])
        while row["prev"]:
            row = nusc.get("sample_data", row["prev"])
        times = []
        while True:
            times.append((row["timestamp"], row["is_key_frame"]))
            if not row["next"]:
                break
            row = nusc.get("sample_data", row["next"])
        mine = [(c.timestamp, c.is_key_frame) for c in scenes[0].captures if c.channel == channel]
        assert times == sorted(mine)


def test_devkit_velocity_of_a_moving_box_is_its_true_velocity(written):
    _, _, nusc = written
    cars = [a for a in nusc.sample_annotation if a["category_name"] == "vehicle.car"]
    trucks = [a for a in nusc.sample_annotation if a["category_name"] == "vehicle.truck"]
    assert len(cars) == 7
    for car, truck in zip(cars, trucks, strict=True):
        np.testing.assert_allclose(nusc.box_velocity(car["token"]), SPEED, atol=1e-6)
        np.testing.assert_allclose(nusc.box_velocity(truck["token"]), 0, atol=1e-9)


def test_instance_chain_skips_the_key_frame_in_which_the_object_was_not_annotated(written):
    _, _, nusc = written
    walkers = [a for a in nusc.sample_annotation if a["category_name"] == "human.pedestrian.adult"][:3]
    assert [a["next"] for a in walkers] == [walkers[1]["token"], walkers[2]["token"], ""]
    instance = nusc.get("instance", walkers[0]["instance_token"])
    assert instance["nbr_annotations"] == 3 and instance["last_annotation_token"] == walkers[2]["token"]
    assert walkers[0]["visibility_token"] == "2"


def test_devkit_boxes_in_the_camera_equal_the_records_carried_through_its_own_pose(written):
    _, scenes, nusc = written
    sample = nusc.get("sample", nusc.scene[0]["first_sample_token"])
    _, boxes, cam2img = nusc.get_sample_data(sample["data"]["CAM_FRONT"])
    capture = next(c for c in scenes[0].captures if c.channel == "CAM_FRONT" and c.is_key_frame)
    global2cam = invert(capture.ego2global @ scenes[0].sensors[1].sensor2ego)
    expected = {a.category: (transform(global2cam, a.translation), a.size) for a in scenes[0].annotations[0]}
    assert {b.name for b in boxes} == set(expected)
    for box in boxes:
        np.testing.assert_allclose(box.center, expected[box.name][0], atol=1e-9)
        np.testing.assert_array_equal(box.wlh, expected[box.name][1])
    np.testing.assert_array_equal(cam2img, CAM2IMG)


def test_calibration_and_poses_survive_the_quaternion(written):
    _, scenes, nusc = written
    for record in scenes[0].captures:
        row = next(r for r in nusc.sample_data if r["filename"] == record.filename)
        ego = nusc.get("ego_pose", row["ego_pose_token"])
        assert ego["timestamp"] == row["timestamp"] == record.timestamp
        np.testing.assert_allclose(pose(ego["translation"], ego["rotation"]), record.ego2global, atol=1e-12)


def test_map_mask_says_drivable_exactly_on_the_road(written):
    _, scenes, nusc = written
    mask = nusc.get("map", nusc.get("log", nusc.scene[0]["log_token"])["map_token"])["mask"]
    y = np.array([69.0, 71, 80, 89, 91])
    assert mask.is_on_mask(np.full(5, 100.0), y).tolist() == [False, True, True, True, False]
    reach = max(c.ego2global[0, 3] for c in scenes[0].captures) + writer.MAP_MARGIN
    assert mask.mask().shape[1] * writer.MAP_RESOLUTION >= reach


def test_scenes_are_selected_by_the_devkits_mini_splits(written):
    _, _, nusc = written
    splits = create_splits_scenes()
    names = [s["name"] for s in nusc.scene]
    assert [n in splits["mini_train"] for n in names] == [True, False]
    assert [n in splits["mini_val"] for n in names] == [False, True]


def test_devkit_renders_without_changes(written, tmp_path, capsys):
    import matplotlib.pyplot as plt

    _, _, nusc = written
    sample = nusc.sample[1]
    render = {
        "lidar": lambda p: nusc.render_sample_data(sample["data"]["LIDAR_TOP"], nsweeps=3, out_path=p, verbose=False),
        "camera": lambda p: nusc.render_sample_data(sample["data"]["CAM_FRONT"], out_path=p, verbose=False),
        "points": lambda p: nusc.render_pointcloud_in_image(sample["token"], out_path=p, verbose=False),
        "box": lambda p: nusc.render_annotation(sample["anns"][0], out_path=p),
        "instance": lambda p: nusc.render_instance(nusc.instance[0]["token"], out_path=p),
        "sample": lambda p: nusc.render_sample(sample["token"], out_path=p, verbose=False),
        "map": lambda p: nusc.render_egoposes_on_map("town", out_path=p),
    }
    for name, function in render.items():
        function(str(tmp_path / f"{name}.png"))
        assert cv2.imread(str(tmp_path / f"{name}.png")).std() > 0, name
    plt.close("all")
    nusc.list_scenes()
    nusc.list_sample(sample["token"])
    nusc.list_attributes()
    nusc.list_categories()
    assert "scene-0061, a made-up road" in capsys.readouterr().out


def test_same_scenes_in_another_order_give_the_same_bytes(written, tmp_path):
    root, _, _ = written
    mine = [make_scene(tmp_path, "scene-0103", frames=3, seed=1), make_scene(tmp_path)]
    writer.write_tables(tmp_path, mine, "v1.0-mini")
    for file in [*(root / "v1.0-mini").iterdir(), *(root / "maps").iterdir()]:
        assert (tmp_path / file.relative_to(root)).read_bytes() == file.read_bytes(), file.name


def test_other_content_gives_other_sample_tokens(written, tmp_path):
    _, _, nusc = written
    scene = make_scene(tmp_path)
    scene.annotations[0] = scene.annotations[0][:1]
    writer.write_tables(tmp_path, [scene], "v1.0-mini")
    rows = json.loads((tmp_path / "v1.0-mini" / "sample.json").read_text())
    assert not {r["token"] for r in rows} & {r["token"] for r in nusc.sample}


def test_a_record_survives_the_json_round_trip_bit_by_bit(written):
    _, scenes, _ = written
    data = json.loads(json.dumps(writer.scene_to_dict(scenes[0])))
    back = writer.scene_from_dict(data, scenes[0].drivable)
    assert writer.scene_to_dict(back) == writer.scene_to_dict(scenes[0])
    np.testing.assert_array_equal(back.captures[3].ego2global, scenes[0].captures[3].ego2global)


def test_a_missing_sensor_file_is_named(tmp_path):
    scene = make_scene(tmp_path)
    (tmp_path / scene.captures[2].filename).unlink()
    with pytest.raises(DataError, match=r"CAM_FRONT.*jpg is missing or empty: simulate scene-0061 again"):
        writer.write_tables(tmp_path, [scene], "v1.0-mini")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "vehicle.tank"}, "unknown category 'vehicle.tank'; nuScenes has animal"),
        ({"attribute": "vehicle.flying"}, "unknown attribute 'vehicle.flying'"),
        ({"visibility": 0}, "visibility 0 of instance 7; give 1, 2, 3 or 4"),
        ({"instance": 8}, "instance 8 is vehicle.car and later vehicle.truck"),
    ],
)
def test_a_wrong_annotation_is_refused_by_name(tmp_path, change, message):
    scene = make_scene(tmp_path)
    scene.annotations[0][0] = dataclasses.replace(scene.annotations[0][0], **change)
    with pytest.raises(ValueError, match=message):
        writer.write_tables(tmp_path, [scene], "v1.0-mini")


def test_two_scenes_with_one_start_time_are_refused(tmp_path):
    scenes = [make_scene(tmp_path), dataclasses.replace(make_scene(tmp_path), name="scene-0103")]
    with pytest.raises(ValueError, match="they must differ"):
        writer.write_tables(tmp_path, scenes, "v1.0-mini")


def test_a_key_frame_without_one_of_its_captures_is_refused(tmp_path):
    scene = make_scene(tmp_path)
    scene.captures.remove(next(c for c in scene.captures if c.is_key_frame))
    with pytest.raises(ValueError, match="exactly one key capture per key frame"):
        writer.write_tables(tmp_path, [scene], "v1.0-mini")
