"""The policy object: episodes, environments, freshness, reductions (checks 3, 14-18 of the sheet)."""

import numpy as np
import pytest
import torch

from common.errors import DataError
from control.policies.policy import DiffusionPolicy, NotReset, restore, snapshot
from control.policies.streaming import chunk_plan, delayed_plan, ladder_plan

from .conftest import observations, run, tiny_model

PLANS = {
    "DP": chunk_plan(20, 8, 10),
    "DDPM": chunk_plan(20, 8, 10, eta=1.0),
    "SDP": ladder_plan(20, 8, 5, first=1),
    "SDP renoise": ladder_plan(20, 8, 5, first=1, prefix="renoise", eta=1.0),
    "ladder": ladder_plan(20, 1),
    "ladder 2": ladder_plan(20, 2),
    "delay": delayed_plan(20, 1, 2),
}


@pytest.fixture
def of(model, published):
    """plan -> policy on the model with the plan's alignment."""
    return lambda plan, *args: DiffusionPolicy(published if plan.first > plan.delay else model, plan, *args)


@pytest.mark.parametrize("name", PLANS)
def test_a_batch_of_streams_is_that_many_single_streams(of, name):
    seen = observations(3, 20)
    together = run(of(PLANS[name]), [5, 6, 7], seen)
    for i in range(3):
        alone = run(of(PLANS[name]), [5 + i], [{"state": one["state"][i : i + 1]} for one in seen])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-4, atol=2e-3)  # actions reach 400


@pytest.mark.parametrize("name", PLANS)
def test_an_episode_does_not_depend_on_the_one_before(of, name):
    seen, policy = observations(2, 15), of(PLANS[name])
    first = run(policy, [1, 2], seen)
    run(policy, [8, 9], observations(2, 11, seed=4))
    np.testing.assert_array_equal(run(policy, [1, 2], seen), first)


def test_resetting_one_environment_leaves_the_others_bit_for_bit(model):
    seen = observations(3, 24)
    plain, interrupted = (DiffusionPolicy(model, PLANS["ladder"]) for _ in range(2))
    whole = run(plain, [1, 2, 3], seen)
    interrupted.reset([1, 2, 3])
    actions = []
    for k, one in enumerate(seen):
        if k == 9:
            interrupted.reset([1, 77, 3], mask=np.array([False, True, False]))
        actions.append(interrupted.select_action(one))
    actions = np.stack(actions, 1)
    np.testing.assert_array_equal(actions[[0, 2]], whole[[0, 2]])
    fresh = run(DiffusionPolicy(model, PLANS["ladder"]), [77], [{"state": one["state"][1:2]} for one in seen[9:]])
    np.testing.assert_allclose(actions[1:2, 9:], fresh, rtol=1e-4, atol=2e-3)


def test_environments_that_are_done_cost_no_evaluations_and_change_nothing_for_the_others(model):
    seen = observations(3, 20)
    whole = run(DiffusionPolicy(model, PLANS["ladder"]), [1, 2, 3], seen)
    policy, rows = DiffusionPolicy(model, PLANS["ladder"]), []
    policy.reset([1, 2, 3])
    policy.model.condition = lambda observation, of=policy.model.condition: (
        rows.append(len(observation["state"])) or of(observation)
    )
    try:
        actions = []
        for k, one in enumerate(seen):
            actions.append(policy.select_action(one, np.array([True, k < 5, True])))
    finally:
        del policy.model.condition
    actions = np.stack(actions, 1)
    np.testing.assert_allclose(actions[[0, 2]], whole[[0, 2]], rtol=1e-4, atol=2e-3)
    assert rows == [3] * 5 + [2] * 15
    assert not actions[1, 5:].any() and actions[1, :5].any()


def test_a_snapshot_in_mid_episode_reproduces_the_rest(of):
    seen, policy = observations(2, 30), of(PLANS["SDP renoise"])
    policy.reset([3, 4])
    for one in seen[:13]:
        policy.select_action(one)
    kept = snapshot(policy)
    rest = [policy.select_action(one) for one in seen[13:]]
    other = of(PLANS["SDP renoise"])
    restore(other, kept)
    np.testing.assert_array_equal([other.select_action(one) for one in seen[13:]], rest)
    with pytest.raises(ValueError, match=r"stored buffer is \(20, 3\), this policy's \(16, 3\)"):
        short = tiny_model(horizon=16)
        short.load_state_dict(other.model.state_dict())
        restore(DiffusionPolicy(short, chunk_plan(16, 8, 10)), kept)


