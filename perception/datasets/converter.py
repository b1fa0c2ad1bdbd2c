"""nuScenes tables (real or simulated) to mmdet3d version-2 infos with scene, frame and instance keys.

    python -m perception.datasets.converter DATA_ROOT --version v1.0-mini

The official keys are those of mmdet3d 1.4's `update_infos_to_v2`, so that its stock classes read the files unchanged;
docs/conventions.md lists what is added. Cameras and image sizes come from the tables.
"""

import argparse
import multiprocessing
import pickle
import sys
from functools import partial
from pathlib import Path

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils import splits
from shapely.geometry import MultiPoint, Polygon, box
from tqdm import tqdm

from common.errors import DataError
from common.geometry import invert, pose, transform

from .infos import INFO_FORMAT, OFFICIAL_CLASSES, VERSIONS

LIDAR = "LIDAR_TOP"
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
ATTRIBUTES = (
    "cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing",
    "pedestrian.sitting_lying_down", "vehicle.moving", "vehicle.parked", "vehicle.stopped", "None",
)  # fmt: skip
SPLITS = {
    "v1.0-trainval": {"train": splits.train, "val": splits.val},
    "v1.0-mini": {"train": splits.mini_train, "val": splits.mini_val},
    "v1.0-test": {"test": splits.test},
}


def create_infos(root, version: str, out_dir=None, workers: int = 0, max_sweeps: int = 10) -> dict[str, Path]:
    """Write `tutelage_infos_{train,val}.pkl` (v1.0-test: `_test.pkl`, without boxes).

    Args:
        root: folder with `samples/`, `sweeps/` and the tables in `version`/. out_dir: default `root`.
        workers: processes; 0 works in this one. max_sweeps: LiDAR sweeps before the key sweep that are listed.
    Returns: {'train': path, 'val': path}; splits without a scene are left out.
    Raises: DataError if tables are missing, or no scene of a split has its files on disk.
    """
    root, out_dir = Path(root), Path(out_dir or root)
    if version not in VERSIONS:
        raise DataError(f"version {version!r} is unknown: one of {VERSIONS}")
    if not (root / version / "sample.json").is_file():
        raise DataError(
            f"{root / version / 'sample.json'} does not exist: give the folder that holds `samples` and `{version}`, "
            "or unpack the metadata archive there"
        )
    nusc = NuScenes(version=version, dataroot=str(root), verbose=False)
    scenes = _scenes_on_disk(nusc, root)
    absent = {scene["name"] for scene in nusc.scene if scene["token"] not in scenes}
    paths = {}
    for split, names in SPLITS[version].items():
        samples = [s for s in nusc.sample if scenes.get(s["scene_token"]) in set(names)]
        if not samples:
            continue
        frames = _frame_numbers(nusc, {s["scene_token"] for s in samples})
        describe = partial(_sample_info, nusc=nusc, frames=frames, scenes=scenes, max_sweeps=max_sweeps,
                           annotated=version != "v1.0-test")  # fmt: skip
        data_list = _map(describe, samples, workers, f"{version} {split}")
        for index, info in enumerate(data_list):
            info["sample_idx"] = index
        categories = {name: index for index, name in enumerate(OFFICIAL_CLASSES)}
        ignored = {a["category_name"] for a in nusc.sample_annotation} if version != "v1.0-test" else set()
        categories.update({name: -1 for name in sorted(ignored) if category_to_detection_name(name) is None})
        metainfo = {"categories": categories, "dataset": "nuscenes", "version": version, "info_version": "1.1",
                        "info_format": INFO_FORMAT, "absent_scenes": sorted(absent & set(names))}  # fmt: skip
        out_dir.mkdir(parents=True, exist_ok=True)
        paths[split] = out_dir / f"tutelage_infos_{split}.pkl"
        partial_file = paths[split].with_suffix(".tmp")
        partial_file.write_bytes(pickle.dumps({"metainfo": metainfo, "data_list": data_list}, protocol=4))
        partial_file.replace(paths[split])
    if not paths:
        raise DataError(
            f"{root}: none of its {len(scenes)} scenes with files belongs to a split of {version} "
            f"({', '.join(sorted(scenes.values())[:5])} ...): name scenes as the devkit's splits do"
        )
    return paths


def _scenes_on_disk(nusc, root: Path) -> dict[str, str]:
    """{scene token: name} of the scenes whose first sweep exists; the others (blobs not downloaded) are named."""
    present, absent = {}, []
    for scene in nusc.scene:
        sample = nusc.get("sample", scene["first_sample_token"])
        if LIDAR not in sample["data"]:
            raise DataError(f"{root}: sample {sample['token']} has no {LIDAR}: its sample_data table is incomplete")
        if Path(nusc.get_sample_data_path(sample["data"][LIDAR])).is_file():
            present[scene["token"]] = scene["name"]
        else:
            absent.append(scene["name"])
    if not present:
        raise DataError(f"{root}: no scene has its first LiDAR sweep on disk: unpack the sensor archives there")
    if absent:
        print(f"{root}: {len(absent)} scenes without files are left out: {', '.join(absent[:10])}", file=sys.stderr)
    return present


