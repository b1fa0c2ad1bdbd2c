"""What a policy is given: observations, plans, primers, masks, states. Wrong ones are named and nothing is lost."""

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from control.policies.cloning import CloningModel, CloningPolicy
from control.policies.encoders import ImageEncoder, PointEncoder, StateEncoder
from control.policies.evaluation import actor
from control.policies.history import ObservationHistory
from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, delayed_plan, ladder_plan

from .conftest import observations, run, tiny_model

LADDER = ladder_plan(20, 1)


@pytest.fixture(params=["diffusion", "cloning"])
def policy(request, model, windows):
    """Both kinds observe a state of width 3."""
    if request.param == "diffusion":
        return DiffusionPolicy(model, LADDER)
    cloning = CloningModel(3, {"state": dict(type=StateEncoder, width=3)}, widths=(8,))
    cloning.fit(windows)
    return CloningPolicy(cloning)


@pytest.mark.parametrize("shape", [(1, 2), (1, 1), (1, 4), (1,), (), (1, 3, 1), (2, 3)])
def test_a_wrong_shape_is_named_before_anything_is_taken(policy, shape):
    seen = observations(1, 6)
    untouched = run(policy, [4], seen)
    policy.reset([4])
    for k, one in enumerate(seen):
        if k in (0, 3):  # before and after the history has a first step
            with pytest.raises(ValueError) as raised:
                policy.select_action({"state": np.zeros(shape, np.float32)})
            assert "'state'" in str(raised.value) and str(shape) in str(raised.value)
            assert "wanted (1, 3)" in str(raised.value)
        np.testing.assert_array_equal(policy.select_action(one), untouched[:, k])


def test_observations_may_be_of_double_precision_and_are_not_kept_by_reference(policy):
    seen = observations(1, 5)
    plain = run(policy, [4], seen)
    policy.reset([4])
    buffer = np.zeros((1, 3))  # an environment that reuses its array
    for k, one in enumerate(seen):
        buffer[:] = one["state"]
        np.testing.assert_array_equal(policy.select_action({"state": buffer}), plain[:, k])
    with pytest.raises(ValueError, match="of type <U1; wanted"):
        policy.select_action({"state": np.full((1, 3), "a")})
    with pytest.raises(ValueError, match="finite: False"):
        policy.select_action({"state": np.full((1, 3), 1e300)})


def test_pictures_and_points_have_the_shape_of_the_first_that_was_taken():
    history = ObservationHistory.of({"rgb": ImageEncoder(8, base=16, blocks=1), "points": PointEncoder(8)}, 2, 1)
    good = {"rgb": np.zeros((1, 96, 96, 3), np.uint8), "points": np.zeros((1, 64, 3), np.float32)}
    for bad, wanted in (
        ({"rgb": np.zeros((1, 96, 96, 4), np.uint8)}, r"'rgb' is \(1, 96, 96, 4\); wanted \(1, any, any, 3\)"),
        ({"points": np.zeros((1, 64, 2))}, r"'points' is \(1, 64, 2\); wanted \(1, any, 3\)"),
    ):
        with pytest.raises(ValueError, match=wanted):
            history.append({**good, **bad})
    assert history.steps == [None]
    history.append(good)
    with pytest.raises(ValueError, match=r"'rgb' is \(1, 84, 84, 3\); wanted \(1, 96, 96, 3\)"):
        history.append({**good, "rgb": np.zeros((1, 84, 84, 3), np.uint8)})
    history.append(good)
    assert history.stacked()["points"].shape == (1, 2, 64, 3)


def test_a_plan_of_another_alignment_is_refused(model, published):
    for wrong, plan in ((published, chunk_plan(20, 8, 10)), (model, chunk_plan(20, 8, 10, first=1)),
                        (model, ladder_plan(20, 8, 5, first=1)), (published, delayed_plan(20, 1, 1))):  # fmt: skip
        with pytest.raises(ValueError, match=rf"position \d for the action of now .* offset={wrong.offset}"):
            DiffusionPolicy(wrong, plan)
    DiffusionPolicy(model, delayed_plan(20, 1, 3))
    DiffusionPolicy(published, chunk_plan(20, 8, 10, first=1))


def test_more_denoising_steps_than_the_process_has_are_refused(model):
    """At 101 an evaluation changes nothing; beyond 200 the lowest level would be rounded to a noise of 0."""
    for plan, steps in ((ladder_plan(20, 1, 11), 220), (chunk_plan(20, 8, 101), 101), (ladder_plan(20, 6, 40), 120)):
        message = rf"{steps} denoising steps, {plan.evaluations} in each call.* 100 levels"
        with pytest.raises(ConfigError, match=message):
            DiffusionPolicy(model, plan)
    for plan in (ladder_plan(20, 1, 5), chunk_plan(20, 8, 100), ladder_plan(20, 6, 33)):  # 33 * 3 does not divide 100
        DiffusionPolicy(model, plan)


