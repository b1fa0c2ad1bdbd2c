"""A small nuScenes root with known geometry: three scenes, six cameras, ten classes, a moving car, a turning ego."""

import shutil

import cv2
import numpy as np
import pytest

from common.geometry import quaternion, yaw_pose
from perception.datasets import TASK_CLASSES
from perception.datasets.converter import CAMERAS, LIDAR, create_infos
from perception.datasets.keyframe import CATEGORY
from perception.simulation.records import AnnotationRecord, CaptureRecord, SceneRecord, SensorRecord
from perception.simulation.writer import write_tables

FRAMES, STEP = 5, 500_000
SIZE = (99, 176)  # height, width of the files
SPEED = 6.0
BOX_SIZES = {  # l, w, h
    "car": (4.5, 1.9, 1.6), "truck": (8, 2.5, 3), "construction_vehicle": (6, 2.8, 3), "bus": (11, 2.9, 3.4),
    "trailer": (10, 2.8, 3.5), "barrier": (0.5, 2.5, 1), "motorcycle": (2.1, 0.8, 1.4), "bicycle": (1.7, 0.6, 1.3),
    "pedestrian": (0.7, 0.7, 1.75), "traffic_cone": (0.4, 0.4, 1),
}  # fmt: skip
STATIC_ATTRIBUTE = {
    "car": "vehicle.parked", "truck": "vehicle.parked", "construction_vehicle": "vehicle.parked",
    "bus": "vehicle.stopped", "trailer": "vehicle.parked", "motorcycle": "cycle.without_rider",
    "bicycle": "cycle.without_rider", "pedestrian": "pedestrian.standing",
}  # fmt: skip


def ego_at(time: float) -> np.ndarray:
    """The ego drives 4 m/s and turns."""
    return yaw_pose(300 + 4 * time, 500 + 0.5 * time**2, 0.0, 0.3 + 0.2 * time)


def _annotations(frame: int, empty: bool) -> list[AnnotationRecord]:
    if empty:
        return []
    out = []
    for k, (name, (length, width, height)) in enumerate(BOX_SIZES.items()):
        angle = 2 * np.pi * k / len(BOX_SIZES) + 0.2
        heading = angle + 0.7
        center = np.array([304 + 15 * np.cos(angle), 501 + 15 * np.sin(angle), height / 2])
        out.append((k, CATEGORY[name], STATIC_ATTRIBUTE.get(name), center, (width, length, height), heading, 9))
    travel = SPEED * frame * STEP * 1e-6
    moving = np.array([290 + travel * np.cos(0.4), 490 + travel * np.sin(0.4), 0.8])
    out.append((20, "vehicle.car", "vehicle.moving", moving, (1.9, 4.5, 1.6), 0.4, 30))
    if frame < 3:  # leaves the annotation
        leaving = np.array([310.0, 490.0, 0.8])
        out.append((21, "vehicle.car", "vehicle.parked", leaving, (1.9, 4.5, 1.6), 1.0, 12))
    hidden = np.array([320.0, 510.0, 0.8])
    out.append((22, "vehicle.car", "vehicle.parked", hidden, (1.9, 4.5, 1.6), 2.0, 0))  # no point at all
    out.append((23, "movable_object.debris", None, np.array([306.0, 505.0, 0.3]), (0.5, 0.5, 0.5), 0.0, 4))
    return [
        AnnotationRecord(i, cat, att, c, np.array(s), quaternion(yaw_pose(0, 0, 0, yaw)[:3, :3]), 4, points)
        for i, cat, att, c, s, yaw, points in out
    ]


def _cameras() -> list[SensorRecord]:
    view = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # looks along +x of the ego
    sensors = []
    for name, yaw in zip(CAMERAS, np.radians([0, -55, 55, 180, 110, -110]), strict=True):
        cam2ego = yaw_pose(1.5 * np.cos(yaw), 0.5 * np.sin(yaw), 1.5, yaw)
        cam2ego[:3, :3] = cam2ego[:3, :3] @ view
        cam2img = np.array([[140.0, 0, 88.5], [0, 139, 50.2], [0, 0, 1]])
        sensors.append(SensorRecord(name, "camera", cam2ego, cam2img, SIZE[1], SIZE[0]))
    return sensors


def _scene(root, name: str, begin: int, empty_frames) -> SceneRecord:
    rng = np.random.default_rng(begin // 1_000_000)
    sensors = [SensorRecord(LIDAR, "lidar", yaw_pose(0.9, 0.0, 1.84, -np.pi / 2)), *_cameras()]
    captures, times = [], [begin + STEP * t for t in range(FRAMES)]
    for t, time in enumerate(times):
        for k, sensor in enumerate(sensors):
            stamp = time - 7000 * k
            extension = "pcd.bin" if sensor.channel == LIDAR else "jpg"
            path = f"samples/{sensor.channel}/{name}__{sensor.channel}__{stamp}.{extension}"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if sensor.channel == LIDAR:
                directions = rng.normal(size=(3000, 3)) * [1, 1, 0.1]
                points = directions / np.linalg.norm(directions, axis=1)[:, None] * rng.uniform(2, 70, (3000, 1))
                sweep = np.concatenate([points, rng.uniform(0, 255, (3000, 1)), np.zeros((3000, 1))], 1)
                sweep.astype(np.float32).tofile(root / path)
            else:
                small = rng.integers(0, 255, (7, 11, 3), np.uint8)
                cv2.imwrite(str(root / path), cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_CUBIC))
            captures.append(CaptureRecord(sensor.channel, path, stamp, ego_at((stamp - begin) * 1e-6), t, True))
    annotations = [_annotations(t, t in empty_frames) for t in range(FRAMES)]
    return SceneRecord(name, "synthetic", "singapore-onenorth", sensors, captures, times, annotations)


@pytest.fixture(scope="session")
def make_root(tmp_path_factory):
    """A root with infos of a version, from scene names and the frames of each that have no boxes."""

    def make(version: str, scenes: dict[str, set[int]]):
        root = tmp_path_factory.mktemp("small_nuscenes")
        begin = 1_532_402_927_000_000
        records = [_scene(root, name, begin + 60_000_000 * k, empty) for k, (name, empty) in enumerate(scenes.items())]
        write_tables(root, records, version)
        create_infos(root, version)
        return root

    return make


@pytest.fixture(scope="session")
def small_root(make_root):
    """v1.0-mini: scene-0061 (its frame 3 is empty) and scene-0553 to train, scene-0103 to validate."""
    return make_root("v1.0-mini", {"scene-0061": {3}, "scene-0553": set(), "scene-0103": set()})


@pytest.fixture
def own_root(small_root, tmp_path):
    """A copy that the test may damage."""
    return shutil.copytree(small_root, tmp_path / "root")


@pytest.fixture(scope="session")
def make_dataset():
    """NuScenesSequenceDataset of a root and split (or info file), with the arguments that a test gives."""
    from perception.datasets import NuScenesSequenceDataset

    def make(root, split="train", **kwargs):
        kwargs.setdefault("metainfo", {"classes": TASK_CLASSES})
        kwargs.setdefault("trajectory_frames", 3)
        file = split if split.endswith(".pkl") else f"tutelage_infos_{split}.pkl"
        return NuScenesSequenceDataset(str(root), file, **kwargs)

    return make