def test_the_newest_observation_acts_in_the_same_call_and_never_on_earlier_actions(model):
    seen = observations(1, 12)
    changed = [{"state": one["state"].copy()} for one in seen]
    changed[7]["state"] += 0.5
    a, b = (run(DiffusionPolicy(model, PLANS["ladder"]), [1], s) for s in (seen, changed))
    np.testing.assert_array_equal(a[:, :7], b[:, :7])
    assert not np.array_equal(a[:, 7], b[:, 7])
    a, b = (run(DiffusionPolicy(model, PLANS["DP"]), [1], s) for s in (seen, changed))
    np.testing.assert_array_equal(a[:, :8], b[:, :8])  # a chunk of 8 is deaf until it ends
    assert not np.array_equal(a[:, 8], b[:, 8])


@pytest.mark.parametrize("name, per_call", [("DP", 10), ("SDP", 5), ("ladder", 1), ("delay", 1)])
def test_the_number_of_evaluations_per_call_is_the_plans(of, name, per_call):
    policy = of(PLANS[name])
    run(policy, [0], observations(1, 16))
    assert policy.evaluations == per_call * -(-16 // PLANS[name].execute)


def test_the_condition_is_computed_once_per_call(model, monkeypatch):
    calls = []
    real = model.denoiser.net.project
    monkeypatch.setattr(model.denoiser.net, "project", lambda o: calls.append(1) or real(o))
    policy = DiffusionPolicy(model, PLANS["DP"])
    policy.reset([0])
    policy.predict_action_chunk(observations(1, 1)[0])
    assert len(calls) == 1 and policy.evaluations == 10


def test_actions_stay_in_the_range_of_the_data_and_constant_dimensions_keep_their_value(model):
    actions = run(DiffusionPolicy(model, PLANS["ladder"]), [1, 2], observations(2, 40))
    low, high = model.actions.low.numpy(), model.actions.high.numpy()
    assert (actions >= low - 1e-3).all() and (actions <= high + 1e-3).all()
    np.testing.assert_array_equal(actions[..., 2], 7)


@pytest.mark.parametrize("primer, extra", [("zero", 0), ("constant", 0), ("denoise", 100)])
def test_the_primers_cost_what_they_say(model, primer, extra):
    anchor = torch.tensor([0.2, 0.0, 0.0]) if primer == "constant" else None
    policy = DiffusionPolicy(model, PLANS["ladder"], primer, anchor)
    run(policy, [0, 1], observations(2, 3))
    assert policy.evaluations == 3 + extra
    with pytest.raises(ValueError, match="'constant' needs an anchor"):
        DiffusionPolicy(model, PLANS["ladder"], "constant")


def test_stable_baselines_signature_carries_the_state_and_begins_episodes(model):
    seen, policy = observations(2, 10), DiffusionPolicy(model, PLANS["ladder"])
    state, actions = None, []
    for k, one in enumerate(seen):
        start = np.array([k == 0, k in (0, 5)])
        action, state = policy.predict(one, state=state, episode_start=start)
        actions.append(action)
    plain = run(DiffusionPolicy(model, PLANS["ladder"]), [0, 1], seen)
    np.testing.assert_array_equal(np.stack(actions, 1)[0], plain[0])
    np.testing.assert_array_equal(np.stack(actions, 1)[1, :5], plain[1, :5])
    assert not np.allclose(np.stack(actions, 1)[1, 5:], plain[1, 5:])


def test_asked_before_reset_with_a_nan_or_without_statistics_it_names_the_fault(model):
    policy = DiffusionPolicy(model, PLANS["DP"])
    with pytest.raises(NotReset, match=r"call reset\(seeds\)"):
        policy.select_action(observations(1, 1)[0])
    policy.reset([0])
    with pytest.raises(ValueError, match="finite: False"):
        policy.select_action({"state": np.full((1, 3), np.nan)})
    with pytest.raises(ValueError, match=r"is \(2, 3\).*for 1 environments"):
        policy.select_action({"state": np.zeros((2, 3))})
    with pytest.raises(ValueError, match="'state' is missing"):
        policy.select_action({"rgb": np.zeros((1, 3))})
    with pytest.raises(DataError, match="without statistics"):
        DiffusionPolicy(tiny_model(), PLANS["DP"])
    with pytest.raises(ValueError, match="horizon is 16, the model's 20"):
        DiffusionPolicy(model, chunk_plan(16, 8, 10))


@pytest.mark.gpu
@pytest.mark.parametrize("primer", ["zero", "constant", "denoise"])
def test_a_model_on_a_gpu_acts_as_on_the_cpu(published, primer):
    anchor = torch.zeros(3) if primer == "constant" else None
    seen, runs = observations(2, 12), []
    for device in ("cpu", "cuda"):
        runs.append(run(DiffusionPolicy(published.to(device), PLANS["SDP renoise"], primer, anchor), [1, 2], seen))
    np.testing.assert_allclose(*runs, rtol=1e-3, atol=2e-2)  # actions reach 400
