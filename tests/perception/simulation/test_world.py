"""A whole scene: bytes from the seed, boxes on objects, traffic that obeys its own velocities."""

import hashlib
from collections import Counter

import cv2
import numpy as np
import pytest

from common.geometry import invert, pose, transform, yaw_of
from perception.simulation.actors import CATEGORIES, RIDER_HEIGHT, SIZES, corners, overlap
from perception.simulation.lidar import sweep
from perception.simulation.populate import EGO_LENGTH, EGO_MIDDLE, EGO_WIDTH
from perception.simulation.profiles import profile
from perception.simulation.render import Stage
from perception.simulation.rig import EGO_BACK, EGO_FRONT, EGO_HALF_WIDTH, OFFSETS, make_rig
from perception.simulation.world import ANNOTATED_WITHIN, build_world, simulate_scene, visibility_level

SEEDS = (1, 2, 3, 4)
SHORT = profile("tiny", keyframes=2, lidar_sweeps=1, camera_sweeps=1)
LONG = profile("small")


@pytest.fixture(scope="module")
def worlds():
    return [build_world(seed, LONG) for seed in SEEDS]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("scene")
    return root, simulate_scene(name="scene-0061", seed=5, profile=SHORT, root=root)


def digest(root, record):
    files = {c.filename: hashlib.sha256((root / c.filename).read_bytes()).hexdigest() for c in record.captures}
    boxes = [(a.instance, a.category, a.attribute, *a.translation, *a.rotation, a.visibility, a.num_lidar_pts)
             for frame in record.annotations for a in frame]  # fmt: skip
    poses = [(c.timestamp, *c.ego2global.ravel()) for c in record.captures]
    return files, boxes, poses, record.drivable.tobytes()


def test_the_same_seed_gives_the_same_bytes(scene, tmp_path):
    again = simulate_scene(name="scene-0061", seed=5, profile=SHORT, root=tmp_path)
    assert digest(tmp_path, again) == digest(*scene)


def test_another_seed_gives_another_scene(scene, tmp_path):
    other = simulate_scene(name="scene-0061", seed=6, profile=profile("tiny", keyframes=1), root=tmp_path)
    assert digest(tmp_path, other)[1][:3] != digest(*scene)[1][:3]


def test_images_have_the_profiles_size_and_sweeps_whole_rows(scene):
    root, record = scene
    for capture in record.captures:
        if capture.channel == "LIDAR_TOP":
            assert (root / capture.filename).stat().st_size % 20 == 0
        else:
            assert cv2.imread(str(root / capture.filename)).shape == (SHORT.height, SHORT.width, 3)


def test_every_key_frame_has_seven_key_captures_and_the_sweeps_belong_to_the_next(scene):
    _, record = scene
    keys = Counter((c.keyframe, c.channel) for c in record.captures if c.is_key_frame)
    assert keys == {(k, s.channel): 1 for k in range(SHORT.keyframes) for s in record.sensors}
    between = Counter((c.keyframe, c.channel) for c in record.captures if not c.is_key_frame)
    assert between == {(1, s.channel): 1 for s in record.sensors}
    for capture in record.captures:
        assert capture.timestamp <= record.keyframe_times[capture.keyframe]
        assert capture.filename.startswith("samples/" if capture.is_key_frame else "sweeps/")
        assert f"__{capture.channel}__{capture.timestamp}." in capture.filename


def test_cameras_expose_at_their_offsets_and_the_ego_moves_meanwhile(scene):
    _, record = scene
    keys = {c.channel: c for c in record.captures if c.is_key_frame and c.keyframe == 1}
    for channel, capture in keys.items():
        assert capture.timestamp - record.keyframe_times[1] == pytest.approx(OFFSETS[channel] * 1e6, abs=1)
    moved = np.linalg.norm(keys["CAM_FRONT_LEFT"].ego2global[:3, 3] - keys["LIDAR_TOP"].ego2global[:3, 3])
    before = next(c for c in record.captures if c.is_key_frame and c.keyframe == 0 and c.channel == "LIDAR_TOP")
    speed = np.linalg.norm(keys["LIDAR_TOP"].ego2global[:3, 3] - before.ego2global[:3, 3]) / 0.5
    assert moved == pytest.approx(0.0431 * speed, abs=0.08)


