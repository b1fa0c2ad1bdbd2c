"""Building blocks shared by the detector's networks: the norm policy, conv-norm-ReLU, the residual basic block."""

from torch import Tensor, nn

from common.errors import ConfigError

NORMS = ("BN", "GN", "SyncBN")


def make_norm(norm: str, channels: int) -> nn.Module:
    """The normalisation layer of every network here.

    "BN": per-process batch statistics, right from about 4 samples a process upwards. "SyncBN": the same over all
    processes (CUDA; on the CPU torch refuses it once more than one process runs). "GN": no batch statistics, for small
    batches; the number of groups is the largest divisor of `channels` up to 32 that leaves at least 4 channels a group
    (or 1). Raises ConfigError for other names.
    """
    if norm == "BN":
        return nn.BatchNorm2d(channels)
    if norm == "SyncBN":
        return nn.SyncBatchNorm(channels)
    if norm == "GN":
        groups = max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels // g >= 4))
        return nn.GroupNorm(groups, channels)
    raise ConfigError(f"norm={norm!r}: choose one of {', '.join(NORMS)}")


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, *, dilation: int = 1, norm: str = "BN") -> nn.Sequential:
    """Convolution without bias that keeps the map's size (stride 1), norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        make_norm(norm, outputs),
        nn.ReLU(inplace=True),
    )


SHORTCUTS = ("conv3x3", "projection")


class BasicBlock(nn.Module):
    """ReLU(x' + norm(conv3x3(ReLU(norm(conv3x3(x)))))), x' = x or, with `project`, a convolution of x.

    (B, inputs, H, W) -> (B, outputs, H / stride, W / stride).
    shortcut: "conv3x3", the released code's 3x3 convolution without norm, or "projection", ResNet's 1x1 convolution
        with norm. The first hands the scale of its input on: pooled maps are sums over some to some hundred points a
        cell, and until the next norm the crowded cells next to the ego drown the others. From random weights and with
        little training use the second.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        project: bool = False,
        norm: str = "BN",
        shortcut: str = "conv3x3",
    ):
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise ConfigError(f"shortcut={shortcut!r}: choose one of {', '.join(SHORTCUTS)}")
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = make_norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = make_norm(norm, outputs)
        if not (project or stride != 1 or inputs != outputs):
            self.shortcut = nn.Identity()
        elif shortcut == "conv3x3":
            self.shortcut = nn.Conv2d(inputs, outputs, 3, stride, 1)
        else:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), make_norm(norm, outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(residual + self.shortcut(x))


def residual_stage(
    inputs: int, outputs: int, blocks: int, *, stride: int = 1, norm: str = "BN", shortcut: str = "conv3x3"
) -> nn.Sequential:
    """`blocks` basic blocks; the first one strides and always has a convolution in its shortcut."""
    if blocks < 1:
        raise ConfigError(f"blocks={blocks}: a residual stage needs at least one block")
    first = BasicBlock(inputs, outputs, stride=stride, project=True, norm=norm, shortcut=shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, norm=norm) for _ in range(blocks - 1)))
