"""Real input: overfit a small VCD-E to one real nuScenes key frame and score it with the devkit on that frame.

Builds the nuScenes tables around the key frame of $TUTELAGE_DATA/nuscenes_keyframe, makes its infos, trains, evaluates,
and draws the boxes and the LiDAR depth on the six images. It shows that calibration, frames, loading, lifting, head,
decoder and submission agree on real data; it says nothing about generalisation.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from _report import table, write_report

from common.engine.experiments import Job, run
from common.errors import DataError
from perception.datasets.converter import create_infos
from perception.datasets.keyframe import keyframe_root
from perception.datasets.transforms.images import read_image
from perception.datasets.transforms.lidar import depth_maps, read_sweep
from perception.visualization import draw_boxes_on_image, draw_depth, montage, save_png

CONFIG = "configs/perception/vcd/expert_keyframe.py"
GOAL = 0.5


def source() -> Path:
    """The folder of the key frame. Raises DataError that says how to point at it."""
    folder = Path(os.environ.get("TUTELAGE_DATA", "")) / "nuscenes_keyframe"
    if not os.environ.get("TUTELAGE_DATA") or not folder.is_dir():
        raise DataError("set TUTELAGE_DATA to the folder that holds nuscenes_keyframe/ (one real nuScenes key frame)")
    return folder


def draw_truth(root: Path, infos: list[dict], out: Path) -> None:
    """At full resolution, without any network: annotated boxes and LiDAR depth on the six images."""
    info = infos[0]
    sweep = read_sweep(root / "samples" / "LIDAR_TOP" / Path(info["lidar_points"]["lidar_path"]).name)
    boxes = np.array([[*i["bbox_3d"][:7], 0, 0] for i in info["instances"] if i["num_lidar_pts"]], np.float64)
    boxes[:, 2] -= boxes[:, 5] / 2
    with_boxes, with_depth = [], []
    for camera, view in info["images"].items():
        image = read_image(root / "samples" / camera / Path(view["img_path"]).name)
        lidar2cam, cam2img = np.array(view["lidar2cam"]), np.array(view["cam2img"])
        lidar2img = np.eye(4)
        lidar2img[:3, :3] = cam2img
        with_boxes.append(draw_boxes_on_image(image, boxes, lidar2img @ lidar2cam))
        depth = depth_maps(sweep, lidar2cam[None], cam2img[None], np.eye(3)[None], image.shape[:2], 1.0, 60.0)[0]
        with_depth.append(draw_depth(image, depth))
    for name, tiles in (("truth_boxes", with_boxes), ("truth_depth", with_depth)):
        small = [cv2.resize(tile, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for tile in tiles]
        save_png(out / f"{name}.png", montage(small, columns=3))


def main() -> int:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--iterations", type=int, default=300)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/real_keyframe"))
    args = parse.parse_args()
    root = args.work_dir / "data"
    if not (root / "tutelage_infos_val.pkl").is_file():
        shutil.rmtree(root, ignore_errors=True)
        keyframe_root(source(), root)
        create_infos(root, "v1.0-mini")
    from perception.datasets.infos import load_infos

    draw_truth(root, load_infos(root / "tutelage_infos_val.pkl")["data_list"], args.work_dir / "pictures")
    folder = args.work_dir / f"seed{args.seed}"
    options = {"data_root": str(root), "version": "v1.0-mini", "val_evaluator.out_dir": str(folder / "evaluation")}
    job = Job("expert", CONFIG, folder, args.iterations, options, args.seed)
    run([job])
    summary = json.loads((folder / "evaluation" / "metrics_summary.json").read_text())
    infos = load_infos(root / "tutelage_infos_val.pkl")
    present = present_classes(root, infos)
    aps = {name: summary["mean_dist_aps"][name] for name in present}
    mean = float(np.mean(list(aps.values())))
    rows = [[name, f"{aps[name]:.3f}", *(_errors(summary, name))] for name in present]
    body = (
        f"Overfitted to one key frame for {args.iterations} iterations; AP by the devkit on the same frame over the "
        f"{len(present)} classes with a counted box in it (goal: at least {GOAL}).\n\n"
        + table(["class", "AP", "ATE", "ASE", "AOE"], rows)
        + f"\n\n**mAP over the classes present: {mean:.3f}**\n"
    )
    path = write_report("real_keyframe", "One real nuScenes key frame", body, seeds=[args.seed])
    print(f"{body}\nwritten to {path}; pictures in {args.work_dir / 'pictures'} and {folder / 'pictures'}")
    return 0 if mean >= GOAL else 1


def present_classes(root: Path, infos: dict) -> list[str]:
    """Classes with at least one box that the devkit counts: with a point, within the class's range of the ego."""
    from nuscenes.eval.common.config import config_factory

    ranges = config_factory("detection_cvpr_2019").class_range
    names = {label: name for name, label in infos["metainfo"]["categories"].items()}
    found = set()
    for info in infos["data_list"]:
        lidar2ego = np.array(info["lidar_points"]["lidar2ego"])
        for box in info["instances"]:
            name = names.get(box["bbox_label_3d"])
            centre = lidar2ego[:2, :3] @ np.array(box["bbox_3d"][:3]) + lidar2ego[:2, 3]
            if name in ranges and box["num_lidar_pts"] and np.linalg.norm(centre) <= ranges[name]:
                found.add(name)
    return sorted(found)


def _errors(summary: dict, name: str) -> list[str]:
    values = summary["label_tp_errors"][name]
    return ["-" if np.isnan(values[key]) else f"{values[key]:.3f}" for key in ("trans_err", "scale_err", "orient_err")]


if __name__ == "__main__":
    raise SystemExit(main())
