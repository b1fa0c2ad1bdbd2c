"""Streaming Diffusion Policy as published, on the tasks of `streaming_metaworld_state` (see `sdp_pusht_state`).

But for its windows: they reach as far behind an episode as those it is compared with, or its last steps would never be
observed in training."""

from mmengine.config import read_base

with read_base():
    from .streaming_metaworld_state import *

from common.diffusion.levels import chunk_ladder

horizon = 18  # two chunks of 8 behind the prefix; even, for the network
model.update(prediction="eps", horizon=horizon, offset=observed - 1, per_batch=True)
model["net"].update(joint_positions=horizon)
model["patterns"] = dict(
    chunks=(0.8, dict(type=chunk_ladder, steps=steps, execute=8, prefix=observed - 1)),
    equal=(0.2, dict(type=equal, steps=steps)),
)
train_dataloader["dataset"].update(horizon=horizon, offset=observed - 1, after=horizon - 1)
val_cfg["plans"] = dict(
    SDP=dict(type=ladder_plan, execute=8, evaluations=50, first=observed - 1, prefix="released", eta=1.0)
)
test_cfg = val_cfg
