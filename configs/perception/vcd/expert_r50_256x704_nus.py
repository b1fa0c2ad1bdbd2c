"""Expert VCD-E with the apprentice's own backbone: LiDAR depth replaces the predicted distribution."""

from mmengine.config import read_base

with read_base():
    from .baseline_r50_256x704_nus import *

model.update(lidar_prior=True)

sync_bn = "torch"  # with several processes; the recipe synchronises the expert alone
