"""Negative control: independent levels alone (diffusion forcing's training), run as a ladder."""

from mmengine.config import read_base

with read_base():
    from .streaming_metaworld_state import *

model["patterns"] = dict(iid=(1.0, dict(type=iid, steps=steps)))
val_cfg["plans"] = dict(streaming=dict(type=ladder_plan, execute=1, evaluations=1))
test_cfg = val_cfg
