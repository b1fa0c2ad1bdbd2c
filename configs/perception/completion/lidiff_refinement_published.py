"""The refinement network of LiDiff as published, for its weights (perception/completion/lidiff_weights.py REFINE.ckpt
OUT.pth --refinement)."""

from mmengine.config import read_base

with read_base():
    from .refinement_town import *

profile, radius = "published", 50.0
model = dict(type=RefinementModel, profile=profile, norm="batch")
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader["dataset"].update(profile=profile)
for evaluator in (val_evaluator, test_evaluator, draw):
    evaluator.update(radius=radius)
