"""Streaming Diffusion Policy as published (arXiv 2406.04806, state Push-T): one global code of all levels, noise
prediction, 0.8 chunk-wise and 0.2 equal levels drawn per batch, horizon 20, chunks of 8, the oldest observation at
position 0. Its released prefix (clean values, noisy level) is the default of the plan."""

from mmengine.config import read_base

with read_base():
    from .streaming_pusht_state import *

from common.diffusion.levels import chunk_ladder

horizon = 20
model.update(prediction="eps", horizon=horizon, offset=observed - 1, per_batch=True)
model["net"].update(joint_positions=horizon)
model["patterns"] = dict(
    chunks=(0.8, dict(type=chunk_ladder, steps=steps, execute=8, prefix=observed - 1)),
    equal=(0.2, dict(type=equal, steps=steps)),
)
train_dataloader["dataset"].update(horizon=horizon, offset=observed - 1, after=7)
val_cfg["plans"] = dict(
    SDP=dict(type=ladder_plan, execute=8, evaluations=50, first=observed - 1, prefix="released", eta=1.0)
)
test_cfg = val_cfg
