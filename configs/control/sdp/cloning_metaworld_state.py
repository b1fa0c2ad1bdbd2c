"""Plain behaviour cloning with an MLP: the next action from the last two observations."""

from mmengine.config import read_base

with read_base():
    from .._base_.policy import *

from control.policies.cloning import CloningModel
from control.policies.encoders import StateEncoder

model = dict(
    type=CloningModel,
    action_dim=4,
    observed=observed,
    encoders=dict(state=dict(type=StateEncoder, width=39)),
    widths=(256, 256),
)
train_dataloader["dataset"].update(horizon=1, after=0)
val_cfg.update(plans=dict(BC=dict()))
test_cfg = val_cfg
