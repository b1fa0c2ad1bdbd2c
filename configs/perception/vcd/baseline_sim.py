"""CPU-sized baseline for the simulated driving world: 64x176 images, features at stride 4 (the angular resolution of
256x704 at stride 16), 48x48 BEV cells of 1.6 m, 3+1 frames.

Made for a few thousand samples from random weights: normed shortcuts and a head that keeps the grid's cells
(docs/vcd.md, 'The simulated family'), no BEV augmentation and a small one of the images, lighter depth and velocity
losses, and short clips, so that few batch slots see many scenes."""

from mmdet.models import ResNet
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR
from torch.optim import AdamW

with read_base():
    from .._base_.nuscenes_data import *

from common.engine.hooks import EMAHook
from common.engine.precision import Bfloat16OptimWrapper
from perception.detection.bev_encoder import BEVEncoder, PreFusion
from perception.detection.depth_net import DepthNet
from perception.detection.head import CenterHead
from perception.detection.neck import FinestFPN
from perception.detection.vcd import VCDDetector

image_hw = (64, 176)
past_frames = 3
train_pipeline[0].update(size=image_hw, resize=(-0.01, 0.02), rotation=0.03, cache=True)
del train_pipeline[1]
train_pipeline[1].update(x=(-38.4, 38.4), y=(-38.4, 38.4))
train_pipeline[2].update(high=45.0)
test_pipeline[0].update(size=image_hw, cache=True)
test_pipeline[1].update(high=45.0)
train_dataloader.update(batch_size=4, num_workers=1)
train_dataloader["dataset"].update(pipeline=train_pipeline, trajectory_frames=past_frames, split_sequences=2)
val_dataloader.update(num_workers=1)
val_dataloader["dataset"].update(pipeline=test_pipeline, trajectory_frames=past_frames)
test_dataloader = val_dataloader

tasks = [
    ["car", "truck", "construction_vehicle", "bus", "trailer"],
    ["barrier", "motorcycle", "bicycle"],
    ["pedestrian", "traffic_cone"],
]
model = dict(
    type=VCDDetector,
    data_preprocessor=data_preprocessor,
    grid=dict(x=(-38.4, 38.4, 1.6), y=(-38.4, 38.4, 1.6), z=(-5.0, 3.0, 8.0)),
    depth_bins=dict(low=1.0, high=45.0, step=1.0),
    image_hw=image_hw,
    stride=4,
    channels_last=True,
    image_backbone=dict(
        type=ResNet,
        depth=18,
        base_channels=16,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(0, 1),
        norm_eval=False,  # mmdet's default freezes the statistics, which suits pretrained weights alone
    ),
    image_neck=dict(type=FinestFPN, in_channels=(16, 32), out_channels=32),
    depth_net=dict(
        type=DepthNet, in_channels=32, mid_channels=32, context_channels=16, aspp=(), num_blocks=1, camera_norm="fixed"
    ),
    pre_fusion=dict(type=PreFusion, channels=16, blocks=1, shortcut="projection"),
    history_frames=past_frames,
    depth_loss_weight=1.0,
    bev_encoder=dict(
        type=BEVEncoder,
        in_channels=16 * (past_frames + 1),
        stage_channels=(32, 64, 64),
        strides=(1, 2, 2),
        blocks=1,
        neck_channels=32,
        out_channels=32,
        shortcut="projection",
    ),
    head=dict(
        type=CenterHead,
        in_channels=32,
        tasks=tasks,
        shared_channels=32,
        branch_channels=8,
        min_radius=1,  # cells of 1.6 m
        code_weights=(1.0,) * 8 + (0.2,) * 2,
    ),
    # one task holds barriers and cycles, so barriers are suppressed by overlap and not by centre distance
    decoder=dict(score_threshold=0.05, peaks_per_task=120, max_per_task=60, circle_radius={}),
)
optim_wrapper = dict(
    type=Bfloat16OptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-3, weight_decay=1e-2),
    clip_grad=dict(max_norm=35, norm_type=2),
)
iterations = 1000
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=50, end=iterations, eta_min_ratio=0.02),
]
linked.update(iterations=["train_cfg.max_iters", "train_cfg.val_interval", "param_scheduler.1.end"])
default_hooks["checkpoint"].update(interval=200, max_keep_ckpts=2)
custom_hooks += [dict(type=EMAHook, decay=0.995, gamma=100)]
