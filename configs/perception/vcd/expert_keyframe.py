"""A small single-frame expert to be overfitted to one real key frame (benchmarks/real_keyframe.py)."""

from mmengine.config import read_base

with read_base():
    from .baseline_sim import *

image_hw = (128, 352)
train_pipeline[0].update(size=image_hw, training=False)
train_pipeline[1].update(x=(-51.2, 51.2), y=(-51.2, 51.2))
train_pipeline[2].update(high=60.0)
test_pipeline[0].update(size=image_hw)
test_pipeline[1].update(high=60.0)
train_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
train_dataloader["dataset"].update(pipeline=train_pipeline)
val_dataloader.update(num_workers=0, persistent_workers=False)
val_dataloader["dataset"].update(pipeline=test_pipeline)
test_dataloader = val_dataloader

model.update(
    lidar_prior=True,
    image_hw=image_hw,
    stride=8,
    history_frames=0,
    depth_bins=dict(low=1.0, high=60.0, step=1.0),
    grid=dict(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0)),
)
model["image_backbone"].update(
    num_stages=3,
    strides=(1, 2, 2),
    dilations=(1, 1, 1),
    out_indices=(1, 2),
    norm_cfg=dict(type="GN", num_groups=4, requires_grad=True),
)
model["image_neck"].update(in_channels=(32, 64))
model["depth_net"].update(norm="GN", context_channels=24)
model["pre_fusion"].update(norm="GN", channels=24)
model["bev_encoder"].update(norm="GN", in_channels=24)
model["head"].update(norm="GN", branch_channels=16)
model["decoder"].update(score_threshold=0.02)
iterations = 300
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[0].update(end=20)
param_scheduler[1].update(begin=20, end=iterations)
default_hooks["checkpoint"].update(interval=100)
custom_hooks[0].update(frames=1, score_threshold=0.2)
custom_hooks[1].update(decay=0.97, gamma=20)
