"""The sparse 3-D U-Net of LiDAR scene completion (LiDiff, CVPR 2024): scan encoder, denoiser, refinement network.

Letters: P points, V voxels of a level, R voxels of the encoder's last level, B samples, C channels. A U-Net of L
downward steps has L + 1 levels; `down` are the L + 1 widths on the way down, `up` the L widths on the way up:
(32, 32, 64, 128, 256) and (256, 128, 96, 96) as published.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.nn.embeddings import sinusoid
from common.nn.sparse.conv import conv3, down2, gather, kernel, up2
from common.nn.sparse.tables import Level, Rows

DOWN, UP = (32, 32, 64, 128, 256), (256, 128, 96, 96)
TIME = 96  # width of the time embedding
OFFSETS = 6  # refinement: points per point
EPS = 1e-5


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the occupied voxels of all samples."""

    def forward(self, x: Tensor, level: Level) -> Tensor:
        return super().forward(x)


class InstanceNorm(nn.Module):
    """Norm over the voxels of each sample, in training as in evaluation: no running statistics, no other samples."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, level: Level) -> Tensor:
        if torch.compiler.is_compiling():  # an export: one sample
            centred = x - x.mean(0)
            return centred * (centred.square().mean(0) + EPS).rsqrt() * self.weight + self.bias
        parts = x.split(level.sizes) if level.samples > 1 else [x]
        normal = [torch.batch_norm(one, self.weight, self.bias, None, None, True, 0.1, EPS, False) for one in parts]
        return torch.cat(normal) if len(normal) > 1 else normal[0]


NORMS = {"batch": BatchNorm, "instance": InstanceNorm}


class Conv3(nn.Module):
    """3 x 3 x 3 convolution and norm."""

    def __init__(self, inputs: int, outputs: int, norm: type[nn.Module]):
        super().__init__()
        self.kernel, self.norm = kernel(27, inputs, outputs), norm(outputs)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        return self.norm(conv3(x, self.kernel, level), level)


class Residual(nn.Module):
    """Two convolutions beside an identity, or a linear map where the width changes."""

    def __init__(self, inputs: int, outputs: int, norm: type[nn.Module]):
        super().__init__()
        self.first, self.second = Conv3(inputs, outputs, norm), Conv3(outputs, outputs, norm)
        self.shortcut = nn.Linear(inputs, outputs, bias=False) if inputs != outputs else None
        self.shortcut_norm = norm(outputs) if inputs != outputs else None

    def forward(self, x: Tensor, level: Level) -> Tensor:
        beside = x if self.shortcut is None else self.shortcut_norm(self.shortcut(x), level)
        return (self.second(self.first(x, level).relu(), level) + beside).relu()


class Stem(nn.Module):
    """Two convolutions at the finest level."""

    def __init__(self, inputs: int, outputs: int, norm: type[nn.Module]):
        super().__init__()
        self.first, self.second = Conv3(inputs, outputs, norm), Conv3(outputs, outputs, norm)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        return self.second(self.first(x, level).relu(), level).relu()


class Down(nn.Module):
    """To the next coarser level, then two residual blocks."""

    def __init__(self, inputs: int, outputs: int, norm: type[nn.Module]):
        super().__init__()
        self.kernel, self.norm = kernel(8, inputs, inputs), norm(inputs)
        self.blocks = nn.ModuleList([Residual(inputs, outputs, norm), Residual(outputs, outputs, norm)])

    def forward(self, x: Tensor, fine: Level, coarse: Level) -> Tensor:
        x = self.norm(down2(x, self.kernel, fine), coarse).relu()
        for block in self.blocks:
            x = block(x, coarse)
        return x


class Up(nn.Module):
    """To the next finer level, beside what was there on the way down, then two residual blocks."""

    def __init__(self, inputs: int, outputs: int, skip: int, norm: type[nn.Module]):
        super().__init__()
        self.kernel, self.norm = kernel(8, inputs, outputs), norm(outputs)
        self.blocks = nn.ModuleList([Residual(outputs + skip, outputs, norm), Residual(outputs, outputs, norm)])

    def forward(self, x: Tensor, skip: Tensor, fine: Level) -> Tensor:
        x = self.norm(up2(x, self.kernel, fine), fine).relu()
        x = torch.cat([x, skip], 1)
        for block in self.blocks:
            x = block(x, fine)
        return x


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, LeakyReLU(0.1), linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, outputs))


class Modulation(nn.Module):
    """Factors for voxel features from the time and from the nearest encoder voxel, without residual or shift.

    The factors depend on the encoder's voxel and its sample's time alone: they are computed for the R encoder voxels
    and gathered, which equals the published order of operations and is cheaper.
    """

    def __init__(self, channels: int, hidden: int, encoded: int, time_first: bool = False):
        super().__init__()
        self.time, self.part = mlp(TIME, TIME, encoded), mlp(encoded, encoded, encoded)
        self.factor = mlp(2 * encoded, hidden, channels)
        self.time_first = time_first

    def forward(self, x: Tensor, time: Tensor, encoded: Tensor, encoded_sample: Tensor, match: Rows) -> Tensor:
        """x (V, C); time (B, TIME); encoded (R, E) of samples (R,); match: the row of encoded of every voxel."""
        both = [self.part(encoded), self.time(time).index_select(0, encoded_sample)]
        factor = self.factor(torch.cat(both[::-1] if self.time_first else both, 1))
        return x * gather(factor, match)


def check_widths(down: Sequence[int], up: Sequence[int]) -> None:
    """Raises ConfigError unless there is one width more on the way down."""
    if len(down) != len(up) + 1 or not up:
        raise ConfigError(f"widths down={tuple(down)}, up={tuple(up)}: wanted one more on the way down than up")


class ScanEncoder(nn.Module):
    """Stem and downward half: voxel features (V, inputs) -> (R, down[-1])."""

    def __init__(self, inputs: int = 3, down: Sequence[int] = DOWN, norm: str = "batch"):
        super().__init__()
        kind = NORMS[norm]
        self.stem = Stem(inputs, down[0], kind)
        self.down = nn.ModuleList(Down(a, b, kind) for a, b in pairwise(down))

    def forward(self, x: Tensor, levels: Sequence[Level]) -> Tensor:
        x = self.stem(x, levels[0])
        for step, (fine, coarse) in zip(self.down, pairwise(levels), strict=True):
            x = step(x, fine, coarse)
        return x


class UNet(nn.Module):
    """Voxel features (V, inputs) -> (V, up[-1]). `modulate` is called before every step, with x and the number of the
    step: 0..L-1 downwards, L..2L-1 upwards."""

    def __init__(self, inputs: int = 3, down: Sequence[int] = DOWN, up: Sequence[int] = UP, norm: str = "batch"):
        super().__init__()
        check_widths(down, up)
        kind = NORMS[norm]
        self.stem = Stem(inputs, down[0], kind)
        self.down = nn.ModuleList(Down(a, b, kind) for a, b in pairwise(down))
        skips = tuple(down[-2::-1])
        self.up = nn.ModuleList(
            Up(a, b, skip, kind) for (a, b), skip in zip(pairwise((down[-1], *up)), skips, strict=True)
        )

    def forward(self, x: Tensor, levels: Sequence[Level], modulate=lambda x, step: x) -> Tensor:
        x = self.stem(x, levels[0])
        skips = []
        for i, (step, (fine, coarse)) in enumerate(zip(self.down, pairwise(levels), strict=True)):
            skips.append(x)
            x = step(modulate(x, i), fine, coarse)
        for i, step in enumerate(self.up):
            fine = levels[len(self.down) - 1 - i]
            x = step(modulate(x, len(self.down) + i), skips.pop(), fine)
        return x


class ScanDenoiser(nn.Module):
    """The U-Net under modulation by time and scan, with a head per point.

    Args: inputs; down; up; norm; encoded: width E of the scan encoder's features.
    """

    def __init__(
        self, inputs: int = 3, down: Sequence[int] = DOWN, up: Sequence[int] = UP, norm: str = "batch",
        encoded: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.unet = UNet(inputs, down, up, norm)
        encoded = encoded or down[-1]
        before_up = (down[-1], *up[:-1])
        self.modulation = nn.ModuleList(
            [*(Modulation(c, encoded, encoded) for c in down[:-1]),
             *(Modulation(c, c, encoded, time_first=i == 0) for i, c in enumerate(before_up))]
        )  # fmt: skip
        self.head = mlp(up[-1], 20, 3)

    def forward(
        self,
        x: Tensor,
        index: Tensor,
        encoded: Tensor,
        encoded_sample: Tensor,
        matches: Sequence[Rows],
        levels: Sequence[Level],
        of_points: Rows,
    ) -> Tensor:
        """Predicted noise (P, 3).

        Args: x (V, inputs) voxel features; index (B,) step 0..999 of the published schedule; encoded (R, E) of samples
        (R,); matches: for every level the row of encoded nearest to each voxel; of_points: the voxel of every point.
        """
        time = sinusoid(index.to(x), TIME)
        last = len(levels) - 1

        def modulate(x: Tensor, step: int) -> Tensor:
            level = step if step < last else 2 * last - step
            return self.modulation[step](x, time, encoded, encoded_sample, matches[level])

        return self.head(gather(self.unet(x, levels, modulate), of_points))


class Refinement(nn.Module):
    """Six offsets of at most 1 m for every point: (V, inputs) -> (P, 6, 3)."""

    def __init__(self, inputs: int = 3, down: Sequence[int] = DOWN, up: Sequence[int] = UP, norm: str = "batch"):
        super().__init__()
        self.unet = UNet(inputs, down, up, norm)
        self.head = nn.Sequential(*mlp(up[-1], 20, 3 * OFFSETS), nn.Tanh())

    def forward(self, x: Tensor, levels: Sequence[Level], of_points: Rows) -> Tensor:
        return self.head(gather(self.unet(x, levels), of_points)).unflatten(-1, (OFFSETS, 3))
