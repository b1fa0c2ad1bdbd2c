"""The small networks beside generator and optimiser: inverse dynamics, values, return-conditioned cloning."""

import torch
from torch import Tensor, nn

from common.nn.mish import Mish


def mlp(inputs: int, outputs: int, widths: tuple[int, ...] = (256, 256)) -> nn.Sequential:
    """Linear layers with Mish between."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), Mish()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class InverseDynamics(nn.Module):
    """The action (B, A) at a state (B, S) that leads to a goal (B, S), `gap` (B,) of at most `stride` steps later.

    States are normalised, with the statistics of one and the same normaliser; actions are the environment's.
    """

    def __init__(self, state_dim: int, action_dim: int, stride: int = 1, widths: tuple[int, ...] = (256, 256)):
        super().__init__()
        self.stride = stride
        self.mlp = mlp(2 * state_dim + (stride > 1), action_dim, tuple(widths))

    def forward(self, state: Tensor, goal: Tensor, gap: Tensor) -> Tensor:
        parts = [state, goal - state]
        if self.stride > 1:
            parts.append(gap[..., None] / self.stride)
        return self.mlp(torch.cat(parts, -1))


class ReturnEmbedding(nn.Module):
    """A return-to-go (B,) as a condition (B, width)."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(1, width), Mish(), nn.Linear(width, width))

    def forward(self, returns: Tensor) -> Tensor:
        return self.mlp(returns[:, None])


def expectile(error: Tensor, tau: float) -> Tensor:
    """|tau - 1(error < 0)| error^2 (Implicit Q-Learning, arXiv 2110.06169, eq. 4); error = target - value."""
    return torch.where(error < 0, 1 - tau, tau) * error.square()
