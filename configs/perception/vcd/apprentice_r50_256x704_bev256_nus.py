"""Apprentice on the 256x256 BEV grid (0.4 m cells); the expert has the same grid."""

from mmengine.config import read_base

with read_base():
    from .apprentice_r50_256x704_nus import *

model.update(grid=dict(x=(-51.2, 51.2, 0.4), y=(-51.2, 51.2, 0.4), z=(-5.0, 3.0, 8.0)))
model["distiller"].update(checkpoint="work_dirs/expert_convnextb_256x704_bev256_nus/iter_39980.pth")
model["distiller"]["expert"].update(grid=model["grid"])
