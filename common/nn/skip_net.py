"""Residual MLP over a flat chunk of actions: the small denoiser (RL-100's Skip-Net, arXiv 2510.14830)."""

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.nn.embeddings import sinusoid


class _Residual(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.net = nn.Sequential(
            nn.Dropout(dropout),
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class SkipNet(nn.Module):
    """(x (B, T, A), t, projected (B, width)) -> (B, T, A). The observation enters by one product, made once per call.

    Args: action_dim A; condition_dim; horizon T; width; blocks; embedding: width of the level's sinusoid; level_scale
    as in `LevelEmbedding`; dropout. SiLU, which costs a fifth of GELU on a CPU.
    """

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        horizon: int,
        width: int = 256,
        blocks: int = 3,
        embedding: int = 16,
        level_scale: float = 100.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.shape, self.scale, self.embedding = (horizon, action_dim), level_scale, embedding
        self.level = nn.Sequential(nn.Linear(embedding, 2 * embedding), nn.SiLU(), nn.Linear(2 * embedding, embedding))
        self.observation = nn.Linear(condition_dim, width)
        self.first = nn.Linear(horizon * action_dim + embedding, width, bias=False)
        self.blocks = nn.Sequential(*(_Residual(width, dropout) for _ in range(blocks)))
        self.last = nn.Sequential(nn.SiLU(), nn.Linear(width, horizon * action_dim))

    def project(self, observation: Tensor) -> Tensor:
        """The observation's part of the first layer: (B, C) -> (B, width)."""
        return self.observation(observation)

    def forward(self, x: Tensor, t: Tensor, projected: Tensor) -> Tensor:
        """t (B, 1, 1), (1, 1, 1) or a scalar: one level for the whole chunk. Raises: ConfigError."""
        if x.shape[1:] != self.shape or (t.dim() == 3 and t.shape[1] != 1):
            raise ConfigError(
                f"x {tuple(x.shape)}, t {tuple(t.shape)}: this network is made for chunks of {self.shape} at one level"
            )
        level = self.level(sinusoid(t.reshape(-1) * self.scale - 1, self.embedding).to(x.dtype))
        given = torch.cat([x.flatten(1), level.expand(len(x), -1)], -1)
        return self.last(self.blocks(self.first(given) + projected)).view_as(x)