def _frame_numbers(nusc, scene_tokens) -> dict[str, int]:
    frames = {}
    for token in scene_tokens:
        sample, number = nusc.get("scene", token)["first_sample_token"], 0
        while sample:
            frames[sample] = number
            sample, number = nusc.get("sample", sample)["next"], number + 1
    return frames


_describe = None  # set before the fork: the tables are then shared with the workers, not pickled


def _described(sample):
    return _describe(sample)


def _map(describe, samples: list, workers: int, title: str) -> list:
    progress = partial(tqdm, total=len(samples), desc=title, unit="sample", mininterval=1.0)
    if not workers:
        return list(progress(map(describe, samples)))
    global _describe
    _describe = describe
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return list(progress(pool.imap(_described, samples, chunksize=8)))


def _matrix(a2b: np.ndarray) -> list:
    """As the official converter stores poses: rounded to float32, nested lists."""
    return a2b.astype(np.float32).tolist()


def _sensor(nusc, token: str):
    """The sample_data record, sensor2ego, ego2global (4, 4) float64, the camera matrix of one capture."""
    record = nusc.get("sample_data", token)
    calibration = nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
    ego = nusc.get("ego_pose", record["ego_pose_token"])
    return (
        record,
        pose(calibration["translation"], calibration["rotation"]),
        pose(ego["translation"], ego["rotation"]),
        np.array(calibration["camera_intrinsic"], np.float64),
    )


def _sample_info(sample: dict, nusc, frames, scenes, max_sweeps, annotated) -> dict:
    record, lidar2ego, ego2global, _ = _sensor(nusc, sample["data"][LIDAR])
    lidar2global = ego2global @ lidar2ego
    info = {
        "sample_idx": 0,
        "token": sample["token"],
        "timestamp": sample["timestamp"] / 1e6,
        "ego2global": _matrix(ego2global),
        "images": {},
        "lidar_points": {
            "num_pts_feats": 5,
            "lidar_path": Path(record["filename"]).name,
            "lidar2ego": _matrix(lidar2ego),
        },
        "instances": [],
        "scene_token": sample["scene_token"],
        "scene_name": scenes[sample["scene_token"]],
        "frame_idx": frames[sample["token"]],
        "prev_token": sample["prev"] or None,
        "lidar2global": lidar2global.tolist(),
    }
    sweeps = _sweeps(nusc, record, lidar2global, max_sweeps)
    if sweeps:
        info["lidar_sweeps"] = sweeps
    annotations = [nusc.get("sample_annotation", token) for token in sample["anns"]] if annotated else []
    boxes = nusc.get_sample_data(sample["data"][LIDAR])[1] if annotated else []
    velocities = [nusc.box_velocity(token) for token in sample["anns"]] if annotated else []
    if annotated:
        info["cam_instances"] = {}
    others = sorted(name for name in sample["data"] if name.startswith("CAM_") and name not in CAMERAS)
    for camera in [name for name in CAMERAS if name in sample["data"]] + others:
        capture, cam2ego, cam_ego2global, cam2img = _sensor(nusc, sample["data"][camera])
        if cam2img.shape != (3, 3):
            raise DataError(
                f"{nusc.dataroot}: calibrated_sensor {capture['calibrated_sensor_token']} of {camera} has no 3x3 "
                "camera_intrinsic: repair calibrated_sensor.json"
            )
        cam2global = cam_ego2global @ cam2ego
        info["images"][camera] = {
            "img_path": Path(capture["filename"]).name,
            "cam2img": cam2img.tolist(),
            "cam2ego": _matrix(cam2ego),
            "sample_data_token": capture["token"],
            "timestamp": capture["timestamp"] / 1e6,
            "lidar2cam": _matrix(invert(cam2global) @ lidar2global),
            "ego2global": cam_ego2global.tolist(),
        }
        if annotated:
            size = (capture["width"], capture["height"])
            info["cam_instances"][camera] = _camera_instances(
                nusc, annotations, velocities, invert(cam2global), cam2img, size
            )
    global2lidar = invert(lidar2global)
    for lidar_box, velocity, annotation in zip(boxes, velocities, annotations, strict=True):
        label = _label(annotation["category_name"])
        info["instances"].append(
            {
                "bbox_label": label,
                "bbox_3d": [*lidar_box.center.tolist(), *lidar_box.wlh[[1, 0, 2]].tolist(),
                         float(lidar_box.orientation.yaw_pitch_roll[0])],
                "bbox_3d_isvalid": annotation["num_lidar_pts"] + annotation["num_radar_pts"] > 0,
                "bbox_label_3d": label,
                "num_lidar_pts": annotation["num_lidar_pts"],
                "num_radar_pts": annotation["num_radar_pts"],
                "velocity": (global2lidar[:3, :3] @ [*velocity[:2], 0.0])[:2].tolist(),
                "instance_token": annotation["instance_token"],
            }
        )  # fmt: skip
    return info


