"""Diffusion Policy as published (arXiv 2303.04137, state Push-T, CNN): one level for all positions, noise prediction,
position 0 at the older observation, 65.8 million parameters, 4,500 epochs of the human demonstrations. For a GPU."""

from mmengine.config import read_base

with read_base():
    from .streaming_pusht_state import *

iterations = 427_500  # 4,500 epochs of 95 batches
batch_size = 256
model.update(prediction="eps", offset=observed - 1, patterns=dict(equal=(1.0, dict(type=equal, steps=steps))))
model["net"].update(widths=(256, 512, 1024), level_width=256)
train_dataloader["dataset"].update(offset=observed - 1, after=7)
train_dataloader.update(batch_size=batch_size)
train_dataloader["sampler"].update(batch_size=batch_size)
optim_wrapper.update(optimizer=dict(type=AdamW, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6), clip_grad=None)
param_scheduler[0].update(end=500)
param_scheduler[1].update(begin=500, end=iterations, eta_min_ratio=0.0)
custom_hooks[1].update(decay=0.9999)
train_cfg.update(max_iters=iterations, val_interval=19_000)
default_hooks["checkpoint"].update(interval=19_000)
val_cfg["plans"] = dict(
    DDPM100=dict(type=chunk_plan, execute=8, evaluations=100, first=observed - 1, eta=1.0),
    DDIM10=dict(type=chunk_plan, execute=8, evaluations=10, first=observed - 1),
)
test_cfg = val_cfg
