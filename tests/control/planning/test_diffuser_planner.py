"""The planner in closed loop, with small networks that are not trained but fitted to data's ranges."""

import logging

import numpy as np
import pytest
import torch

from common.diffusion.process import vp_cosine
from common.errors import ConfigError, DataError
from common.nn.transformer import ConditionalTransformer
from control.demonstrations.store import Episode
from control.planning.diffuser.guided import GuidedDiffuserModel
from control.planning.diffuser.habit import HabitModel, divergence
from control.planning.diffuser.model import TrajectoryDiffuserModel
from control.planning.diffuser.refine import clean_start
from control.planning.diffuser.student import PlannerStudent
from control.planning.diffuser.windows import PlanWindows

S, A, H = 3, 2, 6
NET = {"type": ConditionalTransformer, "horizon": H, "width": 16, "depth": 1, "heads": 2, "level_scale": 20.0}
ARGUMENTS = {
    "state_dim": S, "action_dim": A, "horizon": H, "net": NET, "process": {"type": vp_cosine, "steps": 20},
    "generator": {"width": 16, "depth": 1, "heads": 2, "hidden": 16},
}  # fmt: skip


def episodes(count=6, length=40):
    random = np.random.default_rng(0)
    return [
        Episode({"state": random.normal(1, 2, (length + 1, S)).astype(np.float32)},
                random.uniform(-3, 1, (length, A)).astype(np.float32), random.uniform(0, 1, length), False, None)
        for _ in range(count)
    ]  # fmt: skip


def windows(**kwargs):
    return PlanWindows(episodes(), kwargs.pop("length", H), **kwargs)


def model(kind=TrajectoryDiffuserModel, observed=1, stride=1, **kwargs):
    torch.manual_seed(0)
    made = kind(**{**ARGUMENTS, "observed": observed, "stride": stride, **kwargs})
    made.fit(windows(length=H + observed - 1, stride=stride))
    for parameter in made.parameters():  # last layers that begin at 0 would hide what is wrong
        if float(parameter.abs().sum()) == 0:
            torch.nn.init.normal_(parameter, std=0.2)
    made.generator_error.fill_(0.1)
    return made


def seen(batch=2, seed=0):
    return {"state": np.random.default_rng(seed).normal(1, 2, (batch, S)).astype(np.float32)}


def run(planner, seeds, observations, masks=None):
    planner.reset(seeds)
    return np.stack([planner.select_action(one) for one in observations])


BASE = {"level": 4, "target": 5.0}
WAYS = {
    "generator": {"level": 0},
    "written and refined": {},
    "level of the error": {"level": None},
    "noised": {"forward_noise": True},
    "guided": {"guidance": 1.4},
    "chosen": {"candidates": 3, "jitter": 0.2},
    "softmax": {"candidates": 3, "choose": "softmax"},
    "noise": {"start": "noise", "level": None, "steps": 5, "eta": 0.0},
    "previous": {"start": "previous", "level": 6},
    "value": {"target": "value"},
    "four steps": {"execute": 4},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("observed", "stride"), [(1, 1), (3, 2)])
def test_batch_and_history_do_not_matter_to_a_row(way, observed, stride):
    """Two environments at once act as each alone, whatever begins when."""
    made, settings = model(observed=observed, stride=stride), {**BASE, **WAYS[way]}
    observations = [seen(2, step) for step in range(7)]
    both = made.actor(settings)
    both.reset([5, 6])
    acts = []
    for step, one in enumerate(observations):
        if step == 4:
            both.reset([5, 9], np.array([False, True]))
        acts.append(both.select_action(one))
    acts = np.stack(acts)
    assert np.isfinite(acts).all() and (acts >= -3).all() and (acts <= 1).all()
    first = run(made.actor(settings), [5], [{"state": one["state"][:1]} for one in observations])
    again = run(made.actor(settings), [9], [{"state": one["state"][1:]} for one in observations[4:]])
    assert np.allclose(acts[:, :1], first, atol=2e-5)
    assert np.allclose(acts[4:, 1:], again, atol=2e-5)


