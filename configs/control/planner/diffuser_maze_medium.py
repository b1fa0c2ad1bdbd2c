"""`diffuser_maze_umaze` in the medium maze: plans of 128 steps."""

from mmengine.config import read_base

with read_base():
    from .diffuser_maze_umaze import *

task = "Maze2D-Medium-v0"
demonstrations = "data/planner/Maze2D-Medium-v0"
horizon, within = 128, 184
model["horizon"] = model["net"]["horizon"] = horizon
train_dataloader["dataset"].update(path=demonstrations, task=task, length=horizon, within=within)
val_cfg["task"] = task
test_cfg = val_cfg
val_evaluator["task"] = task
test_evaluator = val_evaluator
