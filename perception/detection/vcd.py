"""VCD detectors for mmengine: expert, baseline and apprentice are one class and differ in two arguments.

expert: `lidar_prior=True`; baseline: neither; apprentice: `distiller=dict(type=Distiller, ...)`.
"""

from typing import NamedTuple

import torch
from mmdet3d.models.detectors import Base3DDetector
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import Tensor

from common.errors import ConfigError
from perception.detection.core import BEVCore, Lifted
from perception.detection.decode import DecodeSpec, decode
from perception.detection.depth_prior import depth_loss
from perception.detection.grid import DepthBins, GridSpec
from perception.detection.history import History, cur2past, next_history
from perception.detection.view_transform import PoolIndex


class Features(NamedTuple):
    """What one frame yields: the lift, the distilled map F (B, C, Y, X) and the history for the next frame."""

    lifted: Lifted
    bev: Tensor
    history: History | None


def build(config, **defaults):
    """An object from a config that names its class; what is already built passes through."""
    return MODELS.build({**defaults, **config}) if isinstance(config, dict) else config


class VCDDetector(Base3DDetector):
    """Camera BEV detector with temporal history.

    Args: as `BEVCore`; sub-networks as configs. Further:
        decoder: thresholds and NMS, a `DecodeSpec` or its arguments.
        depth_loss_weight: 3.0 as released; 0 needs no LiDAR at all.
        history_at_start: False keeps the history off (repetitions of the current map) in training until
            `enable_history()`. Evaluation always uses it.
        distiller: the frozen expert and its losses; only used in training, never part of the state dict.
        image_weights: official state dict of a backbone with `load_official`, read when training starts.
        channels_last: keep the convolutions' weights, and with them their maps, in channels-last memory: faster on CPUs
            and in half precision.
        history_resample: "exact" warps every past map once by its composed motion; "repeated" as released.
    """

    def __init__(
        self,
        *,
        grid: dict | GridSpec,
        depth_bins: dict | DepthBins,
        image_backbone: dict,
        image_neck: dict,
        depth_net: dict,
        pre_fusion: dict,
        bev_encoder: dict,
        head: dict,
        image_hw: tuple[int, int],
        stride: int = 16,
        history_frames: int = 8,
        history_at_start: bool = True,
        history_resample: str = "exact",
        lidar_prior: bool = False,
        prior_weight: float = 1.0,
        rounding: str = "floor",
        frustum_sampling: str = "block_centre",
        lift_at: str = "edge",
        depth_loss_weight: float = 3.0,
        channels_last: bool = False,
        decoder: dict | DecodeSpec | None = None,
        distiller: dict | None = None,
        image_weights: str | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        grid, bins = GridSpec.build(grid), DepthBins.build(depth_bins)
        self.core = BEVCore(
            image_backbone=build(image_backbone),
            image_neck=build(image_neck),
            depth_net=build(depth_net, depth_bins=bins.count),
            pre_fusion=build(pre_fusion),
            bev_encoder=build(bev_encoder),
            head=build(head, grid=grid),
            grid=grid,
            depth_bins=bins,
            image_hw=tuple(image_hw),
            stride=stride,
            history_frames=history_frames,
            lidar_prior=lidar_prior,
            prior_weight=prior_weight,
            rounding=rounding,
            frustum_sampling=frustum_sampling,
            lift_at=lift_at,
        )
        if channels_last:
            self.core.to(memory_format=torch.channels_last)
        decoder = decoder or {}
        self.decoder = decoder if isinstance(decoder, DecodeSpec) else DecodeSpec(**decoder)
        self.depth_loss_weight = depth_loss_weight
        self.history_enabled, self.history_resample = history_at_start, history_resample
        self.distiller = build(distiller) if distiller else None
        self.image_weights = image_weights
        self._streams: dict[str, History | None] = {"train": None, "eval": None}

    def init_weights(self) -> None:
        """Initial weights of a training: PyTorch's for our layers, small ones for the last of every head (a box and a
        score start from their bias), the backbone's own (its `init_cfg`, pretrained files included), then
        `image_weights`. Called by the runner before a training's own weights are loaded, not when it goes on.

        Raises: FileNotFoundError naming the key when a file of pretrained weights is missing."""
        super().init_weights()
        core = self.core
        for head in core.head.task_heads:
            for branch in head.children():
                torch.nn.init.normal_(branch[-1].weight, std=0.01)
        key = "model.image_backbone.init_cfg"
        try:
            if hasattr(core.image_backbone, "init_weights"):
                core.image_backbone.init_weights()
            if self.image_weights:
                key = "model.image_weights"
                core.image_backbone.load_official(self.image_weights)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{key}: {error}: place the published ImageNet weights there (docs/vcd.md, 'Train on nuScenes'), or "
                f"train from random ones with --cfg-options {key}=None"
            ) from error

    def enable_history(self) -> None:
        """Switch the history on, for the student and its expert alike (called after the warm-up)."""
        self.history_enabled = True

    def features(
        self,
        inputs: dict[str, Tensor],
        history: History | None,
        *,
        use_history: bool | None = None,
        geometry: tuple[Tensor, PoolIndex] | None = None,
    ) -> Features:
        """One frame: lift, align and fuse the history, encode. `history` None starts every batch entry afresh.

        use_history: False repeats the current map instead (the warm-up); by default as switched by `enable_history`.
        geometry: as for `BEVCore.lift`.
        """
        use_history = self.history_enabled if use_history is None else use_history
        lifted = self.core.lift(inputs, geometry)
        frames = self.core.history_frames
        if not frames:
            return Features(lifted, self.core.encode(lifted.bev, None, None, None), None)
        current = lifted.bev
        bev2global = inputs["lidar2global"].double() @ torch.linalg.inv(inputs["bev_aug"].double())
        start = inputs["start"].bool()
        fits = history is not None and history.maps.shape[0] == current.shape[0]
        if not fits or not use_history:
            start = torch.ones_like(start)
        if not fits:
            history = History(
                current.detach().float()[:, None].expand(-1, frames, -1, -1, -1),
                bev2global[:, None].expand(-1, frames, -1, -1),
            )
        motion = cur2past(history.bev2global, bev2global).float()  # half precision would lose centimetres
        bev = self.core.encode(current, history.maps, motion, start)
        following = next_history(current, history, bev2global, start, self.core.grid, resample=self.history_resample)
        return Features(lifted, bev, following)

    def loss(self, inputs: dict[str, Tensor], data_samples: list, **kwargs) -> dict[str, Tensor]:
        """Detection, depth and, for the apprentice, distillation losses."""
        features = self.features(inputs, self._streams["train"])
        self._streams["train"] = features.history
        boxes = [
            torch.cat([s.gt_instances_3d.bboxes_3d.gravity_center, s.gt_instances_3d.bboxes_3d.tensor[:, 3:]], 1)
            for s in data_samples
        ]
        labels = [s.gt_instances_3d.labels_3d for s in data_samples]
        head = self.core.head
        losses = head.loss(head(features.bev), head.targets(boxes, labels))
        if self.depth_loss_weight:
            nearest = features.lifted.nearest
            if nearest is None:
                raise ValueError("the depth loss needs inputs['lidar_depth']; load LiDAR, or set depth_loss_weight=0")
            logits = features.lifted.depth_logits
            losses["loss_depth"] = depth_loss(logits, nearest, self.core.depth_bins, weight=self.depth_loss_weight)
        if self.distiller is not None:
            found = self.distiller.losses(features, inputs, boxes, self.history_enabled, lift_spec=self.core.lift_spec)
            losses.update(found)
        return losses

    @torch.no_grad()
    def predict(self, inputs: dict[str, Tensor], data_samples: list, **kwargs) -> list:
        """Boxes in the LiDAR frame, frame after frame; `start` resets the history. Raises ConfigError for batches:
        consecutive frames of a scene would land in different slots of the history."""
        if self.core.history_frames and len(data_samples) != 1:
            raise ConfigError(f"evaluation batch of {len(data_samples)} frames: set val and test batch_size to 1")
        features = self.features(inputs, self._streams["eval"], use_history=True)
        self._streams["eval"] = features.history
        head = self.core.head
        found = decode(head(features.bev), head.tasks, self.core.grid, self.decoder)
        results = []
        for boxes, scores, labels in found:
            instances = InstanceData()
            instances.bboxes_3d = LiDARInstance3DBoxes(boxes, box_dim=9)
            instances.scores_3d, instances.labels_3d = scores, labels
            results.append(instances)
        return self.add_pred_to_datasample(data_samples, results)

    def _forward(self, inputs: dict[str, Tensor], data_samples=None, **kwargs) -> dict[str, Tensor]:
        return self.core.head(self.features(inputs, None).bev)

    extract_feat = _forward

    def runtime_state(self) -> dict[str, Tensor]:
        """What a resumed run needs besides the weights: the histories of the training stream."""
        state = {"history_enabled": torch.tensor(self.history_enabled)}
        streams = {"student": self._streams["train"]}
        if self.distiller is not None:
            streams["expert"] = self.distiller.history
        for name, history in streams.items():
            if history is not None:
                state[f"{name}.maps"], state[f"{name}.bev2global"] = history
        return {name: value.detach().clone() for name, value in state.items()}

    def load_runtime_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `runtime_state`."""
        device = next(self.parameters()).device
        state = {name: value.to(device) for name, value in state.items()}
        self.history_enabled = bool(state["history_enabled"])
        streams = {
            name: History(state[f"{name}.maps"], state[f"{name}.bev2global"]) if f"{name}.maps" in state else None
            for name in ("student", "expert")
        }
        self._streams["train"] = streams["student"]
        if self.distiller is not None:
            self.distiller.history = streams["expert"]
