from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.optim import LinearLR, OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from tiny_regression import DrawSampler, LineData, MeanError, Regressor
from torch.optim import AdamW

from common.engine.hooks import CallAtHook, EMAHook
from common.engine.loops import ResumableIterLoop

model = dict(type=Regressor, dropout=0.2, batch_norm=True)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type=LineData, length=24, unseeded_noise=0.05),
    sampler=dict(type=DrawSampler, batch_size=4),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(type=LineData, length=16, seed=4, augment=False),
    sampler=dict(type=DefaultSampler, shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=MeanError)
test_evaluator = val_evaluator
train_cfg = dict(type=ResumableIterLoop, max_iters=24, val_interval=8)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=0.02), clip_grad=dict(max_norm=5))
param_scheduler = [dict(type=LinearLR, start_factor=0.1, by_epoch=False, begin=0, end=10)]
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(type=CheckpointHook, interval=4, by_epoch=False, max_keep_ckpts=3),
)
custom_hooks = [dict(type=EMAHook, offset=100), dict(type=CallAtHook, at=6, method="enable_history")]
log_processor = dict(by_epoch=False, window_size=1)
randomness = dict(seed=11)