def _label(category: str) -> int:
    name = category_to_detection_name(category)
    return -1 if name is None else OFFICIAL_CLASSES.index(name)


def _sweeps(nusc, record: dict, lidar2global: np.ndarray, count: int) -> list[dict]:
    """The `count` sweeps before the key sweep, newest first; `lidar2sensor` maps the key sweep's frame to theirs."""
    sweeps = []
    while len(sweeps) < count and record["prev"]:
        record, sensor2ego, ego2global, _ = _sensor(nusc, record["prev"])
        sweeps.append(
            {
                "timestamp": record["timestamp"] / 1e6,
                "ego2global": _matrix(ego2global),
                "lidar_points": {
                    "num_pts_feats": None,
                    "lidar_path": record["filename"],
                    "lidar2ego": _matrix(sensor2ego),
                    "lidar2sensor": _matrix(invert(ego2global @ sensor2ego) @ lidar2global),
                },
                "sample_data_token": record["token"],
            }
        )
    return sweeps


def _camera_instances(nusc, annotations, velocities, global2cam, cam2img, size) -> list[dict]:
    """Monocular records of the boxes that reach into the image: official key `cam_instances`."""
    records = []
    for annotation, velocity in zip(annotations, velocities, strict=True):
        label = _label(annotation["category_name"])
        if label < 0:
            continue
        corners = transform(global2cam @ pose(annotation["translation"], annotation["rotation"]),
                            _unit_corners() * np.array(annotation["size"])[[1, 0, 2]])  # fmt: skip
        centre = transform(global2cam, np.array(annotation["translation"]))
        corners = corners[corners[:, 2] > 0]
        outline = _outline(corners @ cam2img.T, size) if len(corners) else None
        if outline is None or centre[2] <= 0:
            continue
        width, length, height = annotation["size"]
        rotation = global2cam[:3, :3] @ pose([0, 0, 0], annotation["rotation"])[:3, :3]
        yaw = np.arctan2(-rotation[0, 1], rotation[0, 0])  # pyquaternion's yaw_pitch_roll[0]
        projected = cam2img @ centre
        attribute = "None"
        if annotation["attribute_tokens"]:
            attribute = nusc.get("attribute", annotation["attribute_tokens"][0])["name"]
        records.append(
            {
                "bbox_label": label,
                "bbox_label_3d": label,
                "bbox": list(outline),
                "bbox_3d_isvalid": True,
                "bbox_3d": [*centre.tolist(), length, height, width, -float(yaw)],
                "velocity": (global2cam[:3, :3] @ [*velocity[:2], 0.0])[0::2].tolist(),
                "center_2d": (projected[:2] / projected[2]).tolist(),
                "depth": float(centre[2]),
                "attr_label": ATTRIBUTES.index(attribute),
            }
        )
    return records


def _unit_corners() -> np.ndarray:
    return np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5], indexing="ij"), -1).reshape(8, 3)


def _outline(projected: np.ndarray, size) -> tuple[float, float, float, float] | None:
    """Bounding box (x1, y1, x2, y2) of the convex hull of homogeneous pixels (P, 3) within the image, or None."""
    pixels = projected[:, :2] / projected[:, 2:]
    low, high = pixels.min(0), pixels.max(0)
    if (high < 0).any() or (low > size).any():
        return None
    if (low >= 0).all() and (high <= size).all() and len(pixels) > 2:
        return (*low.tolist(), *high.tolist())
    visible = MultiPoint(pixels).convex_hull.intersection(box(0, 0, *size))
    return visible.bounds if isinstance(visible, Polygon) and not visible.is_empty else None


def main(argv=None) -> int:
    """Command line: DATA_ROOT --version V [--out D] [--workers N]. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m perception.datasets.converter", description=__doc__.split("\n")[0])
    parser.add_argument("root", help="folder with samples/, sweeps/ and the tables")
    parser.add_argument("--version", required=True, choices=VERSIONS)
    parser.add_argument("--out", default=None, help="folder for the info files; default: the data root")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 works in one")
    args = parser.parse_args(argv)
    try:
        for split, path in create_infos(args.root, args.version, args.out, args.workers).items():
            print(f"{split}: {path}")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
