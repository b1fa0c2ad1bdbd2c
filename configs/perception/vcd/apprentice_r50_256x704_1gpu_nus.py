"""`apprentice_r50_256x704_nus` on one GPU: batch 8, the same number of samples in all."""

from mmengine.config import read_base

with read_base():
    from .apprentice_r50_256x704_nus import *

train_cfg.update(max_iters=8 * 39980, val_interval=8 * 7996)
param_scheduler[0].update(end=8 * 200)
default_hooks["checkpoint"].update(interval=8 * 1999)
# EMA over eight times the iterations, the history switched on at eight times the published iteration
custom_hooks[1].update(decay=0.999875, gamma=16000, offset=8 * 10560)
custom_hooks[2].update(at=8 * 3998)
model["distiller"].update(checkpoint="work_dirs/expert_convnextb_256x704_1gpu_nus/iter_319840.pth")
