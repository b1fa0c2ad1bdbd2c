"""x_t = alpha(t) x0 + sigma(t) eps: schedules, noising, and the one jump every sampler is made of.

A noise level t is a number in [0, 1]: 0 is data, 1 is (almost) pure noise. It broadcasts against x: a scalar, (B, 1, 1)
for a level per sample, (B, T, 1) for a level per position. A discrete process of N steps knows the levels k / N; its
level k / N is index k - 1 of the usual 0-based tables (DDPM, arXiv 2006.11239), and level 0, "clean", is no index.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Schedule = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Process:
    """A schedule and its algebra. alpha, sigma: level -> factor of the same shape and dtype, with sigma(0) = 0.

    steps: N of a discrete process, None of a continuous one.
    """

    alpha: Schedule
    sigma: Schedule
    steps: int | None = None

    def noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t."""
        return self.alpha(t) * x0 + self.sigma(t) * eps

    def renoise(self, x: Tensor, s: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t from a state x at a level s <= t: alpha_{t|s} x + sigma_{t|s} eps, whose marginal is that of clean data
        noised to t."""
        return self.alpha(t) / self.alpha(s) * x + self.added_sigma(s, t) * eps

    def added_sigma(self, s: Tensor, t: Tensor) -> Tensor:
        """sigma_{t|s} of `renoise`: sigma_t^2 = (alpha_t / alpha_s)^2 sigma_s^2 + sigma_{t|s}^2."""
        carried = self.alpha(t) / self.alpha(s) * self.sigma(s)
        return (self.sigma(t) ** 2 - carried**2).clamp_min(0).sqrt()

    def eps(self, x: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """The noise that makes x of x0. Needs t > 0."""
        return (x - self.alpha(t) * x0) / self.sigma(t)

    def step(self, x: Tensor, t: Tensor, s: Tensor, x0: Tensor, gamma: Tensor | float = 0.0, z: Tensor | None = None):
        """x_s from x_t and an estimate of x0; positions with s >= t keep their value, bit for bit.

        x_s = alpha_s x0 + sigma_s (sqrt(1 - gamma^2) eps + gamma z): a part gamma of the noise is drawn anew.
        gamma = 0 keeps it all (DDIM, arXiv 2010.02502, eq. 12 with eta = 0), 1 draws it all (the renoise chain of
        consistency models), `ancestral_gamma` lies between. At s = 0 no noise is left, whatever gamma.

        Args: x, x0, z (..., shape of x); t, s, gamma broadcast against x; z standard normal, needed where gamma > 0.
        """
        moving = s < t
        eps = self.eps(x, torch.where(moving, t, torch.ones_like(t)), x0)
        if z is not None:
            gamma = torch.as_tensor(gamma, dtype=x.dtype, device=x.device)
            eps = (1 - gamma**2).sqrt() * eps + gamma * z
        return torch.where(moving, self.noise(x0, s, eps), x)

    def ancestral_gamma(self, t: Tensor, s: Tensor) -> Tensor:
        """gamma of the exact posterior q(x_s | x_t, x0): DDPM's step with the variance `fixed_small`; DDIM's eta scales
        it. gamma^2 = 1 - (alpha_t sigma_s / (alpha_s sigma_t))^2."""
        t = torch.where(s < t, t, torch.ones_like(t))
        kept = self.alpha(t) * self.sigma(s) / (self.alpha(s) * self.sigma(t))
        return (1 - kept**2).clamp_min(0).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda = log(alpha / sigma), infinite at t = 0."""
        return self.alpha(t).log() - self.sigma(t).log()

    def levels(self, steps: int, spacing: str = "trailing", start: float = 1.0) -> Tensor:
        """(steps + 1,) float64 from `start` down to 0 for a sampler of so many network evaluations.

        "trailing": start * k / steps. "leading" (the release of DDIM, and diffusers' default): the indices
        k * (N // steps) of a discrete process, whose first level is not 1.
        Raises: ValueError when a discrete process has too few levels, or none of the kind asked for.
        """
        if steps < 1 or (self.steps and steps > self.steps):
            raise ValueError(f"{steps} sampling steps of a process with {self.steps} levels: choose 1 to {self.steps}")
        if spacing == "trailing":
            return torch.linspace(start, 0, steps + 1, dtype=torch.float64)
        if spacing != "leading" or not self.steps:
            raise ValueError(f"spacing={spacing!r} of a process with steps={self.steps}: leading needs a discrete one")
        index = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (self.steps // steps)
        return torch.cat([(index + 1) / self.steps, index.new_zeros(1)])


@dataclass(frozen=True)
class Table:
    """Schedule of a discrete process: values (N + 1,) float64 at the levels 0, 1/N, ... 1; others are rounded."""

    values: Tensor
    _placed: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        for dtype in (torch.float32, torch.float64):
            self._placed[torch.device("cpu"), dtype] = self.values.to(dtype)

    def __call__(self, t: Tensor) -> Tensor:
        place = (t.device, t.dtype)
        if place not in self._placed:
            self._placed[place] = self.values.to(*place)
        index = (t * (len(self.values) - 1)).round().long()
        return self._placed[place][index]

    def __deepcopy__(self, memo):
        return Table(self.values)


def discrete_vp(betas: Tensor) -> Process:
    """Variance-preserving process of DDPM from its betas (N,): alpha^2 = prod (1 - beta), sigma^2 = 1 - alpha^2."""
    log_abar = torch.cat([betas.new_zeros(1), torch.log1p(-betas)]).double().cumsum(0)
    return Process(Table((log_abar / 2).exp()), Table((-torch.expm1(log_abar)).sqrt()), len(betas))


def vp_cosine(steps: int = 100, max_beta: float = 0.999) -> Process:
    """Squared-cosine betas (arXiv 2102.09672, eq. 17) as tabulated by Diffusion Policy (arXiv 2303.04137)."""

    def abar(s: Tensor) -> Tensor:
        return torch.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    return discrete_vp((1 - abar(t[1:]) / abar(t[:-1])).clamp_max(max_beta))


def vp_linear(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Process:
    """Linear betas (arXiv 2006.11239)."""
    return discrete_vp(torch.linspace(beta_start, beta_end, steps, dtype=torch.float64))


def vp_continuous(beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """Continuous variance-preserving process with linear beta(t) (arXiv 2011.13456, eq. 33)."""

    def log_abar(t: Tensor) -> Tensor:
        return -(t * beta_min + t**2 * (beta_max - beta_min) / 2)

    return Process(lambda t: (log_abar(t) / 2).exp(), lambda t: (-torch.expm1(log_abar(t))).sqrt())


def rectified_flow() -> Process:
    """Straight lines from noise to data: alpha = 1 - t, sigma = t (arXiv 2209.03003)."""
    return Process(lambda t: 1 - t, lambda t: t)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Process:
    """Variance-exploding process whose even levels are EDM's time steps (arXiv 2206.00364, eq. 5): alpha = 1, sigma(t)
    from sigma_max at t = 1 towards sigma_min, and 0 at t = 0. A sampler of n steps meets n + 1 levels, the last but one
    at 1/n: give `levels` that end as you need them."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return Process(torch.ones_like, lambda t: torch.where(t > 0, (low + t * (high - low)) ** rho, torch.zeros_like(t)))


def local(base: Process) -> Process:
    """Offsets around an anchor that stays in place: x_t = x0 + sigma(t) eps with base's sigma and alpha = 1, as LiDAR
    completion noises the points of a scan. Sampling starts at anchor + sigma(1) eps."""
    return Process(torch.ones_like, base.sigma, base.steps)
