"""The consistency head: a student that maps noise to the action in one evaluation, trained beside the chain.

C(x, t, c) = c_skip(t) x + c_out(t) x0(x, t, c) (consistency models, arXiv 2303.01469, with LCM's factors); its network
predicts x0. It begins as a copy of a network that predicts noise, so its output first has to learn its meaning.
"""

import torch
from torch import Tensor, nn

from common.distill.metrics import mse
from common.distill.primitives.consistency import consistency
from common.distill.primitives.endpoint import endpoint
from common.distill.states import States
from common.errors import ConfigError
from control.rl.rl100.chain import Chain, Predict

SIGMA_DATA, TIME_SCALE = 0.5, 10.0


def skip_factor(index: Tensor) -> Tensor:
    """c_skip at a 0-based index of the process: 1 at index 0."""
    return SIGMA_DATA**2 / ((TIME_SCALE * index) ** 2 + SIGMA_DATA**2)


def out_factor(index: Tensor) -> Tensor:
    """c_out: 0 at index 0, so that C(x, 0, c) = x whatever the network."""
    scaled = TIME_SCALE * index
    return scaled / (scaled**2 + SIGMA_DATA**2).sqrt()


class ConsistencyHead(nn.Module):
    """net, with `project(condition)` and `forward(x, t, projected)` -> x0 of x's shape; steps of the process."""

    def __init__(self, net: nn.Module, steps: int = 100):
        super().__init__()
        self.net, self.process_steps = net, steps

    def forward(self, x: Tensor, t: Tensor, projected: Tensor) -> Tensor:
        """(B, T, A); t a level, (1, 1, 1) or (B, 1, 1): index + 1 over the process' steps."""
        index = t * self.process_steps - 1
        return skip_factor(index) * x + out_factor(index) * self.net(x, t, projected)

    def act(
        self, start: Tensor, condition: Tensor, process=None, steps: int = 1, noise: Tensor | None = None
    ) -> Tensor:
        """Normalised action (B, T, A) within [-1, 1] from pure noise under a condition (B, C). steps 1, 2 or 4: between
        evaluations the estimate is noised again, to even levels, with noise (steps - 1, B, T, A).

        Raises: ConfigError for another number of steps, or without process and noise for more than one.
        """
        if steps not in (1, 2, 4):
            raise ConfigError(f"steps={steps}: a consistency head is run in 1, 2 or 4")
        if steps > 1 and (process is None or noise is None):
            raise ConfigError(f"steps={steps}: more than one needs the process and its noise")
        x, projected = start, self.net.project(condition)
        for i in range(steps):
            t = start.new_full((1, 1, 1), round(self.process_steps * (1 - i / steps)) / self.process_steps)
            if i:
                x = process.noise(x, t, noise[i - 1])
            x = self(x, t, projected).clamp(-1, 1)
        return x


def same_noise(head: ConsistencyHead, chain: Chain, predict: Predict, start: Tensor, condition: Tensor) -> Tensor:
    """Mean squared distance of the head's action to that of the teacher's mean chain from the same noise.

    No gradient reaches the teacher, or the encoder that made the condition (B, C). The mean chain is a function of the
    noise, so the minimum is 0; with a stochastic one it would not be.
    """
    with torch.no_grad():
        target = chain.mean(predict, start).clamp(-1, 1)
    top, bottom = start.new_ones((1, 1, 1)), start.new_zeros((1, 1, 1))
    projected = head.net.project(condition.detach())
    return endpoint(lambda x, t, s: head(x, t, projected), States(start, top, bottom, target)).mean()


def solver_step(
    head: ConsistencyHead,
    average: ConsistencyHead,
    chain: Chain,
    predict: Predict,
    action: Tensor,
    eps: Tensor,
    condition: Tensor,
    index: Tensor,
    grid: int = 10,
) -> Tensor:
    """The other loss, that of latent consistency models (arXiv 2310.04378): an action of the data, noised to index (B,)
    of the grid (grid - 1, 2 grid - 1, ..), and the average's answer one deterministic solver step below."""
    process = chain.process
    mine, theirs = (one.net.project(condition.detach()) for one in (head, average))
    t, m = ((one / process.steps).view(-1, 1, 1).to(action) for one in (index + 1, (index + 1 - grid).clamp_min(1)))
    return consistency(
        lambda x, t, s: head(x, t, mine), lambda x, t, s: average(x, t, theirs),
        lambda x, t, m: process.step(x, t, m, predict(x, t)[0]),
        process.noise(action, t, eps), t, m, torch.zeros_like(m), metric=mse,
    ).mean()  # fmt: skip
