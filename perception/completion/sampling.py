"""Local diffusion of points and its samplers (LiDiff, CVPR 2024; DPM-Solver++, arXiv 2211.01095).

Every point of the complete scene is noised where it stands, x_t = p + sigma_t eps, with sigma of LiDiff's linear betas:
about 1 m at t = 1, and nothing is shrunk. Sampling starts at the scan's points, each K times, plus noise.
`denoise(x, t)` estimates the clean points, x - sigma_t eps_hat; t is a level in [0, 1], index k of the published tables
is level (k + 1) / 1000.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from common.diffusion.process import Process, local, vp_linear
from common.diffusion.samplers import Denoise, dpm_solver_pp, gamma_chain

STEPS = 1000  # levels of the published schedule
BETAS = (3.5e-5, 0.007)
FIRST_ORDER_BELOW = 15  # steps: the released solver's last step is then of first order


@cache
def lidiff_vp() -> Process:
    """LiDiff's variance-preserving schedule; only its sigma noises the points."""
    return vp_linear(STEPS, *BETAS)


@cache
def lidiff_local() -> Process:
    """x_t = p + sigma_t eps with LiDiff's sigma."""
    return local(lidiff_vp())


def released_levels(steps: int) -> Tensor:
    """(steps + 1,) float64: indices round(linspace(0, 999, steps + 1)) from above, the last of them index 0 (sigma of
    6 mm, not clean). 8 steps evaluate at 999, 874, 749, 624, 500, 375, 250, 125."""
    if not 1 <= steps < STEPS:
        raise ValueError(f"{steps} sampling steps: choose 1 to {STEPS - 1}")
    index = torch.linspace(0, STEPS - 1, steps + 1, dtype=torch.float64).round().flip(0)
    return (index + 1) / STEPS


def consistent_levels(steps: int) -> Tensor:
    """(steps + 1,) float64: the same evaluations, but the last step ends at clean points."""
    levels = released_levels(steps)
    levels[-1] = 0
    return levels


def start(anchor: Tensor, process: Process, noise: Tensor) -> Tensor:
    """Where sampling begins: anchor + sigma(1) noise."""
    return process.noise(anchor, torch.ones((), dtype=anchor.dtype, device=anchor.device), noise)


def sample_local(denoise: Denoise, x: Tensor, steps: int, *, gamma: float = 0.0, eta: float = 0.0, **kwargs) -> Tensor:
    """The sampler that matches the noising: jumps x_s = x0_hat + (sigma_s / sigma_t) (x_t - x0_hat), without any
    division by alpha. gamma or eta draw a part of the noise anew (eta 1: the exact posterior of the local process).

    x (B, N, 3) from `start`; kwargs: noise, generator, callback of `gamma_chain`. A perfect denoiser arrives exactly,
    whatever the number of steps. `steps` evaluations.
    """
    return gamma_chain(denoise, lidiff_local(), x, consistent_levels(steps), gamma=gamma, eta=eta, **kwargs)


def sample_vp_offset(denoise: Denoise, x: Tensor, steps: int, anchor: Tensor, **kwargs) -> Tensor:
    """The released sampler: SDE-DPM-Solver++(2M) of the variance-preserving process, on the offset o = x - anchor.

    The points were noised without shrinking, so its estimate of the clean offset, (o - sigma eps_hat) / alpha =
    (x0_hat - anchor) / alpha, is too long by 1 / alpha: few steps overshoot (5.8-fold in the first). For parity with
    published results only. kwargs: noise, generator, callback of `dpm_solver_pp`.
    """
    vp = lidiff_vp()

    def offset(o: Tensor, t: Tensor) -> Tensor:
        return (denoise(anchor + o, t) - anchor) / vp.alpha(t)

    end = steps < FIRST_ORDER_BELOW
    levels = released_levels(steps)
    return anchor + dpm_solver_pp(offset, vp, x - anchor, levels, stochastic=True, first_order_end=end, **kwargs)


SAMPLERS: dict[str, Callable] = {
    "local": lambda denoise, x, steps, anchor, **kwargs: sample_local(denoise, x, steps, **kwargs),
    "vp_offset": sample_vp_offset,
}
