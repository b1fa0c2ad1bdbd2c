"""Apprentice VCD-A: the baseline distilled along trajectories from a ConvNeXt-B expert. Released: .410 / .518."""

from mmengine.config import read_base

with read_base():
    from .expert_convnextb_256x704_nus import model as expert_model
    from .baseline_r50_256x704_nus import *

from perception.detection.distiller import Distiller

model.update(
    distiller=dict(
        type=Distiller,
        expert=expert_model,
        checkpoint="work_dirs/expert_convnextb_256x704_nus/iter_39980.pth",
        trajectory_weight=0.4,
        region="trajectory",
    )
)
