"""A small transformer over action tokens with a noise level per token (adaptive norms of DiT, arXiv 2212.09748)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ConfigError
from common.nn.embeddings import LevelEmbedding


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


class AdaptiveBlock(nn.Module):
    """Self-attention and MLP, each behind a norm whose shift, scale and gate come from the token's condition.

    x (B, T, C), condition (B, T or 1, C). The gates start at 0: a new block is the identity.
    """

    def __init__(self, width: int, heads: int, expansion: int = 4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attend_in, self.attend_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))
        self.adapt = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.adapt.weight)
        nn.init.zeros_(self.adapt.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adapt(F.silu(condition)).chunk(6, -1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attend_in(modulate(self.norm1(x), shift1, scale1)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        x = x + gate1 * self.attend_out(mixed)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class ConditionalTransformer(nn.Module):
    """Args: action_dim A; condition_dim O; horizon T (the longest); width C; depth; heads; level_scale as in
    `LevelEmbedding`. Same calls as `ConditionalUNet1D`. Raises ConfigError for a horizon above `horizon`."""

    def __init__(
        self,
        action_dim: int,
        condition_dim: int,
        horizon: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        level_scale: float = 100.0,
    ):
        super().__init__()
        if width % heads:
            raise ConfigError(f"transformer width {width} must be a multiple of its {heads} heads")
        self.horizon = horizon
        self.level = LevelEmbedding(width, level_scale)
        self.observation = nn.Sequential(nn.Linear(condition_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.token = nn.Linear(action_dim, width)
        self.position = nn.Parameter(torch.randn(horizon, width) * 0.02)
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, action_dim)

    def project(self, observation: Tensor) -> Tensor:
        """(B, O) -> (B, C), once per call."""
        return self.observation(observation)

    def forward(self, x: Tensor, t: Tensor, projected: Tensor) -> Tensor:
        """x (B, T, A), t (B, T, 1), (B, 1, 1) or a scalar, projected (B, C) -> (B, T, A)."""
        if x.shape[1] > self.horizon:
            raise ConfigError(f"horizon {x.shape[1]}: this transformer has positions for {self.horizon}")
        t = t.expand(len(x), 1, 1) if t.dim() < 3 else t
        condition = self.level(t) + projected.unsqueeze(1)
        tokens = self.token(x) + self.position[: x.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self.last(self.norm(tokens))
