"""Diffuser (arXiv 2205.09991) on the data of `maze_umaze`: plans of states and actions, bent by a value's gradient."""

from mmengine.config import read_base

with read_base():
    from .maze_umaze import *

from control.planning.diffuser.guided import GuidedDiffuserModel

horizon, steps = 64, 20
model = dict(
    type=GuidedDiffuserModel,
    state_dim=state_dim,
    action_dim=action_dim,
    horizon=horizon,
    net=dict(type=ConditionalTransformer, horizon=horizon, width=128, depth=2, level_scale=float(steps)),
    process=dict(type=vp_cosine, steps=steps),
)
train_dataloader["dataset"].update(length=horizon, stride=1, whole_actions=True)
val_cfg["plans"] = dict(diffuser=dict(plans=8, scale=0.1, execute=8), diffuser_x1=dict(plans=8, scale=0.1))
test_cfg = val_cfg
