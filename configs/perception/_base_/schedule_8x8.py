"""The published recipe: 8 GPUs x 8 samples, 39,980 iterations (20 "epochs" of 1,999), EMA weights, history from 3,998.

Learning rate and iterations are for a global batch of 64; with another batch the rate is scaled linearly."""

from mmengine.optim import LinearLR, OptimWrapper
from torch.optim import AdamW

from common.engine.hooks import CallAtHook, EMAHook

optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-4, weight_decay=1e-2),
    clip_grad=dict(max_norm=5, norm_type=2),
)
param_scheduler = [dict(type=LinearLR, start_factor=1e-3, by_epoch=False, begin=0, end=200)]
auto_scale_lr = dict(enable=True, base_batch_size=64)
schedule_hooks = [dict(type=EMAHook, offset=10560), dict(type=CallAtHook, at=3998, method="enable_history")]
