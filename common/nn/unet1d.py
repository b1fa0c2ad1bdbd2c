"""Conditional 1-D U-Net over time (Diffusion Policy, arXiv 2303.04137) with a noise level per position.

Letters: B batch, T positions, A action width, O condition width, C channels. The FiLM of a residual block is linear in
[level feature; observation], so it is split: the observation's part is projected once per call (`project`), for all
blocks in one product, and the level's part is added per position (RNR-DP, arXiv 2502.12724; here without extra
convolutions: level features are averaged where the network halves time). With one level for all positions the network
is Diffusion Policy's.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.nn.embeddings import LevelEmbedding
from common.nn.mish import Mish, mish


def conv_block(inputs: int, outputs: int, kernel: int, groups: int) -> nn.Sequential:
    """Convolution of the same length, group norm, Mish."""
    return nn.Sequential(nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2), nn.GroupNorm(groups, outputs), Mish())


class FiLMBlock(nn.Module):
    """Two convolution blocks with scale and bias between: (B, inputs, T), film (B, 2 outputs, T or 1)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int):
        super().__init__()
        self.first = conv_block(inputs, outputs, kernel, groups)
        self.second = conv_block(outputs, outputs, kernel, groups)
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.outputs = outputs

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        scale, bias = film.chunk(2, 1)
        return self.second(self.first(x) * scale + bias) + self.shortcut(x)


class ConditionalUNet1D(nn.Module):
    """Args:
    action_dim A; condition_dim O; widths of the resolutions; kernel; groups of the norms; level_width of the embedding;
    level_scale as in `LevelEmbedding`; joint_positions: T for Streaming Diffusion Policy's global code of all levels,
    None for a level per position.

    Raises: ConfigError when T is no multiple of 2^(number of widths - 1), or not joint_positions.
    """

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        widths: Sequence[int] = (256, 512, 1024),
        kernel: int = 5,
        groups: int = 8,
        level_width: int = 256,
        level_scale: float = 100.0,
        joint_positions: int | None = None,
    ):
        super().__init__()
        self.action_dim, self.condition_dim, self.joint_positions = action_dim, condition_dim, joint_positions
        self.level = LevelEmbedding(level_width, level_scale, joint_positions)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()

        def pair(inputs: int, outputs: int) -> nn.ModuleList:
            return nn.ModuleList(
                [FiLMBlock(inputs, outputs, kernel, groups), FiLMBlock(outputs, outputs, kernel, groups)]
            )

        for inputs, outputs in pairwise((action_dim, *widths)):
            self.down.append(pair(inputs, outputs))
        for width in widths[:-1]:
            self.shrink.append(nn.Conv1d(width, width, 3, 2, 1))
        self.middle = pair(widths[-1], widths[-1])
        for outputs, inputs in reversed(list(pairwise(widths))):
            self.up.append(pair(2 * inputs, outputs))
            self.grow.append(nn.ConvTranspose1d(outputs, outputs, 4, 2, 1))
        self.last = nn.Sequential(conv_block(widths[0], widths[0], kernel, groups), nn.Conv1d(widths[0], action_dim, 1))
        # one product per resolution depth for the levels, one in all for the observation
        pairs = [*self.down, self.middle, *self.up]
        depths = [*range(len(widths)), len(widths) - 1, *range(len(widths) - 1, 0, -1)]
        self.sizes = [2 * block.outputs for both in pairs for block in both]
        self.depths = [depth for depth in depths for _ in range(2)]
        self.film_level = nn.ModuleList(nn.Linear(level_width, size) for size in self.sizes)
        self.film_observation = nn.Linear(condition_dim, sum(self.sizes), bias=False)

    def project(self, observation: Tensor) -> Tensor:
        """The observation's part of every FiLM: (B, O) -> (B, sum of sizes). Once per call, not per evaluation."""
        return self.film_observation(mish(observation))

    def films(self, t: Tensor, projected: Tensor) -> list[Tensor]:
        """(B, 2C, T or 1) for every block: t (B, T, 1) or (B, 1, 1), projected (B, sum of sizes)."""
        features = [mish(self.level(t))]  # (B, T, level width) at every resolution
        for _ in range(max(self.depths)):
            last = features[-1]
            features.append(last if last.shape[1] == 1 else (last[:, 0::2] + last[:, 1::2]) / 2)
        parts = projected.unsqueeze(1).split(self.sizes, -1)
        return [
            (linear(features[depth]) + part).mT
            for linear, depth, part in zip(self.film_level, self.depths, parts, strict=True)
        ]

    def forward(self, x: Tensor, t: Tensor, projected: Tensor) -> Tensor:
        """x (B, T, A), t (B, T, 1), (B, 1, 1) or a scalar, projected from `project` -> (B, T, A)."""
        self._check(x, t)
        films = iter(self.films(t.expand(len(x), 1, 1) if t.dim() < 3 else t, projected))
        skips, x = [], x.mT
        for i, (first, second) in enumerate(self.down):
            x = second(first(x, next(films)), next(films))
            skips.append(x)
            if i < len(self.shrink):
                x = self.shrink[i](x)
        first, second = self.middle
        x = second(first(x, next(films)), next(films))
        for (first, second), grow in zip(self.up, self.grow, strict=True):
            x = torch.cat([x, skips.pop()], 1)
            x = grow(second(first(x, next(films)), next(films)))
        return self.last(x).mT

    def _check(self, x: Tensor, t: Tensor) -> None:
        multiple = 2 ** len(self.shrink)
        if x.shape[1] % multiple:
            raise ConfigError(f"horizon {x.shape[1]}: {len(self.shrink) + 1} widths need a multiple of {multiple}")
        if self.joint_positions and x.shape[1] != self.joint_positions:
            raise ConfigError(f"horizon {x.shape[1]}: this network's level code is made for {self.joint_positions}")
        if t.dim() == 3 and t.shape[1] not in (1, x.shape[1]):
            raise ValueError(f"t is {tuple(t.shape)}, wanted (B, 1, 1) or (B, T, 1) with T = {x.shape[1]}")