def test_a_config_gives_the_anchor_of_its_primer(model):
    seen, plan = observations(1, 4), dict(type=ladder_plan, execute=1)
    anchor = [0.5, -0.25, 0.0]
    wanted = run(DiffusionPolicy(model, LADDER, "constant", torch.tensor(anchor)), [0], seen)
    for given in (anchor, [anchor] * 20):
        np.testing.assert_array_equal(run(actor(model, dict(plan, primer="constant", anchor=given)), [0], seen), wanted)
    assert not np.allclose(wanted, run(actor(model, plan), [0], seen))
    for wrong, message in (
        (dict(primer="constant"), "anchor missing.* 'constant' needs an anchor"),
        (dict(anchor=anchor), "'zero', anchor given.* the others take none"),
        (dict(primer="constant", anchor=[0.5]), r"anchor is \(1,\), wanted .* \(3,\) or \(20, 3\)"),
        (dict(primer="constant", anchor=[0.5, float("nan"), 0]), r"anchor is \(3,\), wanted finite"),
        (dict(primer="constant", anchor=[[0.5], [0.1, 0.2]]), r"anchor=\[\[0\.5\], .* equally long"),
    ):
        with pytest.raises(ValueError, match=message):
            actor(model, dict(plan, **wrong))


@pytest.mark.parametrize("plan", [LADDER, chunk_plan(20, 8, 4, eta=1.0)], ids=["ladder", "DDPM"])
def test_the_same_state_and_observation_give_the_same_actions_whatever_happened_since(model, plan):
    seen, policy, state = observations(2, 14), DiffusionPolicy(model, plan), None
    states, actions = [], []
    for one in seen:
        states.append(state)
        action, state = policy.predict(one, state)
        actions.append(action)
    kept = states[5][0]["state"].buffer.clone()
    other = DiffusionPolicy(model, plan)  # a state is not tied to the object that made it
    for by in (policy, other, policy):
        again, _ = by.predict(seen[5], states[5])
        np.testing.assert_array_equal(again, actions[5])
    rest, state = [], states[5]
    for one in seen[5:]:
        action, state = other.predict(one, state)
        rest.append(action)
    np.testing.assert_array_equal(rest, actions[5:])
    assert torch.equal(states[5][0]["state"].buffer, kept)
    policy.select_action(seen[0])  # moves on; the state that was passed back last must not be taken for the present
    again, _ = policy.predict(seen[5], states[5])
    np.testing.assert_array_equal(again, actions[5])
    with pytest.raises(ValueError, match="state is a list: pass back what `predict` returned"):
        policy.predict(seen[0], [1])


def test_every_episode_of_predict_has_a_seed_of_its_own(model, monkeypatch):
    policy, restarted = DiffusionPolicy(model, LADDER), []
    seen = observations(3, 6)
    _, state = policy.predict(seen[0])
    monkeypatch.setattr(policy.noise, "restart", lambda index, seed: restarted.append((index, seed)))
    for one, start in zip(seen[1:], ([2], [0, 1], [], [1], [0, 2]), strict=True):
        _, state = policy.predict(one, state, np.isin(np.arange(3), start))
    assert restarted == [(2, 3), (0, 4), (1, 5), (1, 6), (0, 7), (2, 8)]  # 0, 1, 2 began it
    before = list(restarted)
    with pytest.raises(ValueError, match="finite: False"):  # refused before an episode has begun
        policy.predict({"state": np.full((3, 3), np.nan)}, state, np.ones(3, bool))
    assert restarted == before


def test_a_mask_needs_no_seeds_and_must_have_an_entry_per_environment(model):
    seen = observations(3, 8)
    default, given = DiffusionPolicy(model, LADDER), DiffusionPolicy(model, LADDER)
    for policy, seeds in ((default, None), (given, [0, 9, 10])):
        policy.reset([4, 8, 6])
        for one in seen[:3]:
            policy.select_action(one)
        policy.reset(seeds, mask=np.array([False, True, True]))
    np.testing.assert_array_equal(*(policy.select_action(seen[3]) for policy in (default, given)))
    for wrong in (dict(mask=np.ones(2, bool)), dict(seeds=[1], mask=np.ones(3, bool))):
        with pytest.raises(ValueError, match=r"reset: mask .* this policy has 3 environments"):
            default.reset(**wrong)
    fresh = DiffusionPolicy(model, LADDER)
    fresh.reset(mask=np.ones(3, bool))  # all of them: an episode in each
    np.testing.assert_array_equal(fresh.select_action(seen[0]), run(default, [0, 1, 2], seen[:1])[:, 0])


def test_a_masked_reset_of_a_cloning_policy_forgets_that_environment_alone(windows):
    model = CloningModel(3, {"state": dict(type=StateEncoder, width=3)}, widths=(8,))
    model.fit(windows)
    seen, policy = observations(2, 4), CloningPolicy(model)
    whole = run(policy, [0, 1], seen)
    policy.reset(mask=np.ones(2, bool))
    for one in seen[:3]:
        policy.select_action(one)
    policy.reset(mask=np.array([False, True]))
    actions = policy.select_action(seen[3])
    np.testing.assert_array_equal(actions[0], whole[0, 3])
    np.testing.assert_allclose(actions[1], run(policy, [0, 1], seen[3:])[1, 0], rtol=1e-5)
    with pytest.raises(ValueError, match="this policy has 2 environments"):
        policy.reset(mask=np.ones(3, bool))


def test_plans_are_held_against_the_models_process_not_only_at_a_hundred_levels(windows):
    model = tiny_model(steps=8, prediction="x0")
    model.fit(windows)
    with pytest.raises(ConfigError, match="20 denoising steps, 1 in each call, and the process has 8 levels"):
        DiffusionPolicy(model, LADDER)
    DiffusionPolicy(model, ladder_plan(20, 5, 2))  # 8 steps
