"""Trajectory and occupancy distillation from a frozen expert of the student's own structure (arXiv 2310.15670)."""

from pathlib import Path

import torch
from torch import Tensor

from common.errors import ConfigError
from perception.detection.grid import GridSpec
from perception.detection.occupancy import occupancy_loss, occupancy_mask, occupancy_volume
from perception.detection.trajectory import point_loss, standardise, trajectory_loss, trajectory_masks
from perception.detection.view_transform import build_pool_index

REGIONS = ("trajectory", "current", "as_released")


class Distiller:
    """The expert and its losses; no `nn.Module`, so that the expert reaches neither optimiser, EMA nor checkpoint.

    Args:
        expert: config of the expert detector; `checkpoint`: its weights (EMA weights where the file holds them).
            Both are read at the first loss, so an apprentice can be tested and exported without its expert.
        trajectory_weight, region, form: BEV imitation inside `region`: "trajectory" past boxes carried into the current
            frame by instance, "current" boxes only, "as_released" past boxes left in their own frames;
            form "mask" (weights by area) or "points" (weights objects equally).
        occupancy_weight, occupancy_grid: reconstruction of the expert's occupancy around objects; 0 is off.
        standardise_student: also standardise the student's map (the released code standardises only the expert's).
    """

    def __init__(
        self,
        *,
        expert: dict,
        checkpoint: str,
        trajectory_weight: float = 0.4,
        region: str = "trajectory",
        form: str = "mask",
        occupancy_weight: float = 0.0,
        occupancy_grid: dict | None = None,
        standardise_student: bool = False,
    ):
        if region not in REGIONS:
            raise ConfigError(f"distiller.region is {region!r}; choose one of {', '.join(REGIONS)}")
        if form not in ("mask", "points"):
            raise ConfigError(f"distiller.form is {form!r}; choose 'mask' or 'points'")
        if occupancy_weight and not occupancy_grid:
            raise ConfigError("distiller.occupancy_weight needs distiller.occupancy_grid (x, y, z ranges and cells)")
        self.expert_config, self.checkpoint = expert, checkpoint
        self.trajectory_weight, self.region, self.form = trajectory_weight, region, form
        self.occupancy_weight, self.standardise_student = occupancy_weight, standardise_student
        self.occupancy_grid = GridSpec.build(occupancy_grid) if occupancy_grid else None
        self.expert, self.history = None, None

    def __deepcopy__(self, memo):
        return self

    def load_expert(self, device: torch.device) -> None:
        """Build the expert, load its weights, freeze it. Raises CheckpointError naming file and keys on a misfit."""
        from mmdet3d.registry import MODELS

        from common.engine.checkpoint import load_weights

        if not Path(self.checkpoint).is_file():
            raise FileNotFoundError(
                f"distiller.checkpoint: no file {self.checkpoint}; train the expert first (tutelage train "
                "configs/perception/vcd/expert_*.py) and give its checkpoint"
            )
        config = {k: v for k, v in self.expert_config.items() if k not in ("distiller", "data_preprocessor")}
        self.expert = MODELS.build(config)
        load_weights(self.expert, self.checkpoint)
        self.expert.to(device).eval().requires_grad_(False)
        if not self.expert.core.lidar_prior:
            raise ConfigError("distiller.expert has lidar_prior=False: the expert must use LiDAR as its depth prior")

    @torch.no_grad()
    def expert_features(self, inputs: dict[str, Tensor], history_enabled: bool = True, lifted=None, lift_spec=None):
        """The expert's features of this batch, with its own history stream, on or off as the student's.

        lifted, lift_spec: the student's; its points and pooling index are taken over when the expert's would be equal.
        """
        if self.expert is None:
            self.load_expert(inputs["imgs"].device)
        shared = (lifted.points, lifted.index) if lift_spec == self.expert.core.lift_spec else None
        features = self.expert.features(inputs, self.history, use_history=history_enabled, geometry=shared)
        self.history = features.history
        return features

    def losses(
        self, student, inputs: dict[str, Tensor], boxes: list[Tensor], history_enabled: bool = True, lift_spec=None
    ) -> dict[str, Tensor]:
        """The distillation losses of one batch.

        Args: student, the student's `Features`; boxes, per sample (Q, 9+) x, y, z of the centre, l, w, h, yaw in the
        `bev` frame, rows as in inputs["trajectories"]; lift_spec, the student core's.
        """
        expert = self.expert_features(inputs, history_enabled, student.lifted, lift_spec)
        grid = self.expert.core.grid
        losses = {}
        if self.trajectory_weight:
            centres = self.region_centres(inputs)
            teacher, own = expert.bev, student.bev
            if self.standardise_student:
                own = standardise(own)
            if self.form == "points":
                value = point_loss(own, teacher, centres, inputs["bev_aug"], grid)
            else:
                sizes = [box[:, 3:6] for box in boxes]
                mask = trajectory_masks(centres, sizes, inputs["bev_aug"], grid, sizes_in="bev")
                value = trajectory_loss(own, teacher, mask)
            losses["loss_trajectory"] = self.trajectory_weight * value
        if self.occupancy_weight:
            losses["loss_occupancy"] = self.occupancy_weight * self._occupancy(student.lifted, expert.lifted, boxes)
        return losses

    def region_centres(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Per sample (Q, T, 3) in the current `lidar` frame: where the student is to imitate."""
        if self.region == "as_released":
            return inputs["trajectories_unaligned"]
        paths = inputs["trajectories"]
        return [path[:, :1] for path in paths] if self.region == "current" else paths

    def _occupancy(self, student, expert, boxes: list[Tensor]) -> Tensor:
        index = build_pool_index(student.points, self.occupancy_grid)
        mask = occupancy_mask(boxes, self.occupancy_grid)
        own = occupancy_volume(student.depth, index, self.occupancy_grid)
        return occupancy_loss(own, occupancy_volume(expert.depth, index, self.occupancy_grid), mask)