def test_the_seed_matters_where_there_is_noise():
    made, observations = model(), [seen(1)]

    def acts(seed, **settings):
        return run(made.actor({**BASE, **settings}), [seed], observations)

    assert np.array_equal(acts(1), acts(1)) and not np.array_equal(acts(1), acts(2))
    assert np.array_equal(acts(1, temperature=0.0), acts(2, temperature=0.0))
    assert np.array_equal(acts(1, level=0), acts(2, level=0))


def test_level_0_is_the_written_plan():
    planner = model().actor({**BASE, "level": 0})
    run(planner, [0], [seen(1)])
    assert np.allclose(planner.current[-1], planner.first_plan[0], atol=1e-5)
    assert planner.calls == {"generator": H - 1, "optimiser": 0}


def test_calls_per_decision():
    for execute, decisions in ((1, 9), (4, 3)):
        planner = model().actor({**BASE, "execute": execute})
        run(planner, [0], [seen(1, step) for step in range(9)])
        assert planner.plans == decisions
        assert planner.calls == {"generator": decisions * (H - 1), "optimiser": decisions * 4}


def test_a_guided_evaluation_counts_twice_and_a_share_of_the_largest_return_is_asked_for():
    made = model()
    planner = made.actor({**BASE, "guidance": 1.5, "target": None, "share": 0.5})
    run(planner, [0], [seen(1)])
    assert planner.calls == {"generator": H - 1, "optimiser": 8}
    assert planner.asked.left[0] == pytest.approx(0.5 * float(made.return_high))


def test_the_plan_begins_where_the_robot_is():
    planner = model().actor({**BASE, "candidates": 3, "jitter": 0.3})
    run(planner, [0], [seen(1)])
    assert np.allclose(planner.current[-1][0], seen(1)["state"][0], atol=1e-4)
    assert np.allclose(planner.first_plan[:, 0], seen(1)["state"][0], atol=1e-4)


def test_the_best_candidate_is_taken():
    made = model()
    planner = made.actor({**BASE, "candidates": 8, "level": 0, "jitter": 0.5})
    run(planner, [3], [seen(1)])
    worth = made.plan_value(made.states(torch.from_numpy(planner.first_plan)).flatten(1))[:, 0]
    assert np.allclose(planner.first_plan[int(worth.argmax())], planner.current[-1], atol=1e-4)


def test_followed_plan_counts_the_steps_that_are_left():
    made, asked = model(stride=4), []
    inner = made.inverse.forward
    made.inverse.forward = lambda s, goal, gap: (asked.append((goal[0, 0].item(), gap[0].item())), inner(s, goal, gap))[
        1
    ]
    planner = made.actor({**BASE, "execute": 9})
    planner.reset([0])
    for step in range(9):
        planner.select_action(seen(1, step))
    goals, gaps = zip(*asked, strict=True)
    assert gaps == (4, 3, 2, 1, 4, 3, 2, 1, 4)
    assert len(set(goals)) == 3 and goals[0] == goals[3] and goals[4] == goals[7]


def test_warm_start_is_the_shifted_plan():
    made = model(stride=2)
    planner = made.actor({"start": "previous", "level": 5, "execute": 2, "target": 5.0})
    planner.reset([0])
    for step in range(3):
        planner.select_action(seen(1, step))
        if step == 0:
            before = planner.current[-1].copy()
            assert planner.calls == {"generator": 0, "optimiser": 19}  # from the highest level with a signal
    assert planner.calls == {"generator": 0, "optimiser": 24}
    # with no noise at all the plan that it began from is the old one, a state further
    quiet = made.process.noise(torch.zeros(1), torch.tensor(5 / 20), torch.zeros(1))
    assert float(quiet) == 0
    assert planner.first_plan.shape == (1, H, S) and not np.allclose(planner.first_plan[0, 1], before[2])


