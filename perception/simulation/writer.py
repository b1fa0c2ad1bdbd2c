"""A nuScenes v1.0 data set from `SceneRecord`s: the 13 tables and the map masks (schema: nuScenes data format v1.0).

Tokens are MD5 sums of what they name, so the same scenes always give the same bytes, in any order and from any number
of processes.
"""

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from common.errors import DataError
from common.geometry import quaternion
from perception.simulation.records import AnnotationRecord, CaptureRecord, SceneRecord, SensorRecord

MAP_RESOLUTION = 0.1  # metres per pixel of every mask; the devkit's native resolution
MAP_MARGIN = (
    60.0  # metres of map kept above and right of the ego, as the devkit's ego-centric crop needs (40 m * sqrt 2)
)

CATEGORIES = {
    "animal": "Any animal, wild or kept.",
    "human.pedestrian.adult": "A grown person on foot.",
    "human.pedestrian.child": "A child on foot.",
    "human.pedestrian.construction_worker": "A person at work on a building or road site.",
    "human.pedestrian.personal_mobility": "A person on a skateboard, scooter or similar small device.",
    "human.pedestrian.police_officer": "A police officer on foot, also one directing traffic.",
    "human.pedestrian.stroller": "A pushed stroller; the person pushing has a box of their own.",
    "human.pedestrian.wheelchair": "A wheelchair with the person in it.",
    "movable_object.barrier": "A temporary barrier put up to redirect traffic.",
    "movable_object.debris": "Things lying on the drivable surface, too large to drive over.",
    "movable_object.pushable_pullable": "Things a person moves by hand, such as bins and carts.",
    "movable_object.trafficcone": "A traffic cone.",
    "static_object.bicycle_rack": "The area or device made to park bicycles in.",
    "vehicle.bicycle": "A bicycle, with its rider if there is one.",
    "vehicle.bus.bendy": "One section of an articulated bus.",
    "vehicle.bus.rigid": "A bus without a joint.",
    "vehicle.car": "A sedan, hatchback, estate, van, SUV or similar personal vehicle.",
    "vehicle.construction": "A vehicle built for construction work, such as an excavator or a mixer.",
    "vehicle.emergency.ambulance": "An ambulance.",
    "vehicle.emergency.police": "A police vehicle, motorcycles included.",
    "vehicle.motorcycle": "A motorcycle or motor scooter, with its rider if there is one.",
    "vehicle.trailer": "A trailer of a truck, car or motorcycle, also a parked one.",
    "vehicle.truck": "A vehicle built to carry cargo, pick-ups and lorries included.",
}
ATTRIBUTES = {
    "vehicle.moving": "The vehicle is moving.",
    "vehicle.stopped": "The vehicle stands and means to go on.",
    "vehicle.parked": "The vehicle stands and means to stay.",
    "cycle.with_rider": "Somebody sits on the cycle.",
    "cycle.without_rider": "Nobody sits on the cycle.",
    "pedestrian.sitting_lying_down": "The person sits or lies.",
    "pedestrian.standing": "The person stands.",
    "pedestrian.moving": "The person moves.",
}
VISIBILITY = {1: "v0-40", 2: "v40-60", 3: "v60-80", 4: "v80-100"}
FILE_FORMATS = {"camera": "jpg", "lidar": "pcd"}


def token(kind: str, name: str) -> str:
    """32 hexadecimal digits, the MD5 sum of "kind/name"."""
    return hashlib.md5(f"{kind}/{name}".encode()).hexdigest()


def scene_to_dict(scene: SceneRecord) -> dict:
    """The record as plain JSON data, all but the drivable mask; floats survive the round trip bit by bit."""

    def plain(record):
        return {k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in vars(record).items()}

    return {
        "name": scene.name,
        "description": scene.description,
        "location": scene.location,
        "sensors": [plain(s) for s in scene.sensors],
        "captures": [plain(c) for c in scene.captures],
        "keyframe_times": [int(t) for t in scene.keyframe_times],
        "annotations": [[plain(a) for a in frame] for frame in scene.annotations],
        "drivable_resolution": float(scene.drivable_resolution),
    }


