"""A few-step student of `teacher_town`, by anchored Distillation-DPO. Give the teacher's checkpoint:
`--cfg-options model.checkpoint=CKPT`. Variants: model.steps, model.preset (vsd, paper, anchored, first_release).

The teacher judges without guidance, as the assistants begin: with it a student is pulled to where scenes are dense and
loses their rest. The rates fall to 0; that of the student is for four steps, one step learns best with four times as
much (`optim_wrapper.student.optimizer.lr=4e-4`)."""

from mmengine.config import read_base

with read_base():
    from .teacher_town import *

from common.engine.optim import OptimisersInTurn
from perception.completion.distillation import CompletionDistillation

iterations = 2400  # 600 updates of the student, 1,800 of the assistants
model = dict(
    type=CompletionDistillation,
    teacher=dict(profile=profile),
    checkpoint=None,
    steps=4,
    preset="anchored",
    kappa=0.25,
    critic_updates=3,
    guidance=1.0,
    scales=(1.0, 1.1),
    shared_noise=True,
    region=None,
    metric="cd",
)
train_cfg.update(max_iters=iterations, val_interval=iterations)
optim_wrapper = dict(
    constructor=OptimisersInTurn,
    student=dict(
        modules=["networks.student"],
        optimizer=dict(type=Adam, lr=1e-4, betas=(0.0, 0.99)),
        clip_grad=dict(max_norm=1.0),
    ),
    assistants=dict(
        modules=["networks.winner", "networks.loser"],
        optimizer=dict(type=Adam, lr=1e-3, betas=(0.0, 0.99)),
        clip_grad=dict(max_norm=1.0),
    ),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=50, end=iterations, eta_min=0.0),
]
custom_hooks = [dict(type=EMAHook, decay=0.997, power=0.75), draw]
linked.update(
    profile=["model.teacher.profile", *linked["profile"][1:]],
    iterations=["train_cfg.max_iters", "train_cfg.val_interval", "param_scheduler.1.end"],
)
