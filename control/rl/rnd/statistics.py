"""Running moments, and the filter over time that scales a bonus. All in float64, all part of a checkpoint."""

import torch
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """Mean and variance of all rows seen, merged batch by batch (Chan et al. 1979). shape of a row; () for scalars."""

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, rows: Tensor) -> None:
        """rows (K, *shape)."""
        rows = rows.detach().to(torch.float64)
        n, mean, var = len(rows), rows.mean(0), rows.var(0, correction=0)
        total = self.count + n
        delta = mean - self.mean
        square = self.var * self.count + var * n + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.var.copy_(square / total)
        self.count.copy_(total)


class ReturnScale(nn.Module):
    """Divides a bonus by the running standard deviation of its discounted sum (Burda et al. 2019, 2.4).

    The sum F <- gamma F + bonus runs forward over time per environment, never stops at an episode's end and is carried
    from rollout to rollout. Nothing is subtracted: the scaled bonus is never negative. Args: N environments; gamma.
    """

    def __init__(self, environments: int, gamma: float):
        super().__init__()
        self.gamma, self.moments = gamma, RunningMoments()
        self.register_buffer("sums", torch.zeros(environments, dtype=torch.float64))

    def forward(self, bonus: Tensor) -> Tensor:
        """bonus (T, N) -> scaled (T, N), after the statistics have taken it in."""
        found = []
        for now in bonus.to(torch.float64):
            self.sums.copy_(self.gamma * self.sums + now)
            found.append(self.sums.clone())
        self.moments.update(torch.stack(found).reshape(-1))
        return bonus / (self.moments.var.sqrt() + 1e-8).to(bonus.dtype)
