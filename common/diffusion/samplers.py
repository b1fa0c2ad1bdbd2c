"""Samplers as functions of (denoise, process, x, levels). Each level may be a tensor with a value per position.

`denoise(x, t)` returns the estimate of x0 (a `Denoiser` with its condition bound, or an exact one of `analytic`).
`levels` is (n + 1, ...): level i broadcasts against x, levels fall towards 0; where two neighbours are equal a position
waits. n network evaluations.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from common.diffusion.process import Process

Denoise = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor], None]  # step, x, estimate of x0


def gamma_chain(
    denoise: Denoise,
    process: Process,
    x: Tensor,
    levels: Tensor,
    *,
    gamma: float = 0.0,
    eta: float = 0.0,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Jumps from level to level, each drawing a part of its noise anew. Four published samplers:

    gamma = 0: the jump chain, DDIM. gamma = 1: the renoise chain (consistency models, LCM, TCD). Between: the
    gamma-sampling of CTM. eta > 0 instead of gamma: DDIM's eta; eta = 1 is ancestral DDPM with variance `fixed_small`.

    Args: noise (n, *x.shape) standard normal for the draws; otherwise drawn from `generator`.
    Raises: ValueError if both gamma and eta are given or leave [0, 1].
    """
    if (gamma and eta) or not 0 <= gamma <= 1 or not 0 <= eta <= 1:
        raise ValueError(f"gamma={gamma}, eta={eta}: give one of them, in [0, 1]")
    for i, (t, s) in enumerate(_pairs(levels, x)):
        x0 = denoise(x, t)
        if callback:
            callback(i, x, x0)
        part, z = gamma, None
        if gamma or eta:
            part = gamma or eta * process.ancestral_gamma(t, s)
            z = noise[i] if noise is not None else _normal(x, generator)
        x = process.step(x, t, s, x0, part, z)
    return x


def ddim(denoise: Denoise, process: Process, x: Tensor, levels: Tensor, eta: float = 0.0, **kwargs) -> Tensor:
    """Denoising diffusion implicit model (arXiv 2010.02502)."""
    return gamma_chain(denoise, process, x, levels, eta=eta, **kwargs)


def ddpm(denoise: Denoise, process: Process, x: Tensor, levels: Tensor, **kwargs) -> Tensor:
    """Ancestral sampling (arXiv 2006.11239)."""
    return gamma_chain(denoise, process, x, levels, eta=1.0, **kwargs)


def dpm_solver_pp(
    denoise: Denoise,
    process: Process,
    x: Tensor,
    levels: Tensor,
    *,
    stochastic: bool = False,
    first_order_end: bool = False,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): second order, one evaluation per step. The first step of a
    position and the one that ends at level 0, where log-SNR is infinite, are of first order.

    stochastic: SDE-DPM-Solver++(2M) (the same paper, section 5): its first-order step is the ancestral one, the second
    order corrects x0. first_order_end: the last step too is of first order (diffusers' `lower_order_final`).
    Args: noise (n, *x.shape) standard normal for the stochastic form; otherwise drawn from `generator`.
    """
    before, gamma, z = None, 0.0, None
    for i, (t, s) in enumerate(_pairs(levels, x)):
        x0 = denoise(x, t)
        if callback:
            callback(i, x, x0)
        direction = x0
        if before is not None and not (first_order_end and i == len(levels) - 2):
            last_x0, last_t = before
            span, last_span = process.log_snr(s) - process.log_snr(t), process.log_snr(t) - process.log_snr(last_t)
            usable = (s > 0) & (s < t) & (t < last_t)
            ratio = torch.where(usable, span, 0.0) / torch.where(usable, 2 * last_span, 1.0)
            direction = x0 + ratio * (x0 - last_x0)
        if stochastic:
            gamma = process.ancestral_gamma(t, s)
            z = noise[i] if noise is not None else _normal(x, generator)
        # exp(-h) = alpha_t sigma_s / (alpha_s sigma_t); with h: x_s = (sigma_s / sigma_t) x - alpha_s (exp(-h) - 1) D;
        # stochastic: x_s = exp(-h) (sigma_s / sigma_t) x + alpha_s (1 - exp(-2h)) D + sigma_s sqrt(1 - exp(-2h)) z
        x = process.step(x, t, s, direction, gamma, z)
        before = (x0, t)
    return x


def _pairs(levels: Tensor, x: Tensor):
    """(t, s) of every step in x's dtype, on its device."""
    return pairwise(levels.to(x.device, x.dtype))


def _normal(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
