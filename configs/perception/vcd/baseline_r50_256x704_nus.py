"""Camera-only baseline: ResNet-50, 256x704, 8+1 frames, 128x128 BEV. Released online baseline: mAP .389, NDS .493."""

from mmdet.models import ResNet
from mmengine.config import read_base

with read_base():
    from .._base_.nuscenes_data import *
    from .._base_.schedule_8x8 import *

from perception.detection.bev_encoder import BEVEncoder, PreFusion
from perception.detection.depth_net import DepthNet
from perception.detection.head import CenterHead
from perception.detection.neck import FinestFPN
from perception.detection.vcd import VCDDetector

tasks = [
    ["car"],
    ["truck", "construction_vehicle"],
    ["bus", "trailer"],
    ["barrier"],
    ["motorcycle", "bicycle"],
    ["pedestrian", "traffic_cone"],
]
model = dict(
    type=VCDDetector,
    data_preprocessor=data_preprocessor,
    grid=dict(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0)),
    depth_bins=dict(low=1.0, high=60.0, step=0.5),
    image_hw=image_hw,
    stride=16,
    image_backbone=dict(
        type=ResNet,
        depth=50,
        num_stages=4,
        out_indices=(2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        with_cp=True,
        style="pytorch",
        # ImageNet weights: a state dict of torchvision's ResNet-50 (IMAGENET1K_V1), placed here by the user
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/resnet50-0676ba61.pth"),
    ),
    image_neck=dict(type=FinestFPN, in_channels=(1024, 2048), out_channels=512),
    depth_net=dict(type=DepthNet, in_channels=512, mid_channels=512, context_channels=80),
    pre_fusion=dict(type=PreFusion, channels=80),
    history_frames=past_frames,
    history_at_start=False,
    bev_encoder=dict(type=BEVEncoder, in_channels=80 * (past_frames + 1), out_channels=256),
    head=dict(type=CenterHead, in_channels=256, tasks=tasks),
)
custom_hooks += schedule_hooks
