"""Samples of a student as it will be run: its own earlier steps without gradient, one step with."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.diffusion.process import Process


def backward_simulation(
    denoise: Callable[[Tensor, Tensor], Tensor],
    process: Process,
    x: Tensor,
    levels: Tensor,
    last: int,
    gamma: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """The clean estimate (B, ...) of step `last` (0, 1, ..) of a sampler over levels (n + 1,), reached by the student's
    own jumps (DMD2, arXiv 2405.14867). Gradients reach that one evaluation; memory does not grow with `last`.

    gamma and noise (n, *x.shape) as in `gamma_chain`.
    Raises: ValueError when there is no such step.
    """
    if not 0 <= last < len(levels) - 1:
        raise ValueError(f"step {last} of a sampler of {len(levels) - 1} steps: choose 0 to {len(levels) - 2}")
    levels = levels.to(x.device, x.dtype)
    with torch.no_grad():
        for i in range(last):
            t, s = levels[i], levels[i + 1]
            x = process.step(x, t, s, denoise(x, t), gamma, noise[i] if noise is not None else None)
    return denoise(x, levels[last])
