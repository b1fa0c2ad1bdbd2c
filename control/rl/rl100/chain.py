"""Denoising as decisions: K Gaussian steps whose log-probabilities are exact (RL-100, arXiv 2510.14830, section 2.5).

Letters: B batch, T executed actions of a chunk, A action width, K denoising steps. A denoised vector is (B, T, A); what
is a probability sums over T and A.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion.denoiser import Denoiser
from common.diffusion.process import Process
from common.errors import ConfigError

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (x, t) -> x0, noise of the direction


@dataclass(frozen=True)
class Path:
    """A sampled chain. states (K + 1, B, T, A): from pure noise to the normalised action; log_prob (K, B) of each step;
    mean (K, B, T, A) of the Gaussians that it was drawn from."""

    states: Tensor
    log_prob: Tensor
    mean: Tensor

    @property
    def action(self) -> Tensor:
        """(B, T, A), normalised."""
        return self.states[-1]


@dataclass(frozen=True)
class Chain:
    """x_m = mu + s n from level t to level m, s the deviation of DDIM with eta = 1 cut to [s_min, s_max].

    mu = alpha_m x0 + sqrt(sigma_m^2 - s^2) eps, with s as it is drawn, so that cutting it leaves the marginals of the
    forward process (it is never above sigma_m). released: as the published code has it, the direction's coefficient of
    the uncut deviation.

    Levels: leading spacing with offset one, and the last step ends at the first noisy level instead of at clean data,
    so that all K steps are stochastic.
    Raises: ConfigError for steps that do not divide the process', or a range without positive numbers.
    """

    process: Process
    steps: int
    s_min: float = 0.01
    s_max: float = 0.8
    released: bool = False

    def __post_init__(self):
        if not self.process.steps or not 2 <= self.steps < self.process.steps or self.process.steps % self.steps:
            raise ConfigError(
                f"steps={self.steps}: wanted a proper divisor of the process' {self.process.steps} steps, at least 2"
            )
        if not 0 < self.s_min <= self.s_max:
            raise ConfigError(f"s_min={self.s_min}, s_max={self.s_max}: wanted 0 < s_min <= s_max")

    def levels(self) -> list[tuple[Tensor, Tensor]]:
        """K pairs (t, m) of level tensors (1, 1, 1), from noise to data."""
        total, stride = self.process.steps, self.process.steps // self.steps
        index = [k * stride + 1 for k in reversed(range(self.steps))]  # 0-based, as in the published tables
        return [tuple(torch.full((1, 1, 1), (i + 1) / total) for i in (t, max(t - stride, 0))) for t in index]

    def deviation(self, t: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """(uncut, cut) deviation of the step from t to m."""
        whole = self.process.sigma(m)
        uncut = whole * self.process.ancestral_gamma(t, m)
        cut = uncut.clamp(self.s_min, self.s_max)
        return uncut, cut if self.released else torch.minimum(cut, whole)

    def gaussian(self, predict: Predict, x: Tensor, t: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, T, A) and deviation (1, 1, 1) of x_m given x_t."""
        t, m = t.to(x), m.to(x)
        x0, eps = predict(x, t)
        uncut, cut = self.deviation(t, m)
        direction = (self.process.sigma(m) ** 2 - (uncut if self.released else cut) ** 2).clamp_min(0).sqrt()
        return self.process.alpha(m) * x0 + direction * eps, cut

    def sample(
        self, predict: Predict, start: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Path:
        """A stochastic chain from start (B, T, A), pure noise. noise (K, B, T, A): its draws, else of `generator`."""
        states, log_probs, means = [start], [], []
        for k, (t, m) in enumerate(self.levels()):
            mean, deviation = self.gaussian(predict, states[-1], t, m)
            z = noise[k] if noise is not None else torch.randn(start.shape, generator=generator).to(start)
            states.append(mean + deviation * z)
            log_probs.append(log_prob(states[-1], mean, deviation))
            means.append(mean)
        return Path(torch.stack(states), torch.stack(log_probs), torch.stack(means))

    def mean(self, predict: Predict, start: Tensor) -> Tensor:
        """(B, T, A): the chain without its noise, the same coefficients: how the policy acts when it explores nothing.
        A function of the start."""
        x = start
        for t, m in self.levels():
            x = self.gaussian(predict, x, t, m)[0]
        return x

    def evaluate(self, predict: Predict, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a stored chain under the network of now: log-probability (K, B), means (K, B, T, A), deviations (K,)."""
        log_probs, means, deviations = [], [], []
        for k, (t, m) in enumerate(self.levels()):
            mean, deviation = self.gaussian(predict, states[k], t, m)
            log_probs.append(log_prob(states[k + 1], mean, deviation))
            means.append(mean)
            deviations.append(deviation.reshape(()))
        return torch.stack(log_probs), torch.stack(means), torch.stack(deviations)


def log_prob(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """(B,) log-density of x (B, T, A) under N(mean, deviation^2), summed over T and A."""
    deviation = deviation.expand_as(mean)
    each = -((x - mean) ** 2) / (2 * deviation**2) - deviation.log() - math.log(2 * math.pi) / 2
    return each.flatten(1).sum(1)


def divergence(old: Tensor, new: Tensor, deviation: Tensor) -> Tensor:
    """(K, B) KL(old || new) of every step: |mu_old - mu_new|^2 / (2 s^2). old, new (K, B, T, A); deviation (K,)."""
    return ((old - new) ** 2).flatten(2).sum(2) / (2 * deviation[:, None] ** 2)


def predictor(denoiser: Denoiser, *condition: Tensor, rederived: bool = True) -> Predict:
    """(x, t) -> clipped x0, and the noise that belongs to it; rederived=False: the network's own noise, as released.

    Where x0 is clipped, the rederived mean has no gradient; the released one has that of the direction alone, of the
    opposite sign to that of an unclipped coordinate. Raises: ConfigError for a network that predicts no noise and is
    asked for its own.
    """
    if rederived:

        def predict(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            x0 = denoiser(x, t, *condition)
            return x0, denoiser.process.eps(x, t, x0)

        return predict
    if denoiser.prediction != "eps":
        raise ConfigError(f"prediction={denoiser.prediction!r}: the released mean needs a network that predicts eps")

    def released(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        eps = denoiser.net(x, t, *condition)
        x0 = denoiser.x0(x, t, eps)
        return (x0 if denoiser.clip is None else x0.clamp(-denoiser.clip, denoiser.clip)), eps

    return released
