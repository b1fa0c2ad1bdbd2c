"""Completion data from nuScenes: the LIDAR_TOP sweeps of a scene, put together without what moves.

The devkit's `from_file_multisweep` walks backwards only and its `remove_close` cuts a square; ego poses know no height,
so scenes are put together over a window of travelled path around a key frame and not as a whole.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyquaternion import Quaternion

from common.errors import DataError
from common.geometry import invert, transform
from perception.completion.cells import BITS, keys

OWN_CAR = (1.5, 2.5)  # m to the sides and ahead of the sensor, whose y axis points ahead
TRAVELS = 0.5  # m: an instance that travels farther moves
ENLARGED = (1.1, 0.2)  # factor and m of a moving box
WINDOW = 40.0  # m of path before and after the key frame
CELL, LEAST = 0.1, 2  # m of the grid; sweeps that must have met a cell, or it is a ghost
AHEAD = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # LIDAR_TOP's axes to x ahead, y left


@dataclass(frozen=True)
class Sweep:
    """Static points (P, 3) in the sensor's frame, sensor2global (4, 4), and whether it belongs to a key frame."""

    token: str
    points: np.ndarray
    sensor2global: np.ndarray
    key: bool


def sweeps_of(nusc, scene: dict) -> list[dict]:
    """All LIDAR_TOP records of a scene in time, between key frames too."""
    first = nusc.get("sample", scene["first_sample_token"])["data"]["LIDAR_TOP"]
    record = nusc.get("sample_data", first)
    while record["prev"]:
        record = nusc.get("sample_data", record["prev"])
    found = [record]
    while record["next"]:
        record = nusc.get("sample_data", record["next"])
        found.append(record)
    return found


def moving_instances(nusc, scene: dict) -> set[str]:
    """Instances of a scene that travel, or that an attribute calls moving or ridden."""
    places: dict[str, list] = {}
    moving: set[str] = set()
    token = scene["first_sample_token"]
    while token:
        sample = nusc.get("sample", token)
        for annotation in (nusc.get("sample_annotation", one) for one in sample["anns"]):
            instance = annotation["instance_token"]
            places.setdefault(instance, []).append(annotation["translation"])
            names = (nusc.get("attribute", one)["name"] for one in annotation["attribute_tokens"])
            if any(name.endswith((".moving", ".with_rider")) for name in names):
                moving.add(instance)
        token = sample["next"]
    for instance, path in places.items():
        path = np.array(path)
        if np.linalg.norm(path - path[0], axis=1).max() > TRAVELS:
            moving.add(instance)
    return moving


def pose(record: dict) -> np.ndarray:
    """(4, 4) of a record with rotation and translation."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Quaternion(record["rotation"]).rotation_matrix, record["translation"]
    return matrix


def outside(points: np.ndarray, boxes: Iterable) -> np.ndarray:
    """(P,) bool: in none of the boxes (the devkit's `Box`, in the points' frame), somewhat enlarged."""
    kept = np.ones(len(points), bool)
    for box in boxes:
        width, length, height = box.wlh
        local = (points - box.center) @ box.orientation.rotation_matrix
        half = (np.array([length, width, height]) * ENLARGED[0] + ENLARGED[1]) / 2
        kept &= (np.abs(local) > half).any(1)
    return kept


def read_points(path: Path, reach: float) -> np.ndarray:
    """(P, 3) of a sweep's file, without the car's own and those beyond reach. Raises: DataError."""
    if not path.is_file():
        raise DataError(f"{path} is missing: completion needs the sweeps between key frames too")
    size = path.stat().st_size
    if not size or size % 20:
        raise DataError(f"{path}: {size} bytes are no whole number of points of 20 bytes: the file is cut short")
    points = np.fromfile(path, np.float32).reshape(-1, 5)[:, :3]
    own = (np.abs(points[:, 0]) < OWN_CAR[0]) & (np.abs(points[:, 1]) < OWN_CAR[1])
    return points[~own & (np.linalg.norm(points, axis=1) < reach)]


def read_sweep(nusc, record: dict, moving: set[str], reach: float) -> Sweep:
    """A sweep's static points, by its own pose, calibration and interpolated boxes."""
    points = read_points(Path(nusc.dataroot) / record["filename"], reach)
    ego2global = pose(nusc.get("ego_pose", record["ego_pose_token"]))
    sensor2global = ego2global @ pose(nusc.get("calibrated_sensor", record["calibrated_sensor_token"]))
    boxes = [
        box
        for box in nusc.get_boxes(record["token"])
        if nusc.get("sample_annotation", box.token)["instance_token"] in moving
    ]
    kept = outside(transform(sensor2global, points.astype(np.float64)), boxes)
    return Sweep(record["token"], points[kept], sensor2global, record["is_key_frame"])


def scene_sweeps(nusc, scene: dict, reach: float) -> list[Sweep]:
    """All sweeps of a scene, moving objects taken out."""
    moving = moving_instances(nusc, scene)
    return [read_sweep(nusc, record, moving, reach) for record in sweeps_of(nusc, scene)]


def travelled(sweeps: list[Sweep]) -> np.ndarray:
    """(S,) metres of path until each sweep."""
    places = np.array([one.sensor2global[:3, 3] for one in sweeps])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def common_cells(clouds: list[np.ndarray], cell: float = CELL, least: int = LEAST) -> np.ndarray:
    """(M, 3): a point of every cell that at least so many of the clouds have met (all, where there are fewer)."""
    if not any(map(len, clouds)):
        raise DataError("none of the sweeps has a point that stands still within reach")
    origin = np.min([one.min(0) for one in clouds if len(one)], axis=0)
    cells, points = [], []
    for one in clouds:
        place = np.floor((one - origin) / cell).astype(np.int64)
        if len(place) and place.max() >> BITS:
            raise DataError("the sweeps lie more than a hundred kilometres apart: are the poses in metres?")
        found, first = np.unique(keys(place), return_index=True)
        cells.append(found)
        points.append(one[first])
    _, first, counts = np.unique(np.concatenate(cells), return_index=True, return_counts=True)
    return np.concatenate(points)[first[counts >= min(least, len(clouds))]]


def sample(sweeps: list[Sweep], index: int, reach: float, window: float = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """Scan (P, 3) of key frame sweeps[index] and the scene (M, 3) around it, x ahead, float32.

    Raises: DataError where the sweep is no key frame's.
    """
    here = sweeps[index]
    if not here.key:
        raise DataError(f"sweep {here.token} lies between key frames: samples are key frames")
    path = travelled(sweeps)
    near = np.flatnonzero(np.abs(path - path[index]) <= window)
    global2sensor = invert(here.sensor2global)
    clouds = [transform(global2sensor @ sweeps[i].sensor2global, sweeps[i].points.astype(np.float64)) for i in near]
    scene = common_cells([one[np.linalg.norm(one, axis=1) < reach] for one in clouds])
    return (here.points @ AHEAD.T).astype(np.float32), (scene @ AHEAD.T).astype(np.float32)
