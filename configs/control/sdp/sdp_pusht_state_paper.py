"""Streaming Diffusion Policy as published, at its published size (70.8 million parameters) and length. For a GPU; the
same method at CPU size: `sdp_pusht_state`."""

from mmengine.config import read_base

with read_base():
    from .dp_pusht_state_paper import *

from common.diffusion.levels import chunk_ladder

horizon = 20
model.update(horizon=horizon, per_batch=True)
model["net"].update(joint_positions=horizon)
model["patterns"] = dict(
    chunks=(0.8, dict(type=chunk_ladder, steps=steps, execute=8, prefix=observed - 1)),
    equal=(0.2, dict(type=equal, steps=steps)),
)
train_dataloader["dataset"].update(horizon=horizon)
val_cfg["plans"] = dict(
    SDP=dict(type=ladder_plan, execute=8, evaluations=50, first=observed - 1, prefix="released", eta=1.0)
)
test_cfg = val_cfg
