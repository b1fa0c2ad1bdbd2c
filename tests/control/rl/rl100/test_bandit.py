"""A bandit whose best action is known: the update over denoising steps finds it, and keeps to the rewarded mode."""

import pytest
import torch

from common.diffusion.denoiser import Denoiser
from common.diffusion.process import vp_cosine
from common.nn.skip_net import SkipNet
from control.rl.rl100.chain import Chain, predictor
from control.rl.rl100.surrogate import normalised, surrogate

PROCESS, BATCH = vp_cosine(100), 512
NOTHING = torch.zeros(BATCH, 1)


def cloned(draw, iterations: int = 600) -> Denoiser:
    """A policy over two numbers that imitates `draw(count) -> (count, 1, 2)`."""
    torch.manual_seed(0)
    denoiser = Denoiser(SkipNet(2, 1, 1, 128, 2), PROCESS, "eps", clip=1.0)
    adam = torch.optim.Adam(denoiser.parameters(), 2e-3)
    for _ in range(iterations):
        x0, eps = draw(BATCH), torch.randn(BATCH, 1, 2)
        t = torch.randint(1, 101, (BATCH, 1, 1)) / 100
        loss = denoiser.loss(x0, t, eps, denoiser.net.project(NOTHING))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return denoiser


def improved(denoiser: Denoiser, chain: Chain, reward, iterations: int) -> float:
    """Two epochs of the clipped surrogate per iteration; returns the largest |ratio - 1| of all first updates."""
    adam, gap = torch.optim.Adam(denoiser.parameters(), 1e-4), 0.0

    def predict():
        return predictor(denoiser, denoiser.net.project(NOTHING))

    for _ in range(iterations):
        with torch.no_grad():
            path = chain.sample(predict(), torch.randn(BATCH, 1, 2))
        advantage = normalised(reward(path.action[:, 0]))
        if advantage is None:
            break  # all actions are equally good
        for epoch in range(2):
            loss, shown = surrogate(chain.evaluate(predict(), path.states)[0], path.log_prob, advantage, 0.2)
            gap = max(gap, shown.ratio_gap) if epoch == 0 else gap
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 0.5)
            adam.step()
    return gap


@torch.no_grad()
def actions(denoiser: Denoiser, chain: Chain) -> torch.Tensor:
    torch.manual_seed(5)
    return chain.sample(predictor(denoiser, denoiser.net.project(NOTHING)), torch.randn(BATCH, 1, 2)).action[:, 0]


@pytest.mark.parametrize("s_max", [0.8, pytest.param(0.1, marks=pytest.mark.slow)])
def test_the_mean_action_moves_to_the_best_one(s_max):
    best, chain = torch.tensor([0.2, 0.3]), Chain(PROCESS, 5, 0.01, s_max)
    denoiser = cloned(lambda count: 0.1 * torch.randn(count, 1, 2))
    before = (actions(denoiser, chain).mean(0) - best).norm()
    gap = improved(denoiser, chain, lambda action: -((action - best) ** 2).sum(-1), 50)
    assert before > 0.3 and (actions(denoiser, chain).mean(0) - best).norm() < 0.05
    assert gap < 1e-3


@pytest.mark.slow
def test_of_two_modes_the_rewarded_one_remains():
    chain = Chain(PROCESS, 5, 0.01, 0.8)
    modes = torch.tensor([[-0.5, -0.5], [0.5, 0.5]])
    denoiser = cloned(lambda count: modes[torch.randint(2, (count, 1))] + 0.05 * torch.randn(count, 1, 2))
    share = (actions(denoiser, chain).mean(-1) > 0).float().mean()
    assert 0.3 < share < 0.7
    improved(denoiser, chain, lambda action: (action.mean(-1) > 0).float(), 100)
    assert (actions(denoiser, chain).mean(-1) > 0).float().mean() > 0.95


@pytest.mark.slow
def test_with_the_advantage_reversed_it_moves_away():
    """The negative control of the first test."""
    best, chain = torch.tensor([0.2, 0.3]), Chain(PROCESS, 5, 0.01, 0.8)
    denoiser = cloned(lambda count: 0.1 * torch.randn(count, 1, 2))
    improved(denoiser, chain, lambda action: ((action - best) ** 2).sum(-1), 20)
    assert (actions(denoiser, chain).mean(0) - best).norm() > 0.4
