"""`student_maze_umaze` in the medium maze."""

from mmengine.config import read_base

with read_base():
    from .maze_medium import *

from control.planning.diffuser.student import PlannerStudent

level = 10
iterations = 2000
model.update(type=PlannerStudent, checkpoint=None, plan=dict(level=level, **asks))
val_cfg["plans"] = dict(one_step=dict(level=level, steps=1, eta=0.0, **asks))
test_cfg = val_cfg
optim_wrapper["optimizer"]["lr"] = 3e-4
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1]["end"] = iterations
