"""`hopper` for HalfCheetah-v5: `tutelage collect HalfCheetah-v5 data/planner/halfcheetah-medium-expert-like --mix
medium-expert --steps 200000 --agents data/agents/halfcheetah`."""

from mmengine.config import read_base

with read_base():
    from .hopper import *

task = "HalfCheetah-v5"
demonstrations = "data/planner/halfcheetah-medium-expert-like"
state_dim, action_dim = 17, 6
model.update(state_dim=state_dim, action_dim=action_dim)
train_dataloader["dataset"].update(path=demonstrations, task=task)
val_cfg["task"] = task
test_cfg = val_cfg
val_evaluator["task"] = task
test_evaluator = val_evaluator
