"""The learned model, the estimate in it, and the gate that keeps an update or does not."""

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from control.rl.rl100.dynamics import Ensemble
from control.rl.rl100.gate import Draws, Gate, estimate

C, ACTION = 3, (2, 1)
A = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.8, 0.1], [0.1, 0.0, 0.7]])
B = torch.tensor([[0.3, 0.0], [0.0, 0.2], [0.1, 0.1]])


def true_step(condition, action, *_):
    """A stable linear system."""
    return condition @ A.T + action.flatten(1) @ B.T


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    condition, action = torch.randn(3000, C), torch.randn(3000, *ACTION)
    ensemble = Ensemble(C, 2, members=4, elites=2, widths=(32, 32))
    fit = ensemble.fit(condition, action, true_step(condition, action), 800, learning_rate=3e-3)
    return ensemble, fit


def value(condition, action):
    """Reward of being near the origin with small actions."""
    return -(condition**2).sum(-1) - 0.1 * (action**2).flatten(1).sum(-1)


def noisy(scale: float):
    """A feedback of the system, worse by as much noise as it adds."""

    def policy(condition, start, chain):
        return (-1.5 * condition[:, :2] + scale * start.flatten(1)).view(-1, *ACTION)

    return policy


def draws(horizon: int = 5, batch: int = 256, seed: int = 0) -> Draws:
    return Draws.of(horizon, batch, ACTION, C, 4, 2, torch.Generator().manual_seed(seed))


def test_a_linear_system_is_learnt_and_the_elites_are_the_best(fitted):
    ensemble, fit = fitted
    torch.manual_seed(1)
    condition, action = torch.randn(500, C), torch.randn(500, *ACTION)
    error = ensemble.step(condition, action, torch.zeros(500, dtype=torch.long)) - true_step(condition, action)
    assert float((error / ensemble.spread).square().mean()) < 1e-2
    assert set(fit.elites.tolist()) == set(fit.held_out.argsort()[:2].tolist())
    assert fit.held_out[fit.elites].max() <= fit.held_out.min() * 10


def test_the_ensemble_disagrees_far_from_its_data_and_stays_in_their_range(fitted):
    ensemble, _ = fitted
    torch.manual_seed(1)
    near, action = torch.randn(200, C), torch.randn(200, *ACTION)
    assert ensemble.disagreement(8 * near, 8 * action).mean() > 5 * ensemble.disagreement(near, action).mean()
    far = ensemble.step(50 * near, 50 * action, torch.zeros(200, dtype=torch.long), torch.randn(200, C))
    assert (far <= ensemble.high).all() and (far >= ensemble.low).all()


def test_identical_policies_differ_by_exactly_nothing_and_are_refused(fitted):
    ensemble, _ = fitted
    begin = torch.randn(256, C)
    before, after = (estimate(noisy(0.3), ensemble.step, value, begin, draws()) for _ in range(2))
    assert torch.equal(before, after)
    decision = Gate()(before, after)
    assert not decision.accepted and decision.gain == 0
    other = estimate(noisy(0.3), ensemble.step, value, begin, draws(seed=1))
    assert not torch.equal(before, other)


@pytest.mark.parametrize(("model", "least"), [("true", 0.99), ("learned", 0.8)])
def test_the_estimate_ranks_policies_as_their_quality(fitted, model, least):
    step = true_step if model == "true" else fitted[0].step
    begin = torch.randn(256, C)
    scales = np.array([0.0, 0.3, 0.6, 1.0, 1.5])
    found = np.array([float(estimate(noisy(scale), step, value, begin, draws()).mean()) for scale in scales])
    ranks = np.corrcoef(found.argsort().argsort(), (-scales).argsort().argsort())[0, 1]
    assert ranks >= least


def test_the_gate_takes_a_better_policy_and_refuses_a_worse_one(fitted):
    ensemble, _ = fitted
    begin = torch.randn(256, C)
    found = {scale: estimate(noisy(scale), ensemble.step, value, begin, draws()) for scale in (0.0, 0.5, 1.0)}
    assert Gate(z=2)(found[0.5], found[0.0]).accepted
    refused = Gate(z=2)(found[0.5], found[1.0])
    assert not refused.accepted and "below 2 standard errors" in refused.reason


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad):
    after = torch.ones(10)
    after[3] = bad
    decision = Gate(most_kl=1.0)(torch.zeros(10), after, kl=0.1)
    assert not decision.accepted and "not finite" in decision.reason
    assert not Gate(most_kl=1.0)(torch.zeros(10), torch.ones(10) + torch.rand(10), kl=float("nan")).accepted


def test_the_papers_rule_and_the_vetoes_refuse_by_name():
    torch.manual_seed(0)
    before = 10 + torch.randn(400)
    after = before + 0.2 + 0.01 * torch.randn(400)  # sure, but 2 %
    assert Gate(z=1)(before, after).accepted
    decision = Gate(z=0, relative=0.05)(before, after)
    assert (
        not decision.accepted
        and "2 % below 5 %" in decision.reason
        and decision.relative == pytest.approx(0.02, abs=2e-3)
    )
    assert "KL 0.3" in Gate(most_kl=0.1)(before, after, kl=0.3).reason
    assert "disagreement 2" in Gate(most_disagreement=1.0)(before, after, disagreement=2.0).reason
    with pytest.raises(ConfigError, match="one of them above 0"):
        Gate(z=0)
