"""Plans whose actions come late: when they are due, what runs until then, and the seams (check 28 of the sheet)."""

import numpy as np
import pytest
import torch

from common.diffusion.analytic import GaussianMixture
from control.delay import DelayedActor
from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, delayed_plan

from .conftest import Oracle, fitted, observations, run


@pytest.mark.parametrize("execute, delay", [(1, 3), (2, 3), (4, 1), (3, 0)])
def test_a_delayed_plan_acts_when_its_actions_are_due(model, execute, delay):
    """Step by step what an actor sends whose answers really come that late."""
    seen, plan = observations(2, 14), delayed_plan(20, execute, delay)
    middle = model.actions.inverse(torch.zeros(3)).numpy()
    late = DelayedActor(DiffusionPolicy(model, plan), delay, every=execute, drop=0, idle=middle)
    actions = run(DiffusionPolicy(model, plan), [1, 2], seen)
    np.testing.assert_array_equal(actions, run(late, [1, 2], seen))
    assert (actions[:, :delay] == middle).all() and not (actions[:, delay] == middle).all()
    predicting, state = DiffusionPolicy(model, plan), None
    for k, one in enumerate(observations(2, 6)):
        action, state = predicting.predict(one, state)
        assert (action == middle).all() == (k < delay)


@pytest.mark.parametrize("primer", ["constant", "denoise"])
def test_until_the_first_action_is_due_those_run_that_the_buffer_takes_to_be_on_their_way(model, primer):
    anchor = torch.linspace(-0.8, 0.8, 60).reshape(20, 3) if primer == "constant" else None
    policy = DiffusionPolicy(model, delayed_plan(20, 1, 3), primer, anchor)
    seen, buffers = observations(1, 4), []
    handle = model.denoiser.net.register_forward_pre_hook(lambda module, inputs: buffers.append(inputs[0].clone()))
    actions = run(policy, [0], seen)[0]
    handle.remove()
    told = model.actions.inverse(buffers[-4][0, :3]).numpy()  # the episode's first call, behind the primer's
    np.testing.assert_allclose(actions[:3], told, rtol=1e-6)
    assert np.ptp(actions[:3, :2], axis=0).all()
    if primer == "constant":
        np.testing.assert_allclose(told, model.actions.inverse(anchor[:3]).numpy(), rtol=1e-6)


def test_an_environment_that_is_reset_waits_again_and_a_chunk_asked_for_does_not_change_when_actions_are_due(model):
    seen, plan = observations(2, 9), delayed_plan(20, 1, 2)
    middle = model.actions.inverse(torch.zeros(3)).numpy()
    policy = DiffusionPolicy(model, plan)
    policy.reset([0, 1])
    plain = [policy.select_action(one) for one in seen[:5]]
    policy.reset(mask=np.array([True, False]))
    for one in seen[5:7]:
        action = policy.select_action(one)
        assert (action[0] == middle).all() and not (action[1] == middle)[:2].any()  # the third dimension is constant
    policy.reset([0, 1])
    chunks = [policy.predict_action_chunk(one)[:, 0] for one in seen[:3]]  # for the steps 2, 3, 4
    np.testing.assert_array_equal(chunks, plain[2:5])
    np.testing.assert_array_equal(policy.select_action(seen[3]), chunks[1])  # step 3


def test_planning_anew_under_a_delay_jumps_at_the_seams_and_a_clean_prefix_does_not(windows):
    """Two modes of constant sequences, answers three steps late, exact denoiser: whole chunks lose their mode at every
    second seam, a ladder behind the actions on their way keeps it. Mean |step| at the seams over that within chunks:
    590 and 0.9."""
    model, delay = fitted(windows), 3
    means = torch.stack([torch.full((20, 3), value, dtype=torch.float64) for value in (-0.8, 0.8)])
    spread = (1e-4 * torch.eye(60, dtype=torch.float64)).expand(2, -1, -1)
    mixture = GaussianMixture(torch.tensor([0.5, 0.5], dtype=torch.float64), means, spread)
    model.denoiser = Oracle(model.denoiser.net, mixture.denoise(model.process))
    seen, seeds = observations(8, 83), list(range(8))
    idle = model.actions.inverse(torch.zeros(3)).numpy()

    def jumps(policy):
        """Over steps between control steps 3 + 8 k - 1 and 3 + 8 k, over the others; both dimensions that vary."""
        actions = model.actions(torch.from_numpy(run(policy, seeds, seen)))[:, delay + 16 :, :2]
        moved = actions.diff(dim=1).abs().mean((0, 2))
        at = (torch.arange(len(moved)) + 1) % 8 == 0
        return (moved[at].mean() / moved[~at].mean()).item()

    anew = DelayedActor(DiffusionPolicy(model, chunk_plan(20, 8 + delay, 20)), delay, every=8, drop=delay, idle=idle)
    assert jumps(anew) > 50
    assert jumps(DiffusionPolicy(model, delayed_plan(20, 1, delay))) < 3
    assert jumps(DiffusionPolicy(model, delayed_plan(20, 8, delay))) < 3  # whole chunks behind the prefix
