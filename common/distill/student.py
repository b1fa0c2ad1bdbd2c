"""A network with two times: from the level where it stands to the level where it is asked to be."""

import torch
from torch import Tensor, nn

from common.diffusion.denoiser import Denoiser
from common.diffusion.process import Process


class TwoTime(nn.Module):
    """f(x, t, s): the jump from level t to level s <= t.

    The network's output becomes an estimate of x0 as a denoiser's does, and the jump keeps the noise (DDIM's step): so
    f(x, t, t) = x whatever the network, and a network that ignores s makes the teacher's own DDIM step. Consistency
    models are s = 0; with prediction "flow" on the rectified flow, f = x - (t - s) F and F is the average velocity.

    Args: net (x, t, s, *condition) -> tensor like x; prediction as in `Denoiser`.
    """

    def __init__(self, net: nn.Module, process: Process, prediction: str = "x0"):
        super().__init__()
        self.net, self.process = net, process
        self._convert = Denoiser(nn.Identity(), process, prediction).x0

    def x0(self, x: Tensor, t: Tensor, s: Tensor, *condition) -> Tensor:
        """What the jump to s takes the clean sample to be."""
        return self._convert(x, t, self.net(x, t, s, *condition))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, *condition) -> Tensor:
        """x_s; t and s broadcast against x, t > 0."""
        return self.process.step(x, t, s, self.x0(x, t, s, *condition))


class OneTime(nn.Module):
    """A network of one time as a network of two that ignores the second."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, s: Tensor, *condition) -> Tensor:
        return self.net(x, t, *condition)


class SecondTime(nn.Module):
    """Adds a second time to a network of one: its output gets a correction that starts at exactly zero.

    Args: net (x, t, *condition); correction (x, t, s, *condition), multiplied by a gain that training raises from 0.
    """

    def __init__(self, net: nn.Module, correction: nn.Module):
        super().__init__()
        self.net, self.correction = net, correction
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, *condition) -> Tensor:
        return self.net(x, t, *condition) + self.gain * self.correction(x, t, s, *condition)
