"""The teacher of `teacher_town`, tuned by Diffusion-DPO on its own completions. Give its checkpoint:
`--cfg-options model.checkpoint=CKPT`."""

from mmengine.config import read_base

with read_base():
    from .teacher_town import *

from perception.completion.tuning import CompletionTuning

iterations = 400
model = dict(type=CompletionTuning, teacher=dict(profile=profile), checkpoint=None, steps=4, guidance=2.0)
train_cfg.update(max_iters=iterations, val_interval=iterations)
optim_wrapper["optimizer"].update(lr=1e-4)
param_scheduler = [dict(type=LinearLR, start_factor=1e-2, by_epoch=False, begin=0, end=50)]
linked.update(
    profile=["model.teacher.profile", *linked["profile"][1:]],
    iterations=["train_cfg.max_iters", "train_cfg.val_interval"],
)