def test_what_is_asked_falls_and_stops_at_the_floor(caplog):
    planner = model().actor({**BASE, "target": 6.0, "floor": 0.5})
    planner.reset([0, 1])
    planner.rewarded(np.array([1.0, 4.0]))
    assert planner.asked.left.tolist() == [5.0, 3.0] and planner.asked.floored == 1
    planner.reset([2, 3], np.array([False, True]))
    assert planner.asked.left.tolist() == [5.0, 6.0]
    held = model().actor({**BASE, "update": "hold"})
    held.reset([0])
    held.rewarded(np.array([1.0]))
    assert held.asked.left.tolist() == [5.0]
    with caplog.at_level(logging.WARNING):
        model().actor({**BASE, "target": 1e4})
    assert "outside the data's returns" in caplog.text


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"start": "nothing"}, "start"), ({"level": 21}, "level"), ({"level": 0, "start": "noise"}, "level"),
     ({"execute": 6}, "execute"), ({"target": "best"}, "target"), ({"steps": 5}, "steps"),
     ({"candidates": 0}, "candidates"), ({"choose": "worst"}, "choose"), ({"update": "no"}, "update")],
)  # fmt: skip
def test_settings_that_do_not_fit(settings, key):
    with pytest.raises(ConfigError, match=f"plan.{key}"):
        model().actor({**BASE, **settings})


def test_unknown_settings_and_missing_statistics():
    with pytest.raises(ConfigError, match="levels"):
        model().actor({"levels": 3})
    with pytest.raises(ConfigError, match="kind='dreamer'"):
        model().actor({"kind": "dreamer"})
    with pytest.raises(DataError, match="statistics"):
        TrajectoryDiffuserModel(**ARGUMENTS).actor(BASE)


def test_the_generators_error_is_measured_in_training():
    made, batch = model(), windows().__getitems__(list(range(16)))
    made.generator_error.zero_()
    with pytest.raises(ConfigError, match=r"plan\.level=None"):
        made.actor({**BASE, "level": None})
    made.eval()(**batch, mode="loss")
    assert float(made.generator_error) == 0
    made.train()(**batch, mode="loss")
    normal, asked = made.states(batch["states"]), batch["returns"] / made.return_scale
    assert float(made.generator_error) == pytest.approx(float(made.generator.errors(normal, asked)[0].sqrt()), rel=1e-4)
    assert made.actor({**BASE, "level": None}).settings.level > 0


def test_observations_that_do_not_fit():
    planner = model().actor(BASE)
    planner.reset([0])
    with pytest.raises(ValueError, match="finite"):
        planner.select_action({"state": np.full((1, S), np.nan, np.float32)})
    with pytest.raises(ValueError, match="wanted"):
        planner.select_action({"state": np.zeros((1, S + 1), np.float32)})


def test_every_network_gets_a_loss_of_its_own():
    made = model(observed=2)
    batch = windows(length=H + 1).__getitems__(list(range(16)))
    losses = made(**batch, mode="loss")
    for name, owner in (("generator", "generator"), ("optimiser", "denoiser"), ("inverse", "inverse"),
                        ("cloning", "cloning"), ("value", "value"), ("plan_value", "plan_value")):  # fmt: skip
        made.zero_grad()
        losses[f"loss_{name}"].backward(retain_graph=True)
        touched = {key.split(".")[0] for key, one in made.named_parameters() if one.grad is not None and one.grad.any()}
        assert touched == ({"denoiser", "embedding"} if name == "optimiser" else {owner})


