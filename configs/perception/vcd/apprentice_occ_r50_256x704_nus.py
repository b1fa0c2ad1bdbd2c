"""Apprentice with both terms: trajectory and occupancy reconstruction (released weights 0.4 and 4.0, rate 1.6e-4)."""

from mmengine.config import read_base

with read_base():
    from .apprentice_r50_256x704_nus import *

model["distiller"].update(
    occupancy_weight=4.0,
    occupancy_grid=dict(x=(-51.2, 51.2, 0.4), y=(-51.2, 51.2, 0.4), z=(-5.0, 3.0, 1.0)),
)
optim_wrapper["optimizer"].update(lr=1.6e-4)