def test_point_counts_are_those_of_the_written_sweep_inside_the_box(scene):
    root, record = scene
    lidar = record.sensors[-1]
    for k, boxes in enumerate(record.annotations):
        key = next(c for c in record.captures if c.is_key_frame and c.keyframe == k and c.channel == "LIDAR_TOP")
        cloud = np.fromfile(root / key.filename, np.float32).reshape(-1, 5)[:, :3].astype(np.float64)
        points = transform(key.ego2global @ lidar.sensor2ego, cloud)
        counts = []
        for box in boxes:
            local = transform(invert(pose(box.translation, box.rotation)), points)
            counts.append(int((np.abs(local) <= box.size[[1, 0, 2]] / 2 + 1e-9).all(1).sum()))
        assert counts == [box.num_lidar_pts for box in boxes]
        assert sum(counts) > 100


def test_boxes_stay_within_seventy_metres_and_instances_keep_their_identity(scene):
    _, record = scene
    of_instance = {}
    for k, boxes in enumerate(record.annotations):
        key = next(c for c in record.captures if c.is_key_frame and c.keyframe == k and c.channel == "LIDAR_TOP")
        assert len({box.instance for box in boxes}) == len(boxes)
        for box in boxes:
            assert np.linalg.norm(box.translation[:2] - key.ego2global[:2, 3]) <= ANNOTATED_WITHIN + 1e-6
            same = of_instance.setdefault(box.instance, (box.category, *box.size))
            assert same == (box.category, *box.size)


def test_no_point_lies_on_the_car_that_carries_the_sensor(scene):
    root, record = scene
    for capture in record.captures:
        if capture.channel == "LIDAR_TOP":
            cloud = np.fromfile(root / capture.filename, np.float32).reshape(-1, 5)[:, :3].astype(np.float64)
            p = transform(record.sensors[-1].sensor2ego, cloud)
            on = (p[:, 0] > EGO_BACK) & (p[:, 0] < EGO_FRONT) & (np.abs(p[:, 1]) < EGO_HALF_WIDTH) & (p[:, 2] < 1.7)
            assert not on.any()


def test_the_ego_drives_on_the_drivable_mask_whose_first_row_is_the_largest_y(scene):
    _, record = scene
    rows = len(record.drivable)
    for capture in record.captures:
        x, y = capture.ego2global[:2, 3] / record.drivable_resolution
        assert record.drivable[rows - 1 - int(y), int(x)] == 255
    assert set(np.unique(record.drivable)) == {0, 255}


def test_lidar_points_of_an_object_lie_in_its_box_up_to_range_noise(worlds):
    found = 0
    for world in worlds[:2]:
        lidar = make_rig(LONG)[-1]
        snapshot = Stage(world.static, world.moving, world.ground).at(world.mover_poses(1.0))
        lidar2global = world.ego2global(1.0) @ lidar.sensor2ego
        rng = np.random.default_rng(0)
        cloud, instance = sweep(snapshot, lidar2global, lidar.sensor2ego, 1085, rng)
        points = transform(lidar2global, cloud[:, :3].astype(np.float64))
        for k in np.unique(instance[instance >= 0]):
            actor = world.cast.actors[k]
            local = transform(invert(actor.pose(1.0)), points[instance == k])
            beyond = np.maximum(np.abs(local - [0, 0, actor.size[2] / 2]) - actor.size / 2, 0)
            assert beyond.max() < 5 * 0.02, actor.name  # five sigma of the range noise
            found += len(local)
    assert found > 300


def test_all_ten_classes_come_close_over_a_few_seeds(worlds):
    near = set()
    for world in worlds:
        for time in (0.0, 4.5):
            ego = world.ego2global(time)[:2, 3]
            near |= {a.name for a in world.cast.actors if np.linalg.norm(a.track.at(time)[:2] - ego) < 50}
    assert near == set(CATEGORIES)


def test_a_key_frame_has_between_ten_and_sixty_objects_within_fifty_metres(worlds):
    for world in worlds:
        ego = world.ego2global(0.0)[:2, 3]
        assert 10 <= sum(np.linalg.norm(a.track.at(0.0)[:2] - ego) < 50 for a in world.cast.actors) <= 60