def test_the_optimiser_learns_nothing_of_now():
    made, plan = model(), torch.randn(4, H, S)
    t, eps = clean_start(torch.full((4,), 0.5), H), torch.randn(4, H, S)
    out = torch.randn(4, H, S, requires_grad=True)
    made.denoiser.net.forward = lambda *args: out
    made.denoiser.loss(plan, t, eps, torch.zeros(4, 16), weight=(t > 0).float()).backward()
    assert float(out.grad[:, 0].abs().max()) == 0 and float(out.grad[:, 1:].abs().min()) > 0


def test_share_of_plans_without_their_return():
    made, kept = model(unconditional=0.25), []
    inner = made.denoiser.net.forward
    made.denoiser.net.forward = lambda x, t, c: (kept.append((c != 0).any(1)), inner(x, t, c))[1]
    for _ in range(20):
        made.optimiser_loss(torch.randn(100, H, S), torch.rand(100))
    share = 1 - torch.cat(kept).float().mean()
    assert abs(float(share) - 0.25) < 3 * (0.25 * 0.75 / 2000) ** 0.5


def test_statistics_are_shared_unless_as_released():
    ours, released = model(), model(shared=False)
    assert ours.goals is None
    following = torch.cat([torch.from_numpy(one.observations["state"][1:]) for one in episodes()])
    assert torch.allclose(released.goals.mean, following.mean(0), atol=1e-5)
    assert not torch.allclose(released.goals.mean, ours.states.mean, atol=1e-4)


def test_a_student_of_one_level_begins_as_its_teacher(tmp_path):
    made = model()
    torch.save({"state_dict": made.state_dict()}, tmp_path / "teacher.pth")
    batch = windows().__getitems__(list(range(16)))
    for level, exact in ((1, True), (8, False)):
        student = PlannerStudent(str(tmp_path / "teacher.pth"), {"level": level, "guidance": 1.0}, **ARGUMENTS)
        loss = student(**batch, mode="loss")["loss_student"]
        assert (float(loss) < 1e-10) == exact
    loss.backward()
    moved = {key.split(".")[0] for key, one in student.named_parameters() if one.grad is not None and one.grad.any()}
    assert moved == {"denoiser"}
    for bad in ({"level": 0}, {"start": "previous", "level": 4}):
        with pytest.raises(ConfigError, match="learns from plans"):
            PlannerStudent(str(tmp_path / "teacher.pth"), bad, **ARGUMENTS)
    with pytest.raises(ConfigError, match=r"model\.checkpoint"):
        PlannerStudent(**ARGUMENTS).fit(windows())


def test_a_student_comes_near_its_teacher(tmp_path):
    made = model()
    torch.save({"state_dict": made.state_dict()}, tmp_path / "teacher.pth")
    student = PlannerStudent(str(tmp_path / "teacher.pth"), {"level": 10, "guidance": 1.0}, **ARGUMENTS)
    adam = torch.optim.Adam([one for one in student.parameters() if one.requires_grad], lr=2e-3)
    batch, losses = windows().__getitems__(list(range(100))), []
    for _ in range(80):
        adam.zero_grad()
        losses.append(student(**batch, mode="loss")["loss_student"])
        losses[-1].backward()
        adam.step()
    assert float(losses[-1]) < 0.3 * float(losses[0])
    one = student.actor({"level": 10, "steps": 1, "eta": 0.0, "target": 5.0})
    run(one, [0], [seen(1)])
    assert one.calls == {"generator": H - 1, "optimiser": 1}


def guided():
    torch.manual_seed(0)
    net = {**NET, "horizon": 8}
    made = GuidedDiffuserModel(S, A, 8, net, {"type": vp_cosine, "steps": 6})
    data = windows(length=8, whole_actions=True)
    made.fit(data)
    return made, data


