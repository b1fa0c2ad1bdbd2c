"""Trajectory Diffuser's toy: two noisy curves, a generator that writes them, a diffusion that repairs what it wrote."""

import math

import torch
from torch import Tensor

from common.diffusion.denoiser import Denoiser
from common.diffusion.process import vp_linear
from common.nn.transformer import ConditionalTransformer
from control.planning.diffuser.generator import TrajectoryGenerator
from control.planning.diffuser.refine import clean_start, refine

LENGTH, NOISE, MAJORITY = 64, 0.1, 0.8
PROCESS = vp_linear(100, 1e-3, 2e-2)


def curves() -> Tensor:
    """(2, 64, 1): cos(10 pi x) and cos(6 pi x) on [0, 1]."""
    x = torch.linspace(0, 1, LENGTH)
    return torch.stack([torch.cos(10 * math.pi * x), torch.cos(6 * math.pi * x)])[..., None]


def data(count: int = 500, seed: int = 0) -> Tensor:
    """(count, 64, 1): 80 % of the first curve, noise of deviation 0.1."""
    random = torch.Generator().manual_seed(seed)
    which = (torch.rand(count, generator=random) > MAJORITY).long()
    return curves()[which] + NOISE * torch.randn(count, LENGTH, 1, generator=random)


def error(x: Tensor) -> float:
    """Root mean squared distance to the nearest of the true curves."""
    squared = (x[:, None] - curves()[None]).square().mean((2, 3))
    return float(squared.amin(1).mean().sqrt())


def roughness(x: Tensor) -> float:
    """Share of high frequencies: mean squared second difference."""
    return float((x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]).square().mean())


def train_generator(causal: bool, steps: int = 1000, seed: int = 0, residual: bool = False) -> TrajectoryGenerator:
    torch.manual_seed(seed)
    net = TrajectoryGenerator(
        1, LENGTH, residual=residual, width=32, depth=2, heads=4, hidden=32, dropout=0.1, causal=causal
    )
    x, adam = data(), torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        batch = x[torch.randint(len(x), (32,))]
        adam.zero_grad()
        sum(net.errors(batch, torch.zeros(32, LENGTH))).backward()
        adam.step()
    return net.train()  # dropout is its only randomness


def train_optimiser(steps: int = 1000, seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    net = ConditionalTransformer(1, 1, LENGTH, width=48, depth=2, heads=4)
    denoiser = Denoiser(net, PROCESS, "eps")
    x, adam = data(), torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(steps):
        x0 = x[torch.randint(len(x), (32,))]
        t = clean_start(torch.randint(1, 101, (32,)) / 100, LENGTH)
        adam.zero_grad()
        weight = (t > 0).float()
        denoiser.loss(x0, t, torch.randn_like(x0), net.project(torch.zeros(32, 1)), weight=weight).backward()
        adam.step()
    return denoiser.eval()


@torch.no_grad()
def written(net: TrajectoryGenerator, count: int = 64, seed: int = 1) -> Tensor:
    """(count, 64, 1) from the first states of the data."""
    torch.manual_seed(seed)
    first = data(count, seed=5)[:, :1]
    return torch.cat([first, net.rollout(first, torch.zeros(count, 1), LENGTH - 1)], 1)


@torch.no_grad()
def repaired(denoiser: Denoiser, x: Tensor, level: int, seed: int = 2, forward_noise: bool = False) -> Tensor:
    torch.manual_seed(seed)
    condition = denoiser.net.project(torch.zeros(len(x), 1))
    if forward_noise:
        x = PROCESS.noise(x, clean_start(torch.tensor(level / 100), LENGTH), torch.randn_like(x))
    return refine(lambda x, t: denoiser(x, t, condition), PROCESS, x, level, noise=torch.randn(level, *x.shape))
