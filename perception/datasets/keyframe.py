"""A nuScenes root around one real key frame that comes as six images, one sweep and an mmdet3d v2 info file."""

import shutil
from pathlib import Path

import cv2
import numpy as np

from common.errors import DataError
from common.geometry import pose, quaternion, transform, wrap_angle, yaw_pose
from perception.simulation.records import AnnotationRecord, CaptureRecord, SceneRecord, SensorRecord
from perception.simulation.writer import write_tables

from .converter import ATTRIBUTES, CAMERAS, LIDAR
from .infos import OFFICIAL_CLASSES, load_infos

CATEGORY = {
    "car": "vehicle.car", "truck": "vehicle.truck", "trailer": "vehicle.trailer", "bus": "vehicle.bus.rigid",
    "construction_vehicle": "vehicle.construction", "bicycle": "vehicle.bicycle", "motorcycle": "vehicle.motorcycle",
    "pedestrian": "human.pedestrian.adult", "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}  # fmt: skip
OTHER = "movable_object.pushable_pullable"  # a box that is none of the ten classes; the info file does not say more


def keyframe_root(source_dir, out_dir, scenes=("scene-0061", "scene-0103"), version: str = "v1.0-mini") -> Path:
    """Write the 13 tables of `version` and the sensor files of the one key frame under `out_dir`.

    Every name in `scenes` becomes a scene of one key frame with the same files; the defaults belong to the devkit's
    mini_train and mini_val, so one can fit the frame and evaluate on it. A lone key frame has no neighbours, so the
    devkit knows no velocity (NaN, mAVE 1).

    Returns: `out_dir`. Raises: DataError if `source_dir` does not hold the frame.
    """
    source_dir, out_dir = Path(source_dir), Path(out_dir)
    info = keyframe_info(source_dir)
    files = {LIDAR: info["lidar_points"]["lidar_path"]}
    files |= {camera: info["images"][camera]["img_path"] for camera in CAMERAS}
    for channel, name in files.items():
        target = out_dir / "samples" / channel / name
        if not (source_dir / name).is_file():
            raise DataError(f"{source_dir / name} is missing: restore the key frame's folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source_dir / name, target)
    records = [_scene(info, out_dir, files, name, shift) for shift, name in enumerate(scenes)]
    write_tables(out_dir, records, version)
    return out_dir


def keyframe_info(source_dir) -> dict:
    """The one sample of the folder's info file. Raises: DataError if there is not exactly one file with one sample."""
    paths = sorted(Path(source_dir).glob("*.pkl"))
    if len(paths) != 1:
        raise DataError(f"{source_dir} holds {len(paths)} info files (*.pkl), one is needed")
    data_list = load_infos(paths[0])["data_list"]
    if len(data_list) != 1:
        raise DataError(f"{paths[0]} holds {len(data_list)} samples, one key frame is needed")
    return data_list[0]


def _scene(info: dict, root: Path, files: dict, name: str, shift: int) -> SceneRecord:
    lidar2ego, ego2global = _rigid(info["lidar_points"]["lidar2ego"]), _rigid(info["ego2global"])
    lidar2global = ego2global @ lidar2ego
    time = round(info["timestamp"] * 1e6) + shift
    sensors = [SensorRecord(LIDAR, "lidar", lidar2ego)]
    captures = [CaptureRecord(LIDAR, f"samples/{LIDAR}/{files[LIDAR]}", time, ego2global, 0, True)]
    for camera in CAMERAS:
        image = info["images"][camera]
        cam2ego = _rigid(image["cam2ego"])
        # lidar2cam holds the ego's motion between the two exposures: the camera's own ego pose follows from it
        cam2global = lidar2global @ np.linalg.inv(_rigid(image["lidar2cam"]))
        path = f"samples/{camera}/{files[camera]}"
        height, width = cv2.imread(str(root / path)).shape[:2]
        sensors.append(SensorRecord(camera, "camera", cam2ego, np.array(image["cam2img"]), width, height))
        captures.append(
            CaptureRecord(
                camera, path, round(image["timestamp"] * 1e6) + shift, cam2global @ np.linalg.inv(cam2ego), 0, True
            )
        )
    attributes = _attributes(info)
    annotations = [
        _annotation(k, instance, attributes.get(k), lidar2global) for k, instance in enumerate(info["instances"])
    ]
    return SceneRecord(
        name=name,
        description="One real key frame of nuScenes v1.0-mini.",
        location="singapore-onenorth",
        sensors=sensors,
        captures=captures,
        keyframe_times=[time],
        annotations=[annotations],
        drivable=np.ones((1, 1), np.uint8),
    )


def _rigid(matrix) -> np.ndarray:
    """A float32-rounded pose as float64 with an exactly orthonormal rotation."""
    matrix = np.array(matrix, np.float64)
    return pose(matrix[:3, 3], quaternion(matrix[:3, :3]))


def _annotation(number: int, instance: dict, attribute: str | None, lidar2global: np.ndarray) -> AnnotationRecord:
    x, y, z, length, width, height, yaw = instance["bbox_3d"][:7]
    label = instance["bbox_label_3d"]
    name = OFFICIAL_CLASSES[label] if label >= 0 else None
    return AnnotationRecord(
        instance=number,
        category=CATEGORY[name] if name else OTHER,
        attribute=attribute,
        translation=transform(lidar2global, np.array([x, y, z])),
        size=np.array([width, length, height]),
        rotation=quaternion(yaw_pose(0, 0, 0, upright_yaw(lidar2global, yaw))[:3, :3]),
        visibility=4,
        num_lidar_pts=int(instance["num_lidar_pts"]) + int(instance["num_radar_pts"]),
    )


def upright_yaw(lidar2global: np.ndarray, yaw: float) -> float:
    """Global yaw of an upright box whose yaw in the (tilted) `lidar` frame is `yaw`.

    The official converter reads atan2(-R01, R00) of the box's rotation in the `lidar` frame, which the tilt makes
    differ from the heading by up to its square; fixed-point steps invert it to rounding.
    """
    global2lidar = lidar2global[:3, :3].T
    turned = yaw
    for _ in range(4):
        rotation = global2lidar @ yaw_pose(0, 0, 0, turned)[:3, :3]
        turned += wrap_angle(yaw - np.arctan2(-rotation[0, 1], rotation[0, 0]))
    return float(wrap_angle(turned))


def _attributes(info: dict) -> dict[int, str]:
    """{instance row: attribute}, read from the monocular records by the centres' places in the camera frame."""
    centers = np.array([instance["bbox_3d"][:3] for instance in info["instances"]], np.float64)
    attributes = {}
    for camera, records in info.get("cam_instances", {}).items():
        in_camera = transform(np.array(info["images"][camera]["lidar2cam"], np.float64), centers)
        for record in records:
            distance = np.linalg.norm(in_camera - record["bbox_3d"][:3], axis=1)
            name = ATTRIBUTES[record["attr_label"]]
            if distance.min() < 0.01 and name != "None":
                attributes[int(distance.argmin())] = name
    return attributes
