"""Implicit Q-learning (arXiv 2110.06169) on frozen conditions, for single actions and chunks."""

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ConfigError


def mlp(widths: list[int], norm: bool = False) -> nn.Sequential:
    """Linear layers with SiLU between, layer norms before it if asked for."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), *([nn.LayerNorm(outputs)] if norm else []), nn.SiLU()]
    return nn.Sequential(*(layers[:-2] if norm else layers[:-1]))


def expectile(error: Tensor, tau: float) -> Tensor:
    """Mean of |tau - 1(error < 0)| error^2."""
    return (torch.where(error < 0, 1 - tau, tau) * error**2).mean()


class Critics(nn.Module):
    """Two Q functions with slow copies, and V. condition (B, C); action (B, T, A), normalised, a chunk as a whole.

    Args: condition_dim; action_dim: T A numbers; widths; expectile omega; tau of the slow copies; norm: layer norms in
    Q; bounds: targets of Q are cut to them (a sparse reward of at most 1 has values in [0, 1]), None leaves them.
    Raises: ConfigError.
    """

    def __init__(
        self,
        condition_dim: int,
        action_dim: int,
        widths: tuple[int, ...] = (256, 256),
        omega: float = 0.8,
        tau: float = 0.005,
        norm: bool = False,
        bounds: tuple[float, float] | None = None,
    ):
        super().__init__()
        if not 0 < omega < 1:
            raise ConfigError(f"critics.omega={omega!r}: an expectile lies between 0 and 1")
        self.omega, self.tau, self.bounds = omega, tau, bounds
        self.q = nn.ModuleList(mlp([condition_dim + action_dim, *widths, 1], norm) for _ in range(2))
        self.v = mlp([condition_dim, *widths, 1])
        self.slow = copy.deepcopy(self.q).requires_grad_(False)

    def values(self, condition: Tensor) -> Tensor:
        """V (B,)."""
        return self.v(condition).squeeze(-1)

    def both(self, nets: nn.ModuleList, condition: Tensor, action: Tensor) -> Tensor:
        """(2, B)."""
        given = torch.cat([condition, action.flatten(1)], -1)
        return torch.stack([net(given).squeeze(-1) for net in nets])

    def least(self, condition: Tensor, action: Tensor) -> Tensor:
        """min(Q1, Q2) (B,)."""
        return self.both(self.q, condition, action).amin(0)

    @torch.no_grad()
    def advantage(self, condition: Tensor, action: Tensor) -> Tensor:
        """min(Q1, Q2) - V (B,)."""
        return self.least(condition, action) - self.values(condition)

    def losses(
        self, condition: Tensor, action: Tensor, reward: Tensor, following: Tensor, discount: Tensor
    ) -> dict[str, Tensor]:
        """V's expectile of the slow copies' minimum, and both Q on R + discount V(next).

        reward (B,): discounted within the chunk; following (B, C): the next decision's condition; discount (B,): gamma
        to the power of the steps taken, 0 where the episode terminated.
        """
        with torch.no_grad():
            best = self.both(self.slow, condition, action).amin(0)
            target = reward + discount * self.values(following)
            if self.bounds is not None:
                target = target.clamp(*self.bounds)
        found = self.both(self.q, condition, action)
        return {
            "loss_v": expectile(best - self.values(condition), self.omega),
            "loss_q": F.mse_loss(found, target.expand_as(found), reduction="sum") / len(target),
            "q_max": found.detach().max(),
        }

    @torch.no_grad()
    def follow(self) -> None:
        """The slow copies move by tau."""
        for slow, fast in zip(self.slow.parameters(), self.q.parameters(), strict=True):
            slow.lerp_(fast, self.tau)
