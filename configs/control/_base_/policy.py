"""What every policy run has: loop, checkpoints, logs, windows of demonstrations, rollouts on held-out layouts.

Two things to change: `demonstrations`, a path that `tutelage collect` or another tool wrote, and `task`."""

from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer
from torch.optim import AdamW

from common.engine.hooks import EMAHook
from common.engine.loops import ResumableIterLoop
from common.engine.samplers import EndlessShuffle
from control.demonstrations.load import demonstration_windows
from control.policies.evaluation import HeldOutLayouts, RolloutLoop, SuccessMetric
from control.policies.model import FitNormalisers
from control.policies.windows import whole_batch

task = "MetaWorld-reach-v3"
demonstrations = "data/demonstrations/MetaWorld-reach-v3"
horizon, observed, steps = 16, 2, 100
iterations, batch_size = 4000, 128

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type=EndlessShuffle, batch_size=batch_size),
    collate_fn=dict(type=whole_batch),
    dataset=dict(type=demonstration_windows, path=demonstrations, horizon=horizon, observed=observed, after=7),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(type=HeldOutLayouts, count=50),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=SuccessMetric, out_dir=None)
test_evaluator = val_evaluator
train_cfg = dict(type=ResumableIterLoop, max_iters=iterations, val_interval=iterations)
val_cfg = dict(type=RolloutLoop, task=task, plans=dict(), parallel=50)
test_cfg = val_cfg
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.95, 0.999), weight_decay=1e-6),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-2, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100, end=iterations, eta_min_ratio=0.01),
]
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=100, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=1000, max_keep_ckpts=2),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
custom_hooks = [dict(type=FitNormalisers), dict(type=EMAHook, decay=0.999, power=0.75)]
env_cfg = dict(cudnn_benchmark=False)
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend), dict(type=TensorboardVisBackend)])
log_processor = dict(window_size=100, by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
linked = dict(
    task=["val_cfg.task", "test_cfg.task"],
    demonstrations=["train_dataloader.dataset.path"],
    iterations=["train_cfg.max_iters", "train_cfg.val_interval", "param_scheduler.1.end"],
    batch_size=["train_dataloader.batch_size", "train_dataloader.sampler.batch_size"],
)
