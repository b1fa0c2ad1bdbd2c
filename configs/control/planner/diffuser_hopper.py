"""Diffuser on the data of `hopper`: 32 steps of states and actions."""

from mmengine.config import read_base

with read_base():
    from .hopper import *

from control.planning.diffuser.guided import GuidedDiffuserModel

horizon, steps = 32, 20
model = dict(
    type=GuidedDiffuserModel,
    state_dim=state_dim,
    action_dim=action_dim,
    horizon=horizon,
    net=dict(type=ConditionalTransformer, horizon=horizon, width=128, depth=2, level_scale=float(steps)),
    process=dict(type=vp_cosine, steps=steps),
)
train_dataloader["dataset"].update(length=horizon, whole_actions=True)
val_cfg["plans"] = dict(diffuser=dict(plans=8, scale=0.1, execute=4), diffuser_x1=dict(plans=64, scale=0.1))
test_cfg = val_cfg
