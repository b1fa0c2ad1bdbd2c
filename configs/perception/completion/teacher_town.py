"""LiDiff-style teacher on simulated towns: local diffusion with LiDiff's noise, no regulariser, instance norm, the
sampler that matches the noising. `profile` sizes all of it: ci, cpu_hour, gpu."""

from mmengine.config import read_base
from mmengine.dataset.utils import default_collate
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch.optim import Adam

with read_base():
    from .._base_.runtime import *

from common.engine.hooks import EMAHook
from common.engine.samplers import EndlessShuffle
from perception.completion.dataset import TownScenes
from perception.completion.evaluation import SceneMetric
from perception.completion.model import CompletionModel
from perception.completion.pictures import DrawScenes

default_scope = "mmengine"
profile, radius, towns = "cpu_hour", 16.0, "data/towns"
iterations, batch_size = 4000, 2

model = dict(type=CompletionModel, profile=profile, steps=20, guidance=2.0)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type=EndlessShuffle, batch_size=batch_size),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=TownScenes, folder=towns, profile=profile, count=None, dense=0),  # None: the profile's
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=TownScenes, folder=towns, profile=profile, train=False, count=None, dense=8),
)
test_dataloader = dict(**val_dataloader)
val_evaluator = dict(type=SceneMetric, radius=radius)
test_evaluator = dict(type=SceneMetric, radius=radius, transport=True)
train_cfg.update(max_iters=iterations, val_interval=iterations)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-2, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100, end=iterations, eta_min_ratio=0.1),
]
default_hooks["checkpoint"].update(interval=500, max_keep_ckpts=2)
draw = dict(type=DrawScenes, radius=radius)
custom_hooks = [dict(type=EMAHook, decay=0.999, power=0.75), draw]
linked = dict(
    profile=["model.profile", "train_dataloader.dataset.profile", "val_dataloader.dataset.profile",
             "test_dataloader.dataset.profile"],
    radius=["val_evaluator.radius", "test_evaluator.radius", "custom_hooks.1.radius"],
    towns=["train_dataloader.dataset.folder", "val_dataloader.dataset.folder", "test_dataloader.dataset.folder"],
    iterations=["train_cfg.max_iters", "train_cfg.val_interval", "param_scheduler.1.end"],
    batch_size=["train_dataloader.batch_size", "train_dataloader.sampler.batch_size"],
)  # fmt: skip
