"""The critic of score distillation: a denoiser that follows the student's output distribution."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.diffusion.process import Process
from common.distill.metrics import mse


def fake_score_loss(
    process: Process, eps_hat: Tensor, eps: Tensor, t: Tensor, level: Tensor | float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """(B,) |(sigma_{t|l} / sigma_t) eps_hat - eps|^2 for a sample at level l that was noised on to t with eps.

    Its minimiser is the marginal noise prediction at t whatever l; regressing eps itself would be biased for l > 0
    (arXiv 2510.27684 in any schedule). l = 0 is the usual denoising loss.
    """
    ratio = process.added_sigma(torch.as_tensor(level).to(t), t) / process.sigma(t)
    return mse(ratio * eps_hat, eps, mask)


@dataclass(frozen=True)
class TwoTimeScale:
    """`critic_updates` updates of the critic, then one of the student, over and over."""

    critic_updates: int = 4

    def __post_init__(self):
        if self.critic_updates < 1:
            raise ValueError(f"critic_updates={self.critic_updates}: a student without a critic has no gradient")

    def students_turn(self, update: int) -> bool:
        """Whether update 0, 1, 2, ... is the student's."""
        return update % (self.critic_updates + 1) == self.critic_updates


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """In the body the modules evaluate, take no gradients and keep their buffers; afterwards all is as it was."""
    training = [(one, one.training) for module in modules for one in module.modules()]
    needed = [(one, one.requires_grad) for module in modules for one in module.parameters()]
    try:
        for module in modules:
            module.eval().requires_grad_(False)
        yield
    finally:
        for one, mode in training:
            one.training = mode
        for one, mode in needed:
            one.requires_grad_(mode)