def test_diffuser_plans_begin_now_and_follow_the_value():
    made, data = guided()
    losses = made(**data.__getitems__(list(range(8))), mode="loss")
    sum(losses.values()).backward()
    assert set(losses) == {"loss_diffusion", "loss_value"}
    now, noise = torch.randn(1, S).repeat(16, 1), torch.randn(7, 16, 8, A + S)
    plans = {}
    for scale in (0.0, 5.0):
        settings = made.actor({"plans": 16, "scale": scale}).settings
        with torch.no_grad():
            x, worth = made.plan(now, noise, settings)
        assert torch.equal(x[:, 0, A:], now)
        plans[scale] = float(worth.mean())
    assert plans[5.0] > plans[0.0]
    # the gradient is that of the return itself: its unit is the environment's
    made.return_scale.mul_(10)
    with torch.no_grad():
        tenth = made.plan(now, noise, made.actor({"plans": 16, "scale": 0.5}).settings)[0]
        made.return_scale.div_(10)
        whole = made.plan(now, noise, made.actor({"plans": 16, "scale": 5.0}).settings)[0]
    torch.testing.assert_close(tenth, whole, atol=1e-4, rtol=1e-3)


def test_diffusers_value_learns_finished_plans_too():
    made, data = guided()
    judged = []
    made.value.register_forward_pre_hook(lambda _, given: judged.append(given[1].flatten()))
    for _ in range(20):
        made(**data.__getitems__(list(range(8))), mode="loss")
    levels = torch.cat(judged) * 6
    assert levels.min() == 0 and levels.max() == 6


def test_the_estimate_knows_the_plans_level_alone():
    made, _ = guided()
    x, level = torch.randn(3, 8, A + S), torch.tensor([0.5, 0.5, 0.5])
    none = made.denoiser.net.project(torch.zeros(3, 1))
    torch.testing.assert_close(made.estimate(x, level[:1].view(1, 1, 1)), made.denoiser(x, made.levels(level), none),
                               atol=1e-5, rtol=1e-5)  # fmt: skip


def test_diffuser_acts_by_its_best_plan():
    made, _ = guided()
    both = run(made.actor({"plans": 4}), [1, 2], [seen(2, step) for step in range(3)])
    alone = run(made.actor({"plans": 4}), [2], [{"state": seen(2, step)["state"][1:]} for step in range(3)])
    assert np.allclose(both[:, 1:], alone, atol=1e-5) and both.shape == (3, 2, A)
    planner = made.actor({"plans": 4, "guide_steps": 2, "stop": 2, "execute": 2})
    run(planner, [0], [seen(1, step) for step in range(4)])
    assert planner.plans == 2 and planner.calls == {"optimiser": 12, "value": 2 * (5 * 2 + 1)}
    with pytest.raises(ConfigError, match="execute=9"):
        made.actor({"execute": 9})


def test_divergence_of_gaussians():
    q, p = [(torch.randn(3, 4), 0.3 * torch.randn(3, 4)) for _ in range(2)]
    exact = torch.distributions.kl_divergence(*(torch.distributions.Normal(m, s.exp()) for m, s in (q, p))).sum(-1)
    assert torch.allclose(divergence(q, p), exact, atol=1e-5)


def test_a_habit_learns_decisions():
    torch.manual_seed(0)
    states = torch.randn(256, S)
    decisions = type("Decisions", (), {"states": states, "actions": torch.stack([states[:, 0], -states[:, 1]], 1)})
    habit = HabitModel(S, A, widths=(32,))
    habit.fit(decisions)
    adam = torch.optim.Adam(habit.parameters(), lr=1e-2)
    for _ in range(150):
        adam.zero_grad()
        losses = habit(states, decisions.actions, torch.zeros(256), mode="loss")
        sum(value for key, value in losses.items() if key.startswith("loss")).backward()
        adam.step()
    acts = run(habit.actor({}), [0], [{"state": states[:50].numpy()}])[0]
    assert np.abs(acts - decisions.actions[:50].numpy()).mean() < 0.15
    assert run(habit.actor({"candidates": 4}), list(range(50)), [{"state": states[:50].numpy()}])[0].shape == (50, A)
    assert 1e-4 <= float(habit.weight) <= 1e2
