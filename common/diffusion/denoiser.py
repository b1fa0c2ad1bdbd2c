"""A network as a denoiser: whatever it predicts becomes x0 here, and nowhere else."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.diffusion.process import Process
from common.errors import ConfigError

# prediction: (a, b) of the network's target a eps + b x0
PREDICTIONS: dict[str, Callable[[Process, Tensor], tuple[Tensor, Tensor]]] = {
    "eps": lambda process, t: (torch.ones_like(t), torch.zeros_like(t)),
    "x0": lambda process, t: (torch.zeros_like(t), torch.ones_like(t)),
    "v": lambda process, t: (process.alpha(t), -process.sigma(t)),  # arXiv 2202.00512
    "flow": lambda process, t: (torch.ones_like(t), -torch.ones_like(t)),  # dx/dt of the rectified flow
}


class Denoiser(nn.Module):
    """x0 from a network `net(x, t, *condition)` on a process.

    Args:
        net: (x, t, *condition) -> tensor like x; t broadcasts against x.
        prediction: "eps", "x0", "v" (alpha eps - sigma x0) or "flow" (eps - x0).
        clip: x0 is clipped to [-clip, clip] when sampling; None leaves it.
        guidance: weight w of classifier-free guidance (arXiv 2207.12598), out = u + w (c - u) of one doubled batch;
            1 switches it off. It needs `unconditional`, a function of the condition that returns its empty form.
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        prediction: str = "eps",
        clip: float | None = None,
        guidance: float = 1.0,
        unconditional: Callable | None = None,
    ):
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ConfigError(f"denoiser.prediction={prediction!r}: choose one of {', '.join(PREDICTIONS)}")
        if guidance != 1 and unconditional is None:
            raise ConfigError(f"denoiser.guidance={guidance} needs `unconditional`, the empty form of the condition")
        self.net, self.process, self.prediction, self.clip = net, process, prediction, clip
        self.guidance, self.unconditional = guidance, unconditional

    def target(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """What the network should return for x_t = alpha x0 + sigma eps."""
        a, b = PREDICTIONS[self.prediction](self.process, t)
        return a * eps + b * x0

    def x0(self, x: Tensor, t: Tensor, out: Tensor) -> Tensor:
        """x0 from the network's output: out = a eps + b x0 and x = alpha x0 + sigma eps, solved. "eps" needs t < 1
        where alpha(1) = 0."""
        if self.prediction == "x0":
            return out
        a, b = PREDICTIONS[self.prediction](self.process, t)
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return (a * x - sigma * out) / (a * alpha - b * sigma)

    def forward(self, x: Tensor, t: Tensor, *condition) -> Tensor:
        """The estimate of x0, guided and clipped."""
        if self.guidance == 1:
            out = self.net(x, t, *condition)
        else:
            both = [torch.cat(pair) for pair in zip(condition, self.unconditional(*condition), strict=True)]
            doubled = t if t.shape[:1] != x.shape[:1] else torch.cat([t, t])
            conditional, unconditional = self.net(torch.cat([x, x]), doubled, *both).chunk(2)
            out = unconditional + self.guidance * (conditional - unconditional)
        x0 = self.x0(x, t, out)
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def error(self, x0: Tensor, t: Tensor, eps: Tensor, *condition) -> Tensor:
        """Squared error of the prediction, of x0's shape."""
        out = self.net(self.process.noise(x0, t, eps), t, *condition)
        return (out - self.target(x0, t, eps)).square()

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor, *condition, weight: Tensor | None = None) -> Tensor:
        """Mean squared error of the prediction; `weight` broadcasts against x0, and the mean is over its mass."""
        error = self.error(x0, t, eps, *condition)
        if weight is None:
            return error.mean()
        weight = weight.expand_as(x0)
        return (weight * error).sum() / weight.sum().clamp_min(1e-8)
