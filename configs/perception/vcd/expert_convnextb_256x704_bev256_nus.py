"""ConvNeXt-B expert on the 256x256 BEV grid (0.4 m cells)."""

from mmengine.config import read_base

with read_base():
    from .expert_convnextb_256x704_nus import *

model.update(grid=dict(x=(-51.2, 51.2, 0.4), y=(-51.2, 51.2, 0.4), z=(-5.0, 3.0, 8.0)))
