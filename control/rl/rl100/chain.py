"""Denoising as decisions: K Gaussian steps whose log-probabilities are exact (RL-100, arXiv 2510.14830, section 2.5).

Letters: B batch, T executed actions of a chunk, A action width, K denoising steps. A denoised vector is (B, T, A); what
is a probability sums over T and A.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

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
class Step:
    """A Gaussian step from level t: alpha x0 + direction eps, and its deviation; all (1, 1, 1)."""

    t: Tensor
    alpha: Tensor
    direction: Tensor
    deviation: Tensor

    def mean(self, predict: Predict, x: Tensor) -> Tensor:
        """(B, T, A) of what follows x."""
        x0, eps = predict(x, self.t)
        return self.alpha * x0 + self.direction * eps


@dataclass(frozen=True)
class Chain:
    """x_m = mu + s n from level t to level m, s the deviation of DDIM with eta = 1 cut to [s_min, s_max].

    mu = alpha_m x0 + sqrt(sigma_m^2 - s^2) eps, with s as it is drawn, so that cutting it leaves the marginals of the
    forward process: it is never above sigma_m, which near the data lies below a larger s_min. released: as the
    published code has it, the direction's coefficient of the uncut deviation.

    Levels: leading spacing with offset one, and the last step ends at the first noisy level instead of at clean data,
    so that all K steps are stochastic.
    Raises: ConfigError for steps that do not divide the process', or a range without positive numbers.
    """

    process: Process
    steps: int
    s_min: float = 0.01
    s_max: float = 0.8
    released: bool = False
    _placed: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        if not self.process.steps or not 2 <= self.steps < self.process.steps or self.process.steps % self.steps:
            raise ConfigError(
                f"steps={self.steps}: wanted a proper divisor of the process' {self.process.steps} steps, at least 2"
            )
        if not 0 < self.s_min <= self.s_max:
            raise ConfigError(f"s_min={self.s_min}, s_max={self.s_max}: wanted 0 < s_min <= s_max")
        for dtype in (torch.float32, torch.float64):
            self.gaussians(torch.zeros((), dtype=dtype))

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

    def gaussians(self, like: Tensor) -> list["Step"]:
        """Of every step, from noise to data, in the type and place of `like`; computed once."""
        place = (like.dtype, like.device)
        if place not in self._placed:
            self._placed[place] = [self._gaussian(t.to(like), m.to(like)) for t, m in self.levels()]
        return self._placed[place]

    def _gaussian(self, t: Tensor, m: Tensor) -> "Step":
        uncut, cut = self.deviation(t, m)
        direction = (self.process.sigma(m) ** 2 - (uncut if self.released else cut) ** 2).clamp_min(0).sqrt()
        return Step(t, self.process.alpha(m), direction, cut)

    def sample(
        self, predict: Predict, start: Tensor, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Path:
        """A stochastic chain from start (B, T, A), pure noise. noise (K, B, T, A): its draws, else of `generator`."""
        states, log_probs, means = [start], [], []
        for k, step in enumerate(self.gaussians(start)):
            mean = step.mean(predict, states[-1])
            z = noise[k] if noise is not None else torch.randn(start.shape, generator=generator).to(start)
            states.append(mean + step.deviation * z)
            log_probs.append(log_prob(states[-1], mean, step.deviation))
            means.append(mean)
        return Path(torch.stack(states), torch.stack(log_probs), torch.stack(means))

    def mean(self, predict: Predict, start: Tensor) -> Tensor:
        """(B, T, A): the chain without its noise, the same coefficients: how the policy acts when it explores nothing.
        A function of the start."""
        x = start
        for step in self.gaussians(start):
            x = step.mean(predict, x)
        return x

    def evaluate(self, predict: Predict, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a stored chain under the network of now: log-probability (K, B), means (K, B, T, A), deviations (K,)."""
        log_probs, means, deviations = [], [], []
        for k, step in enumerate(self.gaussians(states)):
            mean = step.mean(predict, states[k])
            log_probs.append(log_prob(states[k + 1], mean, step.deviation))
            means.append(mean)
            deviations.append(step.deviation.reshape(()))
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
