"""Diffusion as an optimiser of plans: it enters its reverse chain at a low level, where a feasible plan already stands.

A plan (B, H, S) begins with the state of now, which has level 0 throughout: no step moves it, no noise reaches it.
"""

import torch
from torch import Tensor

from common.diffusion.process import Process
from common.diffusion.samplers import Denoise, gamma_chain
from common.errors import ConfigError


def clean_start(levels: Tensor, horizon: int) -> Tensor:
    """(..., H, 1) levels of plans, of levels (...,): 0 at position 0."""
    inner = (torch.arange(horizon, device=levels.device) > 0).to(levels)
    return levels[..., None, None] * inner[:, None]


def entry_level(process: Process, error: float) -> int:
    """The level k at which a plan with errors of that deviation should enter: the smallest with sigma(k / N) >= error,
    and 0, no refinement, where the error is below sigma(1 / N): the chain would be told of more noise than there is."""
    sigma = process.sigma(torch.arange(process.steps + 1, dtype=torch.float64) / process.steps)
    if error < sigma[1]:
        return 0
    return int(min(process.steps, torch.searchsorted(sigma, torch.tensor(error, dtype=torch.float64)).item()))


def noise_level(process: Process, least: float = 0.05) -> int:
    """The level k at which a plan from noise begins: the highest whose signal alpha(k / N) is at least `least`, too
    little for a plan to be seen in it. Above, the estimate of a network that predicts noise is divided by almost 0: at
    the last level of `vp_cosine`, 0.0005, it is cut in every coordinate, and few steps never recover from it."""
    alpha = process.alpha(torch.arange(1, process.steps + 1, dtype=torch.float64) / process.steps)
    return max(1, int((alpha >= least).sum()))


def refine(
    denoise: Denoise,
    process: Process,
    x: Tensor,
    level: int,
    steps: int | None = None,
    eta: float = 1.0,
    noise: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """(B, H, S): the reverse chain from x at level k of N to data.

    Args: level k; 0 returns x. steps: network evaluations, by default k, one per level. eta: 1 is DDPM, 0 DDIM.
        noise (steps, B, H, S), scaled by `temperature` (0.5: the low-temperature sampling of Decision Diffuser, arXiv
        2211.15657).
    Raises: ConfigError for more evaluations than levels.
    """
    if level == 0:
        return x
    if steps and steps > level:
        raise ConfigError(f"{steps} evaluations from level {level}: there is one level for each, at most {level}")
    levels = clean_start(process.levels(steps or level, start=level / process.steps), x.shape[1])
    return gamma_chain(denoise, process, x, levels[:, None], eta=eta,
                       noise=None if noise is None else temperature * noise)  # fmt: skip


def shifted(plan: Tensor, steps: int, stride: int) -> Tensor:
    """(B, H, S): a plan as it looks `steps` environment steps later, linear between its states, its end held."""
    H = plan.shape[1]
    place = torch.arange(H, device=plan.device, dtype=plan.dtype) + steps / stride
    low = place.floor().clamp(max=H - 1).long()
    part = (place - low).clamp(0, 1)[:, None]
    return (1 - part) * plan[:, low] + part * plan[:, (low + 1).clamp(max=H - 1)]
