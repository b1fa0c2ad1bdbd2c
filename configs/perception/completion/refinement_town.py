"""The refinement network of completions: true scenes with noise of 0.2 m, back to a denser draw of them."""

from mmengine.config import read_base

with read_base():
    from .teacher_town import *

from perception.completion.refinement import RefinementModel

iterations = 1000
model = dict(type=RefinementModel, profile=profile)
train_dataloader["dataset"].update(dense=2)
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1].update(end=iterations)
