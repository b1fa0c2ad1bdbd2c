"""Expert VCD-E with ConvNeXt-B (ImageNet-22k). Released: mAP .538, NDS .606."""

from mmengine.config import read_base

with read_base():
    from .baseline_r50_256x704_nus import *

from perception.detection.convnext import ConvNeXt

model["image_backbone"] = dict(
    type=ConvNeXt, arch="base", out_indices=(2, 3), drop_path=0.5, layer_scale=1.0, with_cp=True
)
# image_weights: the official convnext_base_22k_1k_224 state dict, placed here by the user; None trains from scratch
model.update(lidar_prior=True, image_weights="checkpoints/convnext_base_22k_1k_224.pth")
model["image_neck"].update(in_channels=(512, 1024))

sync_bn = "torch"  # with several processes; the recipe synchronises the expert alone
