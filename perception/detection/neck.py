"""Image neck: a feature pyramid that returns only its finest map."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ConfigError


class FinestFPN(nn.Module):
    """1x1 laterals, nearest upsampling and addition from coarse to fine, one 3x3 output convolution on the finest map.

    No norm, no activation (released code). (BN, in_channels[i], h_i, w_i) for every level, finest first -> (BN,
    out_channels, h_0, w_0). With the paper's networks: strides 16 and 32 in, stride 16 out.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 512):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.output = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        for layer in (*self.laterals, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        if len(levels) != len(self.laterals):
            raise ConfigError(
                f"the backbone returns {len(levels)} maps, the neck has {len(self.laterals)} laterals: "
                "give neck.in_channels one entry per backbone.out_indices"
            )
        *finer, x = (lateral(level) for lateral, level in zip(self.laterals, levels, strict=True))
        for lateral in reversed(finer):
            x = lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest")
        return self.output(x)
