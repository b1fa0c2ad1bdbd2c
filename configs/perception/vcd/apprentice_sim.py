"""CPU-sized apprentice, distilled along trajectories from `expert_sim`.

It starts from a trained camera network whose map has a scale of its own, so both maps are standardised, and the
imitation weighs 0.1: with the released 0.4 on the raw map, fitting scale and offset takes most of a short training."""

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
        trajectory_weight=0.1,
        region="trajectory",
        standardise_student=True,
        occupancy_weight=0.0,
        occupancy_grid=dict(x=(-38.4, 38.4, 0.8), y=(-38.4, 38.4, 0.8), z=(-5.0, 3.0, 1.0)),
    )
)
