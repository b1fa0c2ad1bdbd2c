"""The last transform: numpy results to the tensors and the data sample of docs/conventions.md."""

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData

META_KEYS = (
    "sample_idx", "token", "scene_token", "frame_idx", "timestamp", "img_paths", "cam_names", "box_type_3d",
    "box_mode_3d", "lidar_path", "num_pts_feats", "scene_name", "prev_token", "draw",
)  # fmt: skip


@TRANSFORMS.register_module()
class PackBEVInputs(BaseTransform):
    """{'inputs': tensors of one sample, 'data_samples': Det3DDataSample}; BEVDataPreprocessor makes the batch of them.

    `imgs` stay uint8 RGB (a quarter of the traffic between processes); the preprocessor normalises them.
    `trajectories` False leaves them out (single networks do not need them).
    """

    def __init__(self, trajectories: bool = True):
        self.trajectories = trajectories

    def transform(self, results: dict) -> dict:
        """One sample. Keys that earlier transforms did not make (depth, points, boxes) are absent."""
        bev_aug = results.get("bev_aug", np.eye(4))
        inputs = {
            "imgs": torch.from_numpy(results["imgs"]),
            "start": torch.tensor(bool(results["start"])),
            "lidar2global": torch.from_numpy(np.asarray(results["lidar2global"], np.float64)),
        }
        for key, value in {**results, "bev_aug": bev_aug}.items():
            if key in ("cam2img", "cam2lidar", "img_aug", "bev_aug", "lidar_depth", "points"):
                inputs[key] = torch.from_numpy(np.ascontiguousarray(value, np.float32))
        sample = Det3DDataSample(metainfo={key: results[key] for key in META_KEYS if key in results})
        if "gt_bboxes_3d" in results:
            if self.trajectories:
                for key in ("trajectories", "trajectories_unaligned"):
                    inputs[key] = torch.from_numpy(results[key])
            sample.gt_instances_3d = InstanceData(
                bboxes_3d=results["gt_bboxes_3d"],
                labels_3d=torch.from_numpy(np.asarray(results["gt_labels_3d"], np.int64)),
            )
            sample.set_metainfo({"instance_tokens": [str(token) for token in results["instance_tokens"]]})
        return {"inputs": inputs, "data_samples": sample}
