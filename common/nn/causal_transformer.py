"""A small causal transformer over tokens, with a key-value cache that is plain tensors in and out.

Letters: B batch, L tokens, C width, N positions (the longest sequence). Pre-norm blocks (arXiv 2002.04745), learned
positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ConfigError


class CausalBlock(nn.Module):
    """Self-attention and MLP, each behind a norm."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend_in, self.attend_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop = nn.Dropout(dropout)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values, each (B, heads, L, C / heads), of x (B, L, C)."""
        parts = self.attend_in(self.norm1(x)).chunk(3, -1)
        return tuple(part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What attention mixed (B, heads, L, C / heads), and the MLP, on top of x."""
        x = x + self.drop(self.attend_out(mixed.transpose(1, 2).flatten(-2)))
        return x + self.drop(self.mlp(self.norm2(x)))


class CausalTransformer(nn.Module):
    """(B, L, inputs) -> (B, L, outputs), L up to `length` N; output i sees the tokens 0 .. i.

    Args: inputs, outputs: of a token; length N; width C; depth; heads; hidden: of the MLPs; dropout; causal: False lets
    every token see all (a fault of a published release, kept for the comparison); it has no cache then.
    The last layer starts at 0: a new network returns 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        length: int,
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        hidden: int = 256,
        dropout: float = 0.0,
        causal: bool = True,
    ):
        super().__init__()
        if width % heads:
            raise ConfigError(f"transformer width {width} must be a multiple of its {heads} heads")
        self.length, self.causal, self.heads, self.width = length, causal, heads, width
        self.token = nn.Linear(inputs, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(CausalBlock(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """All tokens at once. Raises: ConfigError for more tokens than positions."""
        self._check(tokens.shape[1])
        x = self.token(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block.finish(x, F.scaled_dot_product_attention(*block.split(x), is_causal=self.causal))
        return self.last(self.norm(x))

    def start(self, batch: int) -> Tensor:
        """An empty cache (depth, 2, B, heads, N, C / heads): keys and values of every block."""
        shape = (len(self.blocks), 2, batch, self.heads, self.length, self.width // self.heads)
        return self.position.new_zeros(shape)

    def step(self, token: Tensor, cache: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """One token (B, inputs) at `place`, a scalar integer tensor; the cache holds the tokens before it.

        Returns: output (B, outputs), equal to `forward`'s at that place, and the cache with the token. No branch and no
        shape depends on `place`: the step is one graph.
        """
        x = (self.token(token) + self.position[place])[:, None]
        slots = torch.arange(self.length, device=token.device)
        here, seen = (slots == place)[:, None], slots <= place
        following = []
        for block, kept in zip(self.blocks, cache, strict=True):
            query, key, value = block.split(x)
            keys, values = torch.where(here, key, kept[0]), torch.where(here, value, kept[1])
            x = block.finish(x, F.scaled_dot_product_attention(query, keys, values, attn_mask=seen[None]))
            following.append(torch.stack([keys, values]))
        return self.last(self.norm(x))[:, 0], torch.stack(following)

    def _check(self, tokens: int) -> None:
        if tokens > self.length:
            raise ConfigError(f"{tokens} tokens: this transformer has positions for {self.length}")