def scene_from_dict(data: dict, drivable: np.ndarray) -> SceneRecord:
    """Inverse of `scene_to_dict`."""

    def arrays(record, *keys):
        return {k: np.asarray(v, np.float64) if k in keys and v is not None else v for k, v in record.items()}

    return SceneRecord(
        **{k: data[k] for k in ("name", "description", "location", "keyframe_times", "drivable_resolution")},
        sensors=[SensorRecord(**arrays(s, "sensor2ego", "cam2img")) for s in data["sensors"]],
        captures=[CaptureRecord(**arrays(c, "ego2global")) for c in data["captures"]],
        annotations=[
            [AnnotationRecord(**arrays(a, "translation", "size", "rotation")) for a in frame]
            for frame in data["annotations"]
        ],
        drivable=drivable,
    )


def write_tables(root: str | Path, scenes: list[SceneRecord], version: str) -> Path:
    """Write ROOT/VERSION/*.json (13 tables) and ROOT/maps/*.png; the scenes' sensor files must lie under ROOT already.

    The mask of a scene holds 255 where `drivable` is non-zero; `drivable` (rows, columns) is laid out as
    nuScenes' masks: the last row begins at y = 0, the first column at x = 0 of the global frame.
    Replaces an older ROOT/VERSION once everything is written.

    Returns: the folder ROOT/VERSION.
    Raises: ValueError for a record that contradicts itself, DataError for a sensor file that is not there.
    """
    root = Path(root)
    if not scenes:
        raise ValueError("no scenes to write: give at least one SceneRecord")
    names = [scene.name for scene in scenes]
    if len(set(names)) < len(names):
        raise ValueError(f"scene names must differ, got {names}")
    for scene in scenes:
        _check(root, scene)
    starts = [scene.keyframe_times[0] for scene in scenes]
    if len(set(starts)) < len(starts):
        raise ValueError(f"scenes {names} start at {starts}: they must differ, the devkit sorts by them")

    tables = _fixed_tables(scenes)
    maps = {}  # mask file -> tokens of the logs driven on it
    for scene in sorted(scenes, key=lambda s: s.name):
        log_token = _add_scene(tables, scene)
        maps.setdefault(_write_mask(root, scene), []).append(log_token)
    tables["map"] = [
        {"category": "semantic_prior", "token": token("map", name), "filename": name, "log_tokens": logs}
        for name, logs in maps.items()
    ]

    folder, fresh = root / version, root / f".{version}.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, rows in tables.items():
        text = ",\n".join(json.dumps(row) for row in rows)
        (fresh / f"{name}.json").write_text(f"[\n{text}\n]\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)
    return folder


def _check(root: Path, scene: SceneRecord):
    where = f"scene {scene.name}"
    channels = [s.channel for s in scene.sensors]
    frames = len(scene.keyframe_times)
    if frames == 0 or len(scene.annotations) != frames:
        raise ValueError(f"{where}: {frames} key frame times and {len(scene.annotations)} annotation lists")
    if any(b <= a for a, b in pairwise(scene.keyframe_times)):
        raise ValueError(f"{where}: key frame times must grow, got {scene.keyframe_times}")
    for sensor in scene.sensors:
        if sensor.modality not in FILE_FORMATS:
            raise ValueError(f"{where}: {sensor.channel} has modality {sensor.modality!r}, known: {list(FILE_FORMATS)}")
        if (sensor.cam2img is None) == (sensor.modality == "camera"):
            raise ValueError(f"{where}: {sensor.channel}: cameras need cam2img (3, 3), other sensors None")
    keys = sorted((c.keyframe, c.channel) for c in scene.captures if c.is_key_frame)
    if keys != sorted((t, c) for t in range(frames) for c in channels):
        raise ValueError(f"{where}: each of the {len(channels)} sensors needs exactly one key capture per key frame")
    for capture in scene.captures:
        if capture.channel not in channels or not 0 <= capture.keyframe < frames:
            raise ValueError(f"{where}: {capture.filename} names no sensor or key frame of the scene")
        file = root / capture.filename
        if not file.is_file() or file.stat().st_size == 0:
            raise DataError(f"{file} is missing or empty: simulate {scene.name} again")
    categories = {}
    for a in (a for frame in scene.annotations for a in frame):
        if a.category not in CATEGORIES:
            raise ValueError(f"{where}: unknown category {a.category!r}; nuScenes has {', '.join(CATEGORIES)}")
        if a.attribute is not None and a.attribute not in ATTRIBUTES:
            raise ValueError(f"{where}: unknown attribute {a.attribute!r}; nuScenes has {', '.join(ATTRIBUTES)}")
        if a.visibility not in VISIBILITY:
            raise ValueError(f"{where}: visibility {a.visibility!r} of instance {a.instance}; give 1, 2, 3 or 4")
        if categories.setdefault(a.instance, a.category) != a.category:
            raise ValueError(f"{where}: instance {a.instance} is {categories[a.instance]} and later {a.category}")


def _fixed_tables(scenes: list[SceneRecord]) -> dict[str, list[dict]]:
    """The tables of names, and empty lists for the others, in the order of the schema."""
    sensors = {s.channel: s.modality for scene in scenes for s in scene.sensors}
    percent = {1: (0, 40), 2: (40, 60), 3: (60, 80), 4: (80, 100)}
    return {
        "category": [{"token": token("category", n), "name": n, "description": d} for n, d in CATEGORIES.items()],
        "attribute": [{"token": token("attribute", n), "name": n, "description": d} for n, d in ATTRIBUTES.items()],
        "visibility": [
            {
                "token": str(k),
                "level": level,
                "description": "visibility of whole object is between {} and {}%".format(*percent[k]),
            }
            for k, level in VISIBILITY.items()
        ],
        "instance": [],
        "sensor": [{"token": token("sensor", c), "channel": c, "modality": m} for c, m in sorted(sensors.items())],
        "calibrated_sensor": [],
        "ego_pose": [],
        "log": [],
        "scene": [],
        "sample": [],
        "sample_data": [],
        "sample_annotation": [],
        "map": [],
    }


def _chain(rows: list[dict]) -> list[dict]:
    """Link rows, given in time order, through `prev` and `next`; the ends hold the empty string."""
    for row in rows:
        row["prev"] = row["next"] = ""
    for a, b in pairwise(rows):
        a["next"], b["prev"] = b["token"], a["token"]
    return rows


def _floats(array) -> list:
    return np.asarray(array, np.float64).tolist()


def _add_scene(tables: dict[str, list[dict]], scene: SceneRecord) -> str:
    """Append the rows of one scene. Returns: the token of its log."""
    digest = hashlib.md5(json.dumps(scene_to_dict(scene)).encode()).hexdigest()
    key = f"{scene.name}/{digest}"  # other content, other tokens: data sets of two seeds can never be mixed up
    start = datetime.fromtimestamp(scene.keyframe_times[0] * 1e-6, UTC)
    log = {
        "token": token("log", key),
        "logfile": f"simulation-{start:%Y-%m-%d-%H-%M-%S}-{scene.name}",
        "vehicle": "simulation",
        "date_captured": f"{start:%Y-%m-%d}",
        "location": scene.location,
    }
    tables["log"].append(log)

    scene_token = token("scene", key)
    samples = _chain(
        [
            {"token": token("sample", f"{key}/{t}"), "timestamp": int(time), "scene_token": scene_token}
            for t, time in enumerate(scene.keyframe_times)
        ]
    )
    tables["sample"] += samples
    tables["scene"].append(
        {
            "token": scene_token,
            "log_token": log["token"],
            "nbr_samples": len(samples),
            "first_sample_token": samples[0]["token"],
            "last_sample_token": samples[-1]["token"],
            "name": scene.name,
            "description": scene.description,
        }
    )
    for sensor in scene.sensors:
        tables["calibrated_sensor"].append(
            {
                "token": token("calibrated_sensor", f"{key}/{sensor.channel}"),
                "sensor_token": token("sensor", sensor.channel),
                "translation": _floats(sensor.sensor2ego[:3, 3]),
                "rotation": _floats(quaternion(sensor.sensor2ego[:3, :3])),
                "camera_intrinsic": [] if sensor.cam2img is None else _floats(sensor.cam2img),
            }
        )
        captures = sorted((c for c in scene.captures if c.channel == sensor.channel), key=lambda c: c.timestamp)
        rows = [_sample_data(key, sensor, capture, samples) for capture in captures]
        tables["sample_data"] += _chain(rows)
        tables["ego_pose"] += [
            {
                "token": row["ego_pose_token"],
                "timestamp": row["timestamp"],
                "rotation": _floats(quaternion(capture.ego2global[:3, :3])),
                "translation": _floats(capture.ego2global[:3, 3]),
            }
            for row, capture in zip(rows, captures, strict=True)
        ]
    _add_annotations(tables, scene, key, samples)
    return log["token"]


def _sample_data(key: str, sensor: SensorRecord, capture: CaptureRecord, samples: list[dict]) -> dict:
    name = token("sample_data", f"{key}/{capture.filename}")
    return {
        "token": name,
        "sample_token": samples[capture.keyframe]["token"],
        "ego_pose_token": name,  # one pose per capture, under the capture's own token, as in the real set
        "calibrated_sensor_token": token("calibrated_sensor", f"{key}/{sensor.channel}"),
        "timestamp": int(capture.timestamp),
        "fileformat": FILE_FORMATS[sensor.modality],
        "is_key_frame": bool(capture.is_key_frame),
        "height": int(sensor.height),
        "width": int(sensor.width),
        "filename": capture.filename,
    }


def _add_annotations(tables: dict[str, list[dict]], scene: SceneRecord, key: str, samples: list[dict]):
    tracks: dict[int, list[dict]] = {}
    category = {}
    for sample, frame in zip(samples, scene.annotations, strict=True):
        for a in frame:
            category[a.instance] = a.category
            row = {
                "token": token("sample_annotation", f"{sample['token']}/{a.instance}"),
                "sample_token": sample["token"],
                "instance_token": token("instance", f"{key}/{a.instance}"),
                "visibility_token": str(a.visibility),
                "attribute_tokens": [] if a.attribute is None else [token("attribute", a.attribute)],
                "translation": _floats(a.translation),
                "size": _floats(a.size),
                "rotation": _floats(a.rotation),
                "num_lidar_pts": int(a.num_lidar_pts),
                "num_radar_pts": 0,
            }
            tracks.setdefault(a.instance, []).append(row)
            tables["sample_annotation"].append(row)
    for instance, track in tracks.items():
        if len({row["sample_token"] for row in track}) < len(track):
            raise ValueError(f"scene {scene.name}: instance {instance} has two boxes in one key frame")
        _chain(track)
        tables["instance"].append(
            {
                "token": track[0]["instance_token"],
                "category_token": token("category", category[instance]),
                "nbr_annotations": len(track),
                "first_annotation_token": track[0]["token"],
                "last_annotation_token": track[-1]["token"],
            }
        )


def drivable_mask(scene: SceneRecord) -> np.ndarray:
    """Map image (rows, columns) uint8 in {0, 255} at 0.1 m; row 0 is the highest y, as the devkit's MapMask reads it.

    Grown with background so that it reaches MAP_MARGIN above and right of every ego position.
    """
    mask = np.where(np.asarray(scene.drivable) > 0, 255, 0).astype(np.uint8)
    factor = scene.drivable_resolution / MAP_RESOLUTION
    if factor != 1:
        size = [max(1, round(n * factor)) for n in mask.shape[::-1]]
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    reach = np.max([c.ego2global[:2, 3] for c in scene.captures], axis=0) + MAP_MARGIN
    columns, rows = np.ceil(reach / MAP_RESOLUTION).astype(int)
    return np.pad(mask, ((max(0, rows - mask.shape[0]), 0), (0, max(0, columns - mask.shape[1]))))


def _write_mask(root: Path, scene: SceneRecord) -> str:
    """Write the scene's mask under the MD5 sum of its bytes. Returns: the file name relative to the root."""
    _, png = cv2.imencode(".png", drivable_mask(scene))
    name = f"maps/{hashlib.md5(png.tobytes()).hexdigest()}.png"
    (root / "maps").mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(png.tobytes())
    return name
