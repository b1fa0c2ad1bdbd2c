"""NDS and mAP by the nuScenes devkit: mmdet3d's metric with safely read infos, and files that stay."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from mmdet3d.evaluation.metrics import NuScenesMetric
from mmdet3d.registry import METRICS
from mmengine.logging import MMLogger
from nuscenes.eval.common.config import config_factory

from common.errors import DataError
from common.geometry import quaternion, transform, yaw_pose

from .infos import load_infos

EVAL_SETS = {"v1.0-mini": "mini_val", "v1.0-trainval": "val", "v1.0-test": "test"}
VEHICLES = ("car", "truck", "construction_vehicle", "trailer")
ATTRIBUTES = {  # (moving, at rest)
    **dict.fromkeys(VEHICLES, ("vehicle.moving", "vehicle.parked")),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    **dict.fromkeys(("bicycle", "motorcycle"), ("cycle.with_rider", "cycle.without_rider")),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
}
TP_ERRORS = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE", "attr_err": "mAAE"}


@METRICS.register_module()
class NuScenesSequenceMetric(NuScenesMetric):
    """Writes the official submission JSON and evaluates it with the devkit.

    Args: data_root; ann_file (relative to data_root or absolute); out_dir: where `results_nusc.json`,
    `metrics_summary.json` and `metrics_details.json` go, by default a folder that is removed again; format_only: write
    the submission and evaluate nothing (test set); eval_set: a split of the devkit, by default the version's validation
    split. The version comes from the data set (mini and trainval alike).

    Returns of an evaluation: `NDS`, `mAP`, `mATE`, `mASE`, `mAOE`, `mAVE`, `mAAE`, `AP/<class>`.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        out_dir: str | None = None,
        format_only: bool = False,
        eval_set: str | None = None,
        **kwargs,
    ):
        path = ann_file if Path(ann_file).is_absolute() else str(Path(data_root) / ann_file)
        modality = dict(use_camera=True, use_lidar=False, use_radar=False, use_map=False, use_external=False)
        super().__init__(
            data_root=data_root,
            ann_file=path,
            modality=modality,
            format_only=format_only,
            jsonfile_prefix=out_dir or ("submission" if format_only else None),
            **kwargs,
        )
        self.prefix = None  # plain names: NDS, mAP, ...
        self.results_meta, self.eval_set = modality, eval_set

    @property
    def dataset_meta(self) -> dict | None:
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        """Set by the evaluation loop when it is built, before any training. Raises DataError where the devkit, which
        scores whole splits, would refuse in the end."""
        absent = meta.get("absent_scenes") or []
        if absent and not self.format_only:
            raise DataError(
                f"{self.ann_file} lacks {len(absent)} scenes of its split whose files were not on disk "
                f"({', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''}), and the devkit scores whole splits: "
                "unpack their archives and run the converter again, or train without evaluation "
                "(val_dataloader=None val_cfg=None val_evaluator=None)"
            )
        self._dataset_meta = meta

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Args: results, one per sample of the split, empty ones included. Raises DataError if samples are missing."""
        logger = MMLogger.get_current_instance()
        version = self.dataset_meta["version"]
        self.data_infos = load_infos(self.ann_file)["data_list"]
        seen = {result["sample_idx"] for result in results}
        if len(seen) != len(self.data_infos):
            raise DataError(
                f"{self.ann_file} has {len(self.data_infos)} samples, predictions cover {len(seen)}: the devkit needs "
                "every sample of the split; evaluate the whole info file"
            )
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(self.jsonfile_prefix or temporary)
            submission = folder / "results_nusc.json"
            write_submission(submission, results, self.data_infos, self.dataset_meta["classes"], self.results_meta)
            if self.format_only:
                logger.info(f"submission written to {submission}")
                return {}
            summary = evaluate_submission(submission, self.data_root, version, submission.parent, self.eval_set)
        logger.info("\n" + table(summary))
        return flatten(summary)


def write_submission(path: Path, results: list[dict], infos: list[dict], classes, meta: dict) -> None:
    """The official detection JSON: boxes of the LiDAR frame carried into the global one.

    As mmdet3d's formatter: boxes beyond the class's evaluation range are left out, attributes follow from the speed.
    Args: results, `pred_instances_3d` and `sample_idx` per sample; infos in the order of `sample_idx`.
    """
    ranges = config_factory("detection_cvpr_2019").class_range
    limits = np.array([ranges[name] for name in classes])
    submission = {}
    for result in results:
        info, found = infos[result["sample_idx"]], result["pred_instances_3d"]
        lidar2ego = np.array(info["lidar_points"]["lidar2ego"], np.float64)
        lidar2global = np.array(info["ego2global"], np.float64) @ lidar2ego
        boxes, labels = found["bboxes_3d"], found["labels_3d"].numpy()
        centres = boxes.gravity_center.numpy().astype(np.float64)
        keep = np.linalg.norm(transform(lidar2ego, centres)[:, :2], axis=1) <= limits[labels]
        sizes = boxes.dims.numpy()[:, [1, 0, 2]]
        velocity = np.pad(boxes.tensor.numpy()[:, 7:9].astype(np.float64), ((0, 0), (0, 1)))
        velocity = velocity @ lidar2global[:3, :3].T
        speed = np.linalg.norm(boxes.tensor.numpy()[:, 7:9], axis=1)
        entries = []
        for i in np.flatnonzero(keep):
            name = classes[labels[i]]
            rotation = lidar2global[:3, :3] @ yaw_pose(0, 0, 0, float(boxes.yaw[i]))[:3, :3]
            entries.append(
                {
                    "sample_token": info["token"],
                    "translation": transform(lidar2global, centres[i]).tolist(),
                    "size": sizes[i].tolist(),
                    "rotation": quaternion(rotation).tolist(),
                    "velocity": velocity[i, :2].tolist(),
                    "detection_name": name,
                    "detection_score": float(found["scores_3d"][i]),
                    "attribute_name": attribute(name, float(speed[i])),
                }
            )
        submission[info["token"]] = entries
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"meta": meta, "results": submission}))


def attribute(name: str, speed: float) -> str:
    """mmdet3d's rule: moving above 0.2 m/s; the attribute error therefore follows the velocity error."""
    moving, resting = ATTRIBUTES.get(name, ("", ""))
    return moving if speed > 0.2 else resting


