"""Where training states come from: noised data, a teacher's path, cached pairs, the prior, a student's own samples."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.diffusion.process import Process
from common.diffusion.samplers import Denoise, ddim


@dataclass(frozen=True)
class States:
    """x (B, ...) at levels t, which broadcast against x; target: what a student should make of it, where that is known
    already, at level s."""

    x: Tensor
    t: Tensor
    s: Tensor | None = None
    target: Tensor | None = None


def as_level(t: Tensor, x: Tensor) -> Tensor:
    """(B,) levels that broadcast against x (B, ...)."""
    return t.to(x).reshape(-1, *[1] * (x.dim() - 1))


def noised_data(process: Process, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> States:
    """Data (B, ...) noised to levels (B,)."""
    level = as_level(t, x0)
    return States(process.noise(x0, level, _normal(x0, generator)), level)


def prior(process: Process, like: Tensor, generator: torch.Generator | None = None) -> States:
    """Pure noise, level 1, of like's shape."""
    one = like.new_ones(())
    return States(process.sigma(one) * _normal(like, generator), as_level(torch.ones(len(like)), like))


@torch.no_grad()
def teacher_path(denoise: Denoise, process: Process, x: Tensor, levels: Tensor, **sampler) -> Tensor:
    """(n + 1, *x.shape): the states that a sampler (DDIM unless `eta` or `gamma` say otherwise) passes from x at
    levels[0]."""
    states = []
    end = ddim(denoise, process, x, levels, callback=lambda i, x, x0: states.append(x), **sampler)
    return torch.stack([*states, end])


class PairCache:
    """Starts and ends of teacher paths, made once: what knowledge distillation and reflow learn from.

    Args: path (n + 1, C, ...) of C paths; levels (n + 1,).
    """

    def __init__(self, path: Tensor, levels: Tensor):
        if len(path) != len(levels):
            raise ValueError(f"the path has {len(path)} states and {len(levels)} levels: give one level per state")
        self.path, self.levels = path, levels

    def pairs(self, index: Tensor, first: int = 0, last: int = -1) -> States:
        """Paths of index (B,): from state `first` to state `last`."""
        x, target = self.path[first][index], self.path[last][index]
        t, s = (as_level(self.levels[i].expand(len(index)), x) for i in (first, last))
        return States(x, t, s, target)


def straight(process: Process, pairs: States, t: Tensor, eps: Tensor) -> States:
    """Reflow's states (arXiv 2209.03003): between the noise eps that a path began with and its end, at levels (B,)."""
    level = as_level(t, pairs.target)
    return States(process.noise(pairs.target, level, eps), level, torch.zeros_like(level), pairs.target)


def renoised(process: Process, y: Tensor, t: Tensor, eps: Tensor, level: Tensor | float = 0.0) -> States:
    """A student's samples y at `level`, noised on to levels (B,)."""
    t = as_level(t, y)
    return States(process.renoise(y, torch.as_tensor(level).to(y), t, eps), t)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


def guided(conditional: Denoise, unconditional: Denoise, weight: float) -> Denoise:
    """A teacher under classifier-free guidance: u + w (c - u), of estimates of x0, which are linear in the outputs."""
    if weight == 1:
        return conditional

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        without = unconditional(x, t)
        return without + weight * (conditional(x, t) - without)

    return denoise


Jump = Callable[[Tensor, Tensor, Tensor], Tensor]
