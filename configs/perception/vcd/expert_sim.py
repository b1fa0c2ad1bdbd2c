"""CPU-sized expert: the baseline with LiDAR as its depth prior."""

from mmengine.config import read_base

with read_base():
    from .baseline_sim import *

model.update(lidar_prior=True)
