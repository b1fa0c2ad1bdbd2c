"""The BEV networks: the light stage before temporal fusion, and the encoder whose output is distilled."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ConfigError
from perception.detection.layers import conv_norm_relu, residual_stage


class PreFusion(nn.Module):
    """Residual stage on one frame's BEV map before it enters the history: (B, C, Y, X) -> (B, C, Y, X)."""

    def __init__(self, channels: int = 80, blocks: int = 2, norm: str = "BN", shortcut: str = "conv3x3"):
        super().__init__()
        self.stage = residual_stage(channels, channels, blocks, norm=norm, shortcut=shortcut)

    def forward(self, bev: Tensor) -> Tensor:
        return self.stage(bev)


def _upsample(x: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return x
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=True)


class BEVEncoder(nn.Module):
    """Residual stages and a neck back to full resolution: (B, in_channels, Y, X) -> (B, out_channels, Y, X).

    Args:
        in_channels: (K + 1) * C of the fused history.
        stage_channels: widths of the residual stages (released: 160, 320, 640); blocks: per stage.
        strides: of the stages, each 1 or 2; by default all 2. With 1 first, a coarse grid keeps its cells to the head.
        neck_channels: width of the two 3x3 convolutions on the first stage's map joined with the upsampled last one.
        out_channels: width after the last upsampling and of the distilled map F.
        norm, shortcut: as in `layers.make_norm` and `layers.BasicBlock`.
    Y and X must be multiples of the product of the strides; ConfigError otherwise.
    """

    def __init__(
        self,
        in_channels: int,
        stage_channels: Sequence[int] = (160, 320, 640),
        blocks: int = 2,
        neck_channels: int = 512,
        out_channels: int = 256,
        norm: str = "BN",
        strides: Sequence[int] | None = None,
        shortcut: str = "conv3x3",
    ):
        super().__init__()
        if len(stage_channels) < 2:
            raise ConfigError(f"bev_encoder.stage_channels={tuple(stage_channels)}: give at least two stages")
        self.strides = tuple(strides or [2] * len(stage_channels))
        if len(self.strides) != len(stage_channels) or not {1, 2}.issuperset(self.strides):
            raise ConfigError(
                f"bev_encoder.strides={self.strides}: give 1 or 2 for each of {len(stage_channels)} stages"
            )
        widths = (in_channels, *stage_channels)
        self.stages = nn.ModuleList(
            residual_stage(a, b, blocks, stride=stride, norm=norm, shortcut=shortcut)
            for (a, b), stride in zip(pairwise(widths), self.strides, strict=True)
        )
        self.fuse = nn.Sequential(
            conv_norm_relu(stage_channels[0] + stage_channels[-1], neck_channels, norm=norm),
            conv_norm_relu(neck_channels, neck_channels, norm=norm),
        )
        self.output = nn.Sequential(
            conv_norm_relu(neck_channels, out_channels, norm=norm), nn.Conv2d(out_channels, out_channels, 1)
        )
        self.in_channels, self.out_channels = in_channels, out_channels

    def forward(self, bev: Tensor) -> Tensor:
        multiple = prod(self.strides)
        if bev.shape[1] != self.in_channels:
            raise ConfigError(f"bev_encoder.in_channels={self.in_channels}, but the fused map has {bev.shape[1]}")
        if bev.shape[-2] % multiple or bev.shape[-1] % multiple:
            raise ConfigError(
                f"grid of {bev.shape[-2]}x{bev.shape[-1]} cells (Y x X): strides {self.strides} need "
                f"multiples of {multiple}; change grid.x, grid.y or bev_encoder.strides"
            )
        maps, x = [], bev
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        x = torch.cat([maps[0], _upsample(maps[-1], multiple // self.strides[0])], 1)
        return self.output(_upsample(self.fuse(x), self.strides[0]))