def evaluate_submission(
    submission: Path, data_root: str, version: str, out_dir: Path, eval_set: str | None = None
) -> dict:
    """The devkit's metrics summary of a submission JSON; writes metrics_summary.json and metrics_details.json."""
    from nuscenes import NuScenes
    from nuscenes.eval.detection.evaluate import NuScenesEval

    if version not in EVAL_SETS:
        raise DataError(f"no evaluation split for version {version!r}; known: {', '.join(EVAL_SETS)}")
    with contextlib.redirect_stdout(io.StringIO()):
        nusc = NuScenes(version=version, dataroot=str(data_root), verbose=False)
        evaluation = NuScenesEval(
            nusc,
            config=config_factory("detection_cvpr_2019"),
            result_path=str(submission),
            eval_set=eval_set or EVAL_SETS[version],
            output_dir=str(out_dir),
            verbose=False,
        )
        evaluation.main(render_curves=False)
    return json.loads((Path(out_dir) / "metrics_summary.json").read_text())


def flatten(summary: dict) -> dict[str, float]:
    """The numbers people read, from the devkit's summary."""
    values = {"NDS": summary["nd_score"], "mAP": summary["mean_ap"]}
    values |= {name: summary["tp_errors"][key] for key, name in TP_ERRORS.items()}
    values |= {f"AP/{name}": value for name, value in summary["mean_dist_aps"].items()}
    return {name: float(value) for name, value in values.items()}


def table(summary: dict) -> str:
    """Per class: AP and the five errors, and the means, as text."""
    lines = [f"{'class':22}{'AP':>8}" + "".join(f"{name[1:]:>8}" for name in TP_ERRORS.values())]
    for name, ap in summary["mean_dist_aps"].items():
        errors = summary["label_tp_errors"][name]
        lines.append(f"{name:22}{ap:8.3f}" + "".join(f"{errors[key]:8.3f}" for key in TP_ERRORS))
    errors = summary["tp_errors"]
    lines.append(f"{'mean':22}{summary['mean_ap']:8.3f}" + "".join(f"{errors[key]:8.3f}" for key in TP_ERRORS))
    return "\n".join([*lines, f"NDS {summary['nd_score']:.4f}"])
