"""An ensemble of transition models on frozen conditions: where a decision leads, and how sure that is."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from control.rl.rl100.critics import mlp


class _Member(nn.Module):
    """(condition, action) -> mean and log-variance of the change of the condition, bounded softly."""

    def __init__(self, inputs: int, outputs: int, widths: tuple[int, ...]):
        super().__init__()
        self.net = mlp([inputs, *widths, 2 * outputs])
        self.most, self.least = (nn.Parameter(torch.full((outputs,), value)) for value in (0.5, -10.0))

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.net(given).chunk(2, -1)
        log_var = self.most - nn.functional.softplus(self.most - log_var)
        return mean, self.least + nn.functional.softplus(log_var - self.least)


@dataclass
class Fit:
    """held_out (members,): mean squared error of each; elites: indices of the best; epochs that were run."""

    held_out: Tensor
    elites: Tensor
    epochs: int


class Ensemble(nn.Module):
    """Gaussian models of c' - c in units of the data's spread; a rollout takes a random elite per row and step.

    Args: condition_dim; action_dim: T A numbers; members; elites; widths.
    """

    def __init__(
        self,
        condition_dim: int,
        action_dim: int,
        members: int = 5,
        elites: int = 3,
        widths: tuple[int, ...] = (200,) * 3,
    ):
        super().__init__()
        self.members = nn.ModuleList(_Member(condition_dim + action_dim, condition_dim, widths) for _ in range(members))
        self.register_buffer("elites", torch.arange(elites))
        self.register_buffer("shift", torch.zeros(condition_dim))
        self.register_buffer("spread", torch.ones(condition_dim))
        self.register_buffer("low", torch.full((condition_dim,), -torch.inf))
        self.register_buffer("high", torch.full((condition_dim,), torch.inf))

    def forward(self, condition: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Means of c' and log-variances in units of the spread, (members, B, C) each."""
        given = torch.cat([condition, action.flatten(1)], -1)
        means, log_vars = zip(*(member(given) for member in self.members), strict=True)
        return condition + self.shift + self.spread * torch.stack(means), torch.stack(log_vars)

    def loss(self, condition: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """Gaussian negative log-likelihood, summed over the members, with the bounds drawn together."""
        given = torch.cat([condition, action.flatten(1)], -1)
        target, total = (following - condition - self.shift) / self.spread, 0.0
        for member in self.members:
            mean, log_var = member(given)
            nll = ((mean - target) ** 2 * (-log_var).exp() + log_var).mean()
            total = total + nll + 0.01 * (member.most - member.least).mean()
        return total

    def fit(
        self,
        condition: Tensor,
        action: Tensor,
        following: Tensor,
        iterations: int = 2500,
        batch: int = 256,
        learning_rate: float = 1e-3,
        held_out: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> Fit:
        """Train on transitions (R, ..), every member on the same batches from its own start; the elites are the best of
        what is held out. Predictions stay within the data's range, a margin of a tenth around it included."""
        change = following - condition
        self.shift.copy_(change.mean(0))
        self.spread.copy_(change.std(0).clamp_min(1e-4))
        both = torch.cat([condition, following])
        low, high = both.amin(0), both.amax(0)
        self.low.copy_(low - 0.1 * (high - low))
        self.high.copy_(high + 0.1 * (high - low))
        order = torch.randperm(len(condition), generator=generator)
        cut = max(1, round(held_out * len(order)))
        adam = torch.optim.Adam(self.parameters(), lr=learning_rate, fused=True)
        for _ in range(iterations):
            rows = order[cut + torch.randint(len(order) - cut, (batch,), generator=generator)]
            loss = self.loss(condition[rows], action[rows], following[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
        with torch.no_grad():
            rows = order[:cut]
            means, _ = self(condition[rows], action[rows])
            error = (((means - following[rows]) / self.spread) ** 2).mean((1, 2))
        self.elites.copy_(error.argsort()[: len(self.elites)])
        return Fit(error, self.elites.clone(), iterations)

    @torch.no_grad()
    def step(self, condition: Tensor, action: Tensor, choice: Tensor, noise: Tensor | None = None) -> Tensor:
        """c' (B, C) by the elite number choice (B,) of each row; noise (B, C): of the Gaussian, None for its mean."""
        means, log_vars = self(condition, action)
        rows = torch.arange(len(condition), device=condition.device)
        member = self.elites[choice]
        following = means[member, rows]
        if noise is not None:
            following = following + self.spread * (log_vars[member, rows] / 2).exp() * noise
        return torch.maximum(torch.minimum(following, self.high), self.low)

    @torch.no_grad()
    def disagreement(self, condition: Tensor, action: Tensor) -> Tensor:
        """(B,) spread of the elites' means in units of the data's: how far from the data a row is."""
        means, _ = self(condition, action)
        return (means[self.elites].std(0, unbiased=False) / self.spread).mean(-1)
