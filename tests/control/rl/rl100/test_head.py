"""The one-step head: its boundary, what teaches it, and what a wrong teacher makes of two modes."""

import pytest
import torch

from common.diffusion.analytic import Mixture1D
from common.diffusion.denoiser import Denoiser
from common.diffusion.process import vp_cosine
from common.errors import ConfigError
from common.nn.skip_net import SkipNet
from control.policies.encoders import StateEncoder
from control.rl.rl100.chain import Chain, predictor
from control.rl.rl100.head import ConsistencyHead, out_factor, same_noise, skip_factor, solver_step
from control.rl.rl100.policy import Policy
from control.rl.rl100.stages import warm_head

PROCESS = vp_cosine(100)


def test_the_factors_are_the_published_numbers():
    index = torch.tensor([0.0, 1.0, 99.0])
    torch.testing.assert_close(skip_factor(index), torch.tensor([1.0, 0.0024938, 2.5508e-7]), rtol=1e-3, atol=0)
    assert out_factor(index)[0] == 0 and out_factor(index)[2] == pytest.approx(1, abs=1e-6)


def test_at_index_zero_it_is_the_identity_and_at_the_top_its_network():
    head, x, c = ConsistencyHead(SkipNet(2, 3, 4, 16, 1)), torch.randn(5, 4, 2), torch.randn(5, 16)
    assert torch.equal(head(x, torch.full((1, 1, 1), 0.01), c), x)
    top = torch.ones(1, 1, 1)
    torch.testing.assert_close(head(x, top, c), head.net(x, top, c), atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_is_called_once_per_step_and_stays_in_the_range(steps):
    head, calls = ConsistencyHead(SkipNet(2, 3, 4, 16, 1)), []
    head.net.register_forward_hook(lambda *_: calls.append(1))
    action = head.act(3 * torch.randn(5, 4, 2), torch.randn(5, 3), PROCESS, steps, torch.randn(steps - 1, 5, 4, 2))
    assert len(calls) == steps and action.abs().max() <= 1


def test_another_number_of_steps_or_missing_noise_is_refused():
    head = ConsistencyHead(SkipNet(2, 3, 4, 16, 1))
    with pytest.raises(ConfigError, match="steps=3"):
        head.act(torch.zeros(1, 4, 2), torch.zeros(1, 3), PROCESS, 3)
    with pytest.raises(ConfigError, match="needs the process"):
        head.act(torch.zeros(1, 4, 2), torch.zeros(1, 3), steps=2)


def test_no_gradient_reaches_the_teacher_or_the_condition():
    teacher = Denoiser(SkipNet(2, 3, 4, 16, 1), PROCESS, "eps", clip=1.0)
    head, average = (ConsistencyHead(SkipNet(2, 3, 4, 16, 1)) for _ in range(2))
    condition = torch.randn(5, 3, requires_grad=True)
    predict, chain = predictor(teacher, teacher.net.project(condition)), Chain(PROCESS, 5)
    loss = same_noise(head, chain, predict, torch.randn(5, 4, 2), condition)
    index = torch.tensor([9, 19, 49, 89, 99])
    action, eps = torch.rand(5, 4, 2), torch.randn(5, 4, 2)
    loss = loss + solver_step(head, average, chain, predict, action, eps, condition, index)
    loss.backward()
    assert condition.grad is None and all(p.grad is None for p in (*teacher.parameters(), *average.parameters()))
    assert all(p.grad is not None for p in head.parameters())


def learnt(kind: str, updates: int = 400) -> tuple[ConsistencyHead, Chain, object, float]:
    """A head taught on two modes at -0.5 and 0.5: kind "mean" chain from the same noise, "stochastic" chain, or
    "independent" noise."""
    torch.manual_seed(0)
    half = torch.tensor([0.5, 0.5])
    denoise = Mixture1D(half, torch.tensor([-0.5, 0.5]), 0.1 * half).denoise(PROCESS)

    def predict(x, t):
        x0 = denoise(x, t)
        return x0, PROCESS.eps(x, t, x0)

    chain, head = Chain(PROCESS, 5, 0.01, 0.8), ConsistencyHead(SkipNet(1, 1, 1, 64, 2))
    adam, condition, last = torch.optim.Adam(head.parameters(), 2e-3), torch.zeros(256, 1), []
    for _ in range(updates):
        start = torch.randn(256, 1, 1)
        if kind == "mean":
            loss = same_noise(head, chain, predict, start, condition)
        else:
            with torch.no_grad():
                target = chain.sample(predict, start).action if kind == "stochastic" else \
                    chain.mean(predict, torch.randn(256, 1, 1))  # fmt: skip
            loss = (head(start, torch.ones(1, 1, 1), head.net.project(condition)) - target).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        last.append(loss.item())
    return head, chain, predict, sum(last[-50:]) / 50


def near_a_mode(action: torch.Tensor) -> float:
    return float(((action.abs() - 0.5).abs() < 0.15).float().mean())


def test_from_the_same_noise_it_learns_the_mean_chain_and_both_modes():
    head, chain, predict, loss = learnt("mean")
    torch.manual_seed(9)
    start = torch.randn(2000, 1, 1)
    with torch.no_grad():
        action, wanted = head.act(start, torch.zeros(2000, 1)), chain.mean(predict, start)
    assert loss < 0.01 and float((action - wanted).square().mean()) < 0.1 * float(wanted.square().mean())
    assert near_a_mode(action) > near_a_mode(wanted) - 0.1 and 0.3 < float((action > 0).float().mean()) < 0.7


@pytest.mark.slow
def test_a_stochastic_chain_leaves_a_floor_and_independent_noise_collapses_to_the_mean():
    floor = learnt("stochastic")[3]
    assert floor > 3 * learnt("mean")[3]
    head = learnt("independent", 200)[0]
    with torch.no_grad():
        action = head.act(torch.randn(2000, 1, 1), torch.zeros(2000, 1))
    assert near_a_mode(action) < 0.05 and float(action.abs().mean()) < 0.2


@pytest.mark.parametrize("target", ["same_noise", "solver_step"])
def test_either_target_teaches_the_head_what_the_chain_does(target):
    """A denoiser of one action per condition: the head begins as its copy, which predicts noise, and ends at it."""
    torch.manual_seed(0)
    conditions = torch.rand(200, 1) * 2 - 1
    actions = (0.5 * conditions)[:, None].expand(-1, 1, 1)
    policy = Policy({"state": StateEncoder(1)}, 1, 1, 1, lambda a, c: SkipNet(a, c, 1, 64, 2), PROCESS, dict(steps=5))
    policy.fit({"state": conditions[:, None]}, torch.rand(50, 1) * 2 - 1)
    adam = torch.optim.Adam(policy.denoiser.parameters(), 2e-3)
    for _ in range(600):
        t = torch.randint(1, 101, (200, 1, 1)) / 100
        loss = policy.denoiser.loss(actions, t, torch.randn(200, 1, 1), policy.denoiser.net.project(conditions))
        adam.zero_grad()
        loss.backward()
        adam.step()
    generator = torch.Generator().manual_seed(0)
    found = warm_head(policy, conditions, actions, 600, generator, target, learning_rate=1e-3)
    with torch.no_grad():
        answer = policy.head.act(torch.randn(200, 1, 1), conditions)
    assert found["head_last"] < found["head_first"]
    assert (answer - actions).abs().mean() < 0.1
    mirrored = (answer + actions).abs().mean()
    assert mirrored > 0.3  # the bound can fail
