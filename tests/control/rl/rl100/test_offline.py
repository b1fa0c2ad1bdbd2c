"""Offline improvement on a system whose best action is known: the gate accepts, refuses, reverts, and resumes."""

import copy

import pytest
import torch

from common.diffusion.process import vp_cosine
from common.nn.skip_net import SkipNet
from control.policies.encoders import StateEncoder
from control.rl.rl100.gate import Gate
from control.rl.rl100.offline import OfflineImprovement, OfflineSettings
from control.rl.rl100.policy import Policy

C, SHAPE = 3, (1, 2)
SETTINGS = OfflineSettings(updates=40, batch=128, learning_rate=3e-4, gate_every=20, gate_batch=256, horizon=2)


def best(condition):
    return 0.5 * condition[:, :2]


def advantage(condition, action):
    """Of an action near the best one."""
    return -((action[:, 0] - best(condition)) ** 2).sum(-1)


def stay(condition, action, choice, noise):
    return condition


@pytest.fixture(scope="module")
def cloned() -> Policy:
    """A policy that imitates noise around nothing."""
    torch.manual_seed(0)
    policy = Policy({"state": StateEncoder(C)}, 1, 2, 1, lambda a, c: SkipNet(a, c, 1, 64, 2), vp_cosine(100),
                    dict(steps=5, s_min=0.08, s_max=0.8))  # fmt: skip
    policy.fit({"state": torch.rand(50, C) * 2 - 1}, torch.rand(50, 2) * 2 - 1)
    adam = torch.optim.Adam(policy.denoiser.parameters(), 2e-3)
    for _ in range(300):
        t, eps = torch.randint(1, 101, (128, 1, 1)) / 100, torch.randn(128, *SHAPE)
        loss = policy.imitation_loss(torch.rand(128, C) * 2 - 1, 0.3 * torch.randn(128, *SHAPE), t, eps)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return policy.eval()


def improvement(policy: Policy, reward=advantage, gate: Gate | None = None, **kwargs) -> OfflineImprovement:
    torch.manual_seed(1)
    conditions = torch.rand(500, C) * 2 - 1
    return OfflineImprovement(copy.deepcopy(policy), conditions, reward, kwargs.pop("value", advantage), stay, 1,
                              gate or Gate(z=2), SETTINGS, seed=3, **kwargs)  # fmt: skip


def quality(policy: Policy) -> float:
    torch.manual_seed(7)
    condition, start = torch.rand(400, C) * 2 - 1, torch.randn(400, *SHAPE)
    with torch.no_grad():
        return float(advantage(condition, policy.mean(condition, start)).mean())


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def test_the_true_advantage_is_accepted_and_the_policy_is_better(cloned):
    run = improvement(cloned)
    rows = run.run()
    gates = [row for row in rows if "accepted" in row]
    assert len(gates) == 2 and all(row["accepted"] for row in gates)
    assert quality(run.policy) > quality(cloned) + 0.005
    assert same(run.behaviour.state_dict(), run.policy.state_dict())
    first = next(row for row in rows if "ratio_gap" in row)
    assert first["ratio_gap"] < 1e-3 and first["clip_fraction"] == 0 and first["kl_exact"] < 1e-6
    assert same(run.policy.encoder.state_dict(), cloned.encoder.state_dict())
    assert same(run.policy.actions.state_dict(), cloned.actions.state_dict())


@pytest.mark.parametrize("what", ["reversed advantages", "noise in the weights"])
def test_a_worse_candidate_is_refused_and_everything_is_as_before(cloned, what):
    run = improvement(cloned, reward=(lambda c, a: -advantage(c, a)) if what.startswith("rev") else advantage)
    before = copy.deepcopy((run.policy.state_dict(), run.adam.state_dict(), run.behaviour.state_dict()))
    if what.startswith("noise"):
        with torch.no_grad():
            for weight in run.trained():
                weight += 0.2 * weight.std() * torch.randn_like(weight)
        decision = run.judge()
    else:
        run.run(20)
        decision = run.judge()
        assert not next(row for row in run.logs if "accepted" in row)["accepted"]
    assert not decision.accepted
    assert same(run.policy.state_dict(), before[0]) and same(run.behaviour.state_dict(), before[2])
    assert run.adam.state_dict()["state"].keys() == before[1]["state"].keys()


def test_behind_an_acceptance_a_refusal_goes_back_to_its_weights_and_its_moments(cloned):
    run = improvement(cloned)
    run.run(20)
    assert run.logs[-1]["accepted"]
    kept = copy.deepcopy((run.policy.state_dict(), run.adam.state_dict()))
    run.advantage = lambda condition, action: -advantage(condition, action)
    run.run(40)
    assert not run.logs[-1]["accepted"] and run.logs[-2]["update"] == 39
    assert same(run.policy.state_dict(), kept[0]) and same(run.behaviour.state_dict(), kept[0])
    for number, moments in kept[1]["state"].items():
        assert same(run.adam.state_dict()["state"][number], moments) and moments["exp_avg"].abs().max() > 0


def test_between_gates_the_behaviour_does_not_change(cloned):
    run = improvement(cloned)
    before = copy.deepcopy(run.behaviour.state_dict())
    run.run(19)
    assert same(run.behaviour.state_dict(), before) and not same(run.policy.state_dict(), before)


def test_a_killed_run_goes_on_bit_for_bit(cloned):
    whole = improvement(cloned)
    whole.run()
    begun = improvement(cloned)
    begun.run(25)
    other = improvement(cloned)
    other.load_state_dict(begun.state_dict())
    other.run()
    assert same(other.policy.state_dict(), whole.policy.state_dict()) and other.logs == whole.logs


def test_vetoes_and_flat_advantages_are_told(cloned):
    run = improvement(cloned, gate=Gate(z=1, most_disagreement=0.5), disagreement=lambda c, a: torch.ones(len(c)))
    run.run(20)
    assert "disagreement 1 above 0.5" in run.logs[-1]["reason"]
    flat = improvement(cloned, reward=lambda c, a: torch.zeros(len(c)))
    flat.run(3)
    assert all(row["skipped"] for row in flat.logs) and same(flat.policy.state_dict(), cloned.state_dict())
    far = improvement(cloned, gate=Gate(z=1, most_kl=1e-9))
    far.run(20)
    assert "to the round's start above" in far.logs[-1]["reason"]
