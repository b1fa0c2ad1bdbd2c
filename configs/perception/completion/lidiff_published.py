"""LiDiff as published (CVPR 2024): networks, features, guidance, sampler and regulariser of the released code, for its
weights (perception/completion/lidiff_weights.py) and for parity. Data: simulated towns of 50 m; a GPU's size."""

from mmengine.config import read_base

with read_base():
    from .teacher_town import *

profile, radius = "published", 50.0
model = dict(
    type=CompletionModel,
    profile=profile,
    norm="batch",
    sampler="vp_offset",
    steps=50,
    guidance=6.0,
    regulariser=5.0,
)
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader["dataset"].update(profile=profile)
for evaluator in (val_evaluator, test_evaluator, draw):
    evaluator.update(radius=radius)
