"""`habit_maze_umaze` in the medium maze."""

from mmengine.config import read_base

with read_base():
    from .habit_maze_umaze import *

task = "Maze2D-Medium-v0"
demonstrations = "data/planner/Maze2D-Medium-v0"
horizon = 24
teacher["horizon"] = teacher["net"]["horizon"] = horizon
train_dataloader["dataset"].update(path=demonstrations, teacher=teacher)
val_cfg["task"] = task
test_cfg = val_cfg
val_evaluator["task"] = task
test_evaluator = val_evaluator
