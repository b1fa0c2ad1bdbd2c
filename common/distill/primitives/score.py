"""Score distillation: the gradient of KL(student || teacher) at a noise level, as a loss on the student's samples.

With y a sample, y_t the sample noised to t and x0_fake, x0_teacher the two denoisers' estimates there, the gradient
with respect to y is alpha_t (S_fake - S_teacher) = (alpha_t^2 / sigma_t^2) (x0_fake - x0_teacher) (VSD, arXiv
2305.16213; DMD, arXiv 2311.18828). Only the difference's direction and a weight are used: nothing is differentiated
through the networks.

Multiplying the difference by y_t - y instead, as released code of LiDAR completion does, has no gradient at all: it is
noise. See `preference.as_released`.
"""

from torch import Tensor

from common.diffusion.process import Process
from common.diffusion.samplers import Denoise
from common.distill.metrics import valid_mean


def direction(fake: Denoise, teacher: Denoise, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x0_fake - x0_teacher at x (B, ...), level t, and x0_teacher; both without gradient."""
    truth = teacher(x, t).detach()
    return fake(x, t).detach() - truth, truth


def kl_weight(process: Process, t: Tensor) -> Tensor:
    """alpha^2 / sigma^2: the exact gradient of the KL divergence at level t."""
    return (process.alpha(t) / process.sigma(t)) ** 2


def eps_weight(process: Process, t: Tensor) -> Tensor:
    """alpha / sigma: the difference of predicted noises, eps_teacher - eps_fake."""
    return process.alpha(t) / process.sigma(t)


def dmd_weight(y: Tensor, teacher_x0: Tensor, mask: Tensor | None = None, floor: float = 1e-3) -> Tensor:
    """1 / mean |y - x0_teacher| over a sample's valid entries (DMD, eq. 8), at most 1 / floor: the step's size does not
    depend on the level. Broadcasts against y."""
    size = valid_mean((y.detach() - teacher_x0).abs(), mask).clamp_min(floor)
    return (1 / size).reshape(-1, *[1] * (y.dim() - 1))


def surrogate(y: Tensor, gradient: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B,) a loss whose gradient with respect to y is `gradient` over the number of valid entries."""
    return valid_mean(y * gradient.detach(), mask)
