"""Diffusion Policy's own training, equal levels alone: what the mixture of `streaming_metaworld_state` costs it."""

from mmengine.config import read_base

with read_base():
    from .streaming_metaworld_state import *

model["patterns"] = dict(equal=(1.0, dict(type=equal, steps=steps)))
val_cfg["plans"] = dict(
    DDPM100=dict(type=chunk_plan, execute=8, evaluations=100, eta=1.0),
    DDIM10=dict(type=chunk_plan, execute=8, evaluations=10),
)
test_cfg = val_cfg
