"""CPU-sized apprentice, distilled along trajectories from `expert_sim`."""

from mmengine.config import read_base

with read_base():
    from .baseline_sim import *
    from .expert_sim import model as expert_model

from perception.detection.distiller import Distiller

model.update(
    distiller=dict(
        type=Distiller,
        expert=expert_model,
        checkpoint="work_dirs/expert_sim/iter_1000.pth",
        trajectory_weight=0.4,
        region="trajectory",
        occupancy_weight=0.0,
        occupancy_grid=dict(x=(-38.4, 38.4, 0.8), y=(-38.4, 38.4, 0.8), z=(-5.0, 3.0, 1.0)),
    )
)