def test_sizes_stay_within_the_range_of_their_class_and_meshes_within_the_box(worlds):
    for actor in (actor for world in worlds for actor in world.cast.actors):
        low, high = np.array(SIZES[actor.name].low), np.array(SIZES[actor.name].high)
        if actor.rider:
            low[2], high[2] = RIDER_HEIGHT
        cab = actor.name == "truck" and not actor.parked  # a tractor in front of a trailer is as wide as the trailer
        assert cab or ((actor.size >= low - 1e-3) & (actor.size <= high + 1e-3)).all(), (actor.name, actor.size)
        reach = np.abs(actor.mesh.vertices[:, :2]).max(0)
        assert (reach <= actor.size[:2] / 2).all() and (reach > 0.95 * actor.size[:2] / 2).all()
        assert actor.mesh.vertices[:, 2].min() == pytest.approx(0, abs=1e-9)
        assert 0.95 * actor.size[2] < actor.mesh.vertices[:, 2].max() <= actor.size[2]


def test_objects_stand_on_the_ground(worlds):
    for world in worlds:
        for actor in world.cast.actors:
            for time in (0.0, 3.0):
                x, y, z, _ = actor.track.at(time)
                step = 0.2 if actor.track.moves else 0.0  # a walker may be at a kerb
                heights = world.ground.height(np.array([[x - step, y - step], [x, y], [x + step, y + step],
                                                        [x - step, y + step], [x + step, y - step]]))  # fmt: skip
                assert np.abs(heights - z).min() < 1e-9, actor.name


def test_vehicles_move_where_they_point_at_plausible_speed(worlds):
    moving = 0
    for world in worlds:
        for actor in world.cast.actors:
            if not actor.track.moves or actor.name == "pedestrian":
                continue
            for time in (1.0, 4.0, 8.0):
                a, b = actor.track.at(time - 0.05), actor.track.at(time + 0.05)
                step = b[:2] - a[:2]
                speed = np.linalg.norm(step) / 0.1
                assert speed < 14
                if speed > 1:
                    moving += 1
                    heading = np.array([np.cos(a[3]), np.sin(a[3])])
                    assert step @ heading / np.linalg.norm(step) > np.cos(np.deg2rad(25)), actor.name
    assert moving > 50


def test_attributes_follow_what_the_object_does(worlds):
    seen = Counter()
    for actor in (actor for world in worlds for actor in world.cast.actors):
        attribute, speed = actor.attribute(2.0), actor.track.speed(2.0)
        seen[attribute] += 1
        if attribute is None:
            assert actor.name in ("barrier", "traffic_cone")
        elif attribute.endswith(".moving"):
            assert speed > 0.3
        elif attribute.endswith((".parked", ".stopped", ".standing")):
            assert speed <= 0.3
    assert {"vehicle.moving", "vehicle.parked", "pedestrian.moving", "cycle.with_rider", "cycle.without_rider"} <= set(
        seen
    )


def test_nothing_touches_the_ego_at_any_time(worlds):
    for world in worlds:
        for time in np.arange(0, 9.5, 0.1):
            x, y, _, yaw = world.cast.ego.at(time)
            middle = np.array([x, y]) + EGO_MIDDLE * np.array([np.cos(yaw), np.sin(yaw)])
            body = corners(*middle, yaw, EGO_LENGTH, EGO_WIDTH)
            for actor in world.cast.actors:
                state = actor.track.at(time)
                if np.linalg.norm(state[:2] - middle) < 12:
                    assert not overlap(body, corners(state[0], state[1], state[3], *actor.size[:2])), (time, actor.name)


def test_the_ego_moves_in_most_scenes(worlds):
    speeds = [np.mean([world.cast.ego.speed(t) for t in np.arange(0, 9.5, 0.5)]) for world in worlds]
    assert np.median(speeds) > 3.5


def test_the_recorded_pose_is_the_track_with_a_slight_roll_and_pitch(worlds):
    ego2global = worlds[0].ego2global(2.0)
    x, y, z, yaw = worlds[0].cast.ego.at(2.0)
    assert ego2global[:3, 3] == pytest.approx([x, y, z])
    assert np.cos(yaw_of(ego2global) - yaw) == pytest.approx(1, abs=1e-3)
    assert ego2global[2, 2] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("share", "level"), [(0.0, 1), (0.39, 1), (0.4, 2), (0.6, 3), (0.79, 3), (0.8, 4), (1.0, 4)])
def test_visibility_levels_have_the_bounds_of_nuscenes(share, level):
    assert visibility_level(share) == level
