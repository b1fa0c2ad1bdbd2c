"""Info files: reading them safely and telling which convention they follow (docs/conventions.md, "Info files").

An info file is a pickle, and pickles can run code. `load_infos` therefore builds nothing but plain containers, numbers,
strings and numpy arrays, and refuses every other class by name.
"""

import importlib
import pickle
import struct
from pathlib import Path

import numpy as np

from common.errors import ConfigError, DataError
from common.geometry import wrap_angle

INFO_FORMAT = "tutelage-1"
OFFICIAL_CLASSES = (
    "car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian", "traffic_cone",
    "barrier",
)  # fmt: skip
TASK_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
)  # fmt: skip
VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
CONVERT = "python -m perception.datasets.converter DATA_ROOT --version {version}"

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class _InfoUnpickler(pickle.Unpickler):
    def __init__(self, file, path):
        super().__init__(file)
        self.path = path

    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise DataError(
                f"{self.path} contains the class {module}.{name}, which an info file never holds; it was not built. "
                f"Do not trust this file: make your own with `{CONVERT.format(version='VERSION')}`"
            )
        if module.startswith("numpy._core") and not hasattr(np, "_core"):  # written by numpy 2, read by numpy 1
            module = module.replace("numpy._core", "numpy.core", 1)
        return getattr(importlib.import_module(module), name)


def load_infos(path) -> dict:
    """The content of an info file, {'metainfo': dict, 'data_list': list of dict}, without running any code in it.

    Raises: FileNotFoundError; DataError if the file is no pickle, is cut short, holds a class other than plain
    containers and numpy arrays, or is a version-1 file of mmdet3d.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: make it with `{CONVERT.format(version='VERSION')}`")
    try:
        with path.open("rb") as file:
            content = _InfoUnpickler(file, path).load()
    except DataError:
        raise
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError,
            ImportError, OverflowError, MemoryError, struct.error) as error:  # fmt: skip
        raise DataError(
            f"{path} is not a readable info file ({type(error).__name__}: {error}): it is cut short or no pickle; "
            f"make it again with `{CONVERT.format(version='VERSION')}`"
        ) from error
    if isinstance(content, dict) and "infos" in content:
        version = (content.get("metadata") or {}).get("version", "VERSION")
        raise DataError(
            f"{path} is a version-1 info file (key 'infos', mmdet3d before 1.1): "
            f"run `{CONVERT.format(version=version)}` to make version-2 infos"
        )
    if not isinstance(content, dict) or not {"metainfo", "data_list"} <= content.keys():
        got = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(
            f"{path} holds {got}, an info file holds 'metainfo' and 'data_list': "
            f"make it with `{CONVERT.format(version='VERSION')}`"
        )
    return content


def check_infos(infos: dict, path, version: str | None = None) -> None:
    """Raise DataError (file and remedy in it) unless the infos are complete, of the right version and convention.

    Args:
        infos: what `load_infos` returned. path: for the message. version: the one the config asks for, or None.
    """
    metainfo, data_list = infos["metainfo"], infos["data_list"]
    got = metainfo.get("version")
    if got not in VERSIONS:
        raise DataError(f"{path}: metainfo.version is {got!r}, one of {VERSIONS} is needed; make the file again")
    if version is not None and version != got:
        raise DataError(
            f"{path} holds infos of {got}, the config asks for {version}: set metainfo.version = {got!r} and its "
            f"ann_file, or run `{CONVERT.format(version=version)}`"
        )
    remedy = f"run `{CONVERT.format(version=got)}`"
    if metainfo.get("info_format") != INFO_FORMAT:
        raise DataError(
            f"{path} has no scene, frame and instance keys (metainfo.info_format is {metainfo.get('info_format')!r}, "
            f"wanted {INFO_FORMAT!r}): {remedy}"
        )
    if not data_list:
        raise DataError(f"{path} holds no samples: {remedy}")
    for position, info in enumerate(data_list):
        _check_sample(info, f"{path}: data_list[{position}] ({info.get('token', 'no token')})", remedy)
    fault = wrong_box_convention(data_list, metainfo.get("categories", {}))
    if fault:
        raise DataError(f"{path}: {fault}; the boxes follow the coordinate convention of mmdet3d before 1.0: {remedy}")


def _check_sample(info: dict, where: str, remedy: str) -> None:
    wanted = ("token", "timestamp", "ego2global", "images", "lidar_points", "scene_token", "frame_idx")
    missing = [key for key in wanted if key not in info] + (["prev_token"] if "prev_token" not in info else [])
    missing += [f"lidar_points.{key}" for key in ("lidar_path", "lidar2ego", "num_pts_feats")
                if key not in info.get("lidar_points", {})]  # fmt: skip
    for camera, image in info.get("images", {}).items():
        keys = ("img_path", "cam2img", "cam2ego", "lidar2cam", "ego2global")
        missing += [f"images.{camera}.{key}" for key in keys if key not in image]
    if not info.get("images", {}):
        missing.append("images (no camera)")
    missing += [f"instances[{i}].instance_token" for i, instance in enumerate(info.get("instances", []))
                if "instance_token" not in instance][:1]  # fmt: skip
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}: the calibration or our keys are missing; {remedy}")


def wrong_box_convention(data_list: list, categories: dict, speed: float = 2.0) -> str | None:
    """The evidence that boxes are stored as before mmdet3d 1.0 (w, l swapped; yaw turned), or None.

    Two independent signs: cars whose median length is below their width, and moving cars (faster than `speed` m/s)
    whose velocity is across their heading. Old infos show at least the first; a lone yaw fault shows the second.
    """
    cars, moving = [], []
    label = categories.get("car", 0)
    for info in data_list:
        for instance in info.get("instances", []):
            if instance["bbox_label_3d"] == label:
                box, velocity = instance["bbox_3d"], np.asarray(instance["velocity"], float)
                cars.append((box[3], box[4]))
                if np.linalg.norm(velocity) > speed:
                    moving.append(wrap_angle(np.arctan2(velocity[1], velocity[0]) - box[6]))
        if len(cars) > 5000:
            break
    if len(cars) >= 3:
        length, width = np.median(np.array(cars), axis=0)
        if length < width:
            return f"cars are {length:.2f} m long and {width:.2f} m wide (median of {len(cars)})"
    if len(moving) >= 5:
        off = np.median(np.abs(np.array(moving)))
        if off > np.pi / 4:
            return f"moving cars drive {np.degrees(off):.0f} degrees off their heading (median of {len(moving)})"
    return None


def label_mapping(categories: dict, classes, path) -> dict[int, int]:
    """File label -> index into `classes`; -1 for everything that is not detected.

    Raises: ConfigError if `classes` is not a permutation of the ten detection classes; DataError if the file does not
    name them.
    """
    classes = tuple(classes)
    wrong = [name for name in classes if name not in OFFICIAL_CLASSES]
    missing = [name for name in OFFICIAL_CLASSES if name not in classes]
    if wrong or missing or len(classes) != len(set(classes)):
        raise ConfigError(
            f"metainfo.classes = {classes}: unknown {wrong}, missing {missing}, {len(classes)} entries; give each of "
            f"the ten classes once, in task order: {TASK_CLASSES}"
        )
    absent = [name for name in OFFICIAL_CLASSES if name not in categories]
    if absent:
        raise DataError(
            f"{path}: metainfo.categories does not name {absent}, so its labels have no meaning: make the file again"
        )
    mapping = dict.fromkeys(categories.values(), -1)
    mapping.update({categories[name]: position for position, name in enumerate(classes)})
    mapping[-1] = -1
    return mapping
