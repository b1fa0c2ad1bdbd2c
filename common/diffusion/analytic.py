"""Teachers that are exact: E[x0 | x_t] of Gaussian mixtures at any level per position, and the 1-D flow map.

They are the oracles of the tests, and small teachers for distillation.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion.process import Process


@dataclass(frozen=True)
class GaussianMixture:
    """sum_k weight_k N(mean_k, covariance_k) over events of any shape, flattened to D.

    weights (K,), means (K, *event), covariances (K, D, D).
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def event(self) -> torch.Size:
        return self.means.shape[1:]

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, *event)."""
        K, D = len(self.weights), self.event.numel()
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = torch.randn(count, D, dtype=self.means.dtype, generator=generator)
        values, vectors = torch.linalg.eigh(self.covariances)  # semi-definite covariances have no Cholesky factor
        root = vectors * values.clamp_min(0).sqrt()[:, None]
        return (self.means.reshape(K, D)[which] + (root[which] @ z[..., None])[..., 0]).reshape(count, *self.event)

    def posterior(self, process: Process, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Responsibilities (B, K) and E[x0 | x_t, component] (B, K, D).

        x (B, *event); t broadcasts against x, so every position may have its own level. x_t = A x0 + S eps with
        diagonal A, S: E[x0 | x_t] = mean + C A (A C A + S^2)^-1 (x_t - A mean).
        """
        B, K, D = len(x), len(self.weights), self.event.numel()
        t = torch.broadcast_to(t.to(x.dtype), x.shape).reshape(B, 1, D)
        if (t == t[:1]).all():  # one factorisation for the whole batch
            t = t[:1]
        a, s = process.alpha(t), process.sigma(t)
        residual = x.reshape(B, 1, D) - a * self.means.reshape(1, K, D)
        # 1e-12: a clean position of a point mass has no variance at all, and no residual either
        marginal = a[..., :, None] * self.covariances * a[..., None, :] + torch.diag_embed(s**2 + 1e-12)
        if len(t) == 1:
            solved = torch.linalg.solve(marginal[0], residual.permute(1, 2, 0)).permute(2, 0, 1)
        else:
            solved = torch.linalg.solve(marginal, residual[..., None])[..., 0]
        x0 = self.means.reshape(1, K, D) + torch.einsum("kij,bkj->bki", self.covariances, a * solved)
        log_density = -((residual * solved).sum(-1) + torch.linalg.slogdet(marginal)[1]) / 2
        return (self.weights.log() + log_density).softmax(-1), x0

    def denoise(self, process: Process):
        """The exact denoiser: (x, t) -> E[x0 | x_t], of x's shape."""

        def x0(x: Tensor, t: Tensor) -> Tensor:
            responsibility, parts = self.posterior(process, x, t)
            return (responsibility[..., None] * parts).sum(1).reshape(x.shape)

        return x0


def gaussian(mean: Tensor, covariance: Tensor) -> GaussianMixture:
    """One Gaussian: mean (*event), covariance (D, D)."""
    return GaussianMixture(mean.new_ones(1), mean[None], covariance[None])


def gaussian_flow_map(process: Process, x: Tensor, t: Tensor, s: Tensor, mean: float, std: float) -> Tensor:
    """x_s on the probability-flow path of N(mean, std^2) through x_t, any shape, position by position."""
    (a, b), (c, d) = ((process.alpha(u), process.sigma(u)) for u in (t, s))
    return c * mean + ((c**2 * std**2 + d**2) / (a**2 * std**2 + b**2)).sqrt() * (x - a * mean)


@dataclass(frozen=True)
class Mixture1D:
    """Mixture of 1-D Gaussians; its flow map is exact because the probability flow keeps quantiles.

    weights, means, stds (K,) float64.
    """

    weights: Tensor
    means: Tensor
    stds: Tensor

    def _marginal(self, process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = process.alpha(t), process.sigma(t)
        return a * self.means, (a**2 * self.stds**2 + s**2).sqrt()

    def denoise(self, process: Process):
        """(x, t) -> E[x0 | x_t] for x of any shape, t broadcasting against it."""

        def x0(x: Tensor, t: Tensor) -> Tensor:
            t = t[..., None] if t.dim() else t
            mean, std = self._marginal(process, t)
            z = (x[..., None] - mean) / std
            responsibility = (self.weights.log() - std.log() - z**2 / 2).softmax(-1)
            return (responsibility * (self.means + process.alpha(t) * self.stds**2 / std * z)).sum(-1)

        return x0

    def log_tails(self, process: Process, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """log P(x_t < x) and log P(x_t > x)."""
        mean, std = self._marginal(process, t)
        z = (x[..., None] - mean) / std
        log_weights = self.weights.log()
        return tuple((log_weights + torch.special.log_ndtr(sign * z)).logsumexp(-1) for sign in (1, -1))

    def flow_map(self, process: Process, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x_s = F_s^-1(F_t(x)) by bisection on the lighter tail; x float64 of any shape, t and s scalars."""
        below, above = self.log_tails(process, x, t)
        left = below < above
        mean, std = self._marginal(process, s)
        # F_s^-1(q) lies between the smallest and the largest quantile of the components
        reach = math.sqrt(2) * torch.maximum(-below, -above).clamp_min(1).sqrt() * 2 + 2
        low = (mean.min() - reach * std.max()).expand_as(x).clone()
        high = (mean.max() + reach * std.max()).expand_as(x).clone()
        for _ in range(100):
            middle = (low + high) / 2
            lower, upper = self.log_tails(process, middle, s)
            too_low = torch.where(left, lower < below, upper > above)
            low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
        return (low + high) / 2
