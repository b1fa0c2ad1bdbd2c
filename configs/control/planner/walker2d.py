"""`hopper` for Walker2d-v5: `tutelage collect Walker2d-v5 data/planner/walker2d-medium-expert-like --mix
medium-expert --steps 200000 --agents data/agents/walker2d`."""

from mmengine.config import read_base

with read_base():
    from .hopper import *

task = "Walker2d-v5"
demonstrations = "data/planner/walker2d-medium-expert-like"
state_dim, action_dim = 17, 6
model.update(state_dim=state_dim, action_dim=action_dim)
train_dataloader["dataset"].update(path=demonstrations, task=task)
val_cfg["task"] = task
test_cfg = val_cfg
val_evaluator["task"] = task
test_evaluator = val_evaluator
