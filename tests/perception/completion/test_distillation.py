"""Distilled students: who changes when, where the gradient comes from, and what the released loss does."""

import hashlib
import math

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict

from common.errors import ConfigError
from perception.completion import distillation
from perception.completion.distillation import CompletionDistillation, better_regions, worse
from perception.completion.model import CompletionModel

from .tiny import TINY, batch


def made(seed=0, **arguments):
    torch.manual_seed(seed)
    return CompletionDistillation(dict(profile=TINY), **{"critic_updates": 2, "guidance": 2.0, **arguments})


def optimisers(model, rate=1e-3):
    parts = {"student": [model.student], "assistants": model.assistants}
    return OptimWrapperDict(**{
        name: OptimWrapper(torch.optim.Adam([p for one in modules for p in one.parameters()], rate, betas=(0.0, 0.99)))
        for name, modules in parts.items()
    })  # fmt: skip


def fingerprint(module):
    state = module.state_dict().items()
    return hashlib.sha256(b"".join(v.detach().numpy().tobytes() for _, v in state)).hexdigest()


def fingerprints(model):
    parts = {"encoder": model.encoder, "teacher": model.teacher, **model.networks}
    return {name: fingerprint(module) for name, module in parts.items()}


def test_all_networks_begin_as_the_teacher():
    found = fingerprints(made())
    assert found["teacher"] == found["student"] == found["winner"] == found["loser"]


def test_in_each_phase_the_named_networks_change_and_teacher_and_encoder_never():
    model = made().train()
    steps, before = optimisers(model), fingerprints(model)
    for update in range(6):
        model.train_step(batch(), steps)
        after = fingerprints(model)
        changed = {name for name in after if after[name] != before[name]}
        assert changed == ({"student"} if update % 3 == 2 else {"winner", "loser"}), update
        before = after
    assert int(model.updates) == 6


def test_while_the_assistant_is_the_unguided_teacher_the_student_has_no_gradient():
    model = made(guidance=1.0).train()
    losses = model.student_losses(**batch())
    losses["loss_student"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.student.parameters())
    steps = optimisers(model)
    model.train_step(batch(), steps)
    model.student.zero_grad()
    model.student_losses(**batch())["loss_student"].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.student.parameters())


@pytest.mark.parametrize("weight", ["eps", "dmd"])
def test_the_students_loss_moves_it_and_the_released_one_leaves_it_bit_identical(weight):
    for released in (False, True):
        model = made(critic_updates=1, weight=weight, released=released).train()
        steps, before = optimisers(model), fingerprint(model.student)
        for _ in range(20 if released else 4):
            model.train_step(batch(), steps)
        assert (fingerprint(model.student) == before) is released


def test_the_released_loss_has_no_gradient_that_outweighs_rounding():
    model = made(released=True).train()
    model.train_step(batch(), optimisers(model))
    model.student.zero_grad()
    model.student_losses(**batch())["loss_student"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.student.parameters())


def test_contrast_is_score_distillation_until_winners_and_losers_differ():
    """While both assistants are one, the preference has nothing to say; then kappa scales what it says."""
    plain, contrast = made(preset="vsd").train(), made(preset="contrast", kappa=3.0).train()
    data, found = batch(), {}

    def gradients():
        for name, model in (("plain", plain), ("contrast", contrast)):
            model.zero_grad()
            torch.manual_seed(3)
            model.student_losses(**data)["loss_student"].backward()
            found[name] = torch.cat([p.grad.flatten() for p in model.student.parameters()])
        return found["plain"], found["contrast"]

    torch.testing.assert_close(*gradients())
    for model in (plain, contrast):
        torch.manual_seed(4)
        model.train_step(data, optimisers(model))
    a, b = gradients()
    assert (a - b).norm() > 0.01 * a.norm()


def test_winners_are_nearer_to_the_scene_and_a_coin_decides_at_random():
    model, data = made(), batch()
    with torch.no_grad():
        winner, loser, _ = model.judged(data["scan"], data["scene"])
    bad = [worse(one, data["scene"], "cd") for one in (winner, loser)]
    assert (bad[0] <= bad[1]).all() and not torch.equal(*bad)
    g = torch.Generator().manual_seed(0)
    coins = torch.stack([worse(winner, data["scene"], "random", random=g) for _ in range(200)])
    assert 0.4 < (coins > 0.5).float().mean() < 0.6


def test_a_cloud_is_as_bad_as_its_chamfer_distance():
    scene = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]])
    points = torch.tensor([[[0.0, 0.5, 0], [0.0, 0.5, 0]]])
    there, back = 0.5, (0.5 + 1.25**0.5) / 2
    assert worse(points, scene, "cd").item() == pytest.approx((there + back) / 2)
    assert worse(points, scene, "recall").item() == pytest.approx(back)


def test_a_cloud_is_as_bad_as_its_voxels_and_columns():
    scene = torch.tensor([[[0.1, 0.1, 0.1], [1.1, 0.1, 0.1]]])
    half = torch.tensor([[[0.2, 0.2, 0.2], [2.1, 0.1, 0.1]]])  # one voxel of three is in both
    assert worse(half, scene, "iou", 8.0).item() == pytest.approx(2 / 3)
    assert worse(scene, scene, "iou", 8.0).item() == worse(scene, scene, "jsd", 8.0).item() == 0
    assert 0 < worse(half, scene, "jsd", 8.0).item() < worse(scene + 3, scene, "jsd", 8.0).item()
    assert worse(scene + 3, scene, "jsd", 8.0).item() == pytest.approx(math.log(2) ** 0.5)


def test_one_assistant_is_told_by_its_vector_whom_it_sees():
    model = made(assistants=1).train()
    assert set(model.networks) == {"student", "assistant"}
    data, steps = batch(), optimisers(model)
    with torch.no_grad():
        seen = model.encoder(data["scan"])

    def noise(role):
        predict, told = model.assistant(role, seen)
        with torch.no_grad():
            return predict(data["scene"], torch.tensor(0.5), told)

    assert torch.equal(noise("winner"), noise("loser")), "both begin as the teacher"
    before = fingerprints(model)
    for _ in range(2):
        model.train_step(data, steps)
    after = fingerprints(model)
    assert after["student"] == before["student"] and after["assistant"] != before["assistant"]
    assert not torch.equal(noise("winner"), noise("loser"))
    model.train_step(data, steps)
    assert fingerprints(model)["student"] != after["student"]
    with pytest.raises(ConfigError, match="assistants=3"):
        made(assistants=3)


def test_regions_are_judged_each_for_itself():
    """The first completion is better in one cube, the second in the other; as a whole one of them would win both."""
    anchor = torch.tensor([[[0.5, 0.5, 0.5], [0.6, 0.5, 0.5], [10.5, 0.5, 0.5]]])
    scene = anchor + torch.tensor([0.1, 0.0, 0.0])
    first, second = scene.clone(), scene.clone()
    first[0, 2, 1] += 0.5
    second[0, :2, 1] += 0.3
    assert better_regions(first, second, anchor, scene, 2.0).tolist() == [[True, True, False]]
    assert better_regions(second, first, anchor, scene, 2.0).tolist() == [[False, False, True]]
    whole = better_regions(first, second, anchor, scene, 100.0 + 1e-3)
    assert whole[0].all() or not whole[0].any(), "one region is the published choice"


def test_a_truth_that_is_missed_counts_against_a_region():
    anchor = torch.zeros(1, 2, 3) + 0.5
    scene = torch.tensor([[[0.2, 0.5, 0.5], [1.8, 0.5, 0.5]]])
    near, spread = torch.tensor([[[0.2, 0.5, 0.5]] * 2]), torch.tensor([[[0.3, 0.5, 0.5], [1.7, 0.5, 0.5]]])
    assert better_regions(spread, near, anchor, scene, 2.0).all()


def test_winners_and_losers_of_regions_are_put_together_of_both_and_carry_gradients():
    model = made(region=2.0, shared_noise=False, scales=(1.0, 1.0)).train()
    data = batch()
    torch.manual_seed(1)
    winner, loser, won = model.judged(data["scan"], data["scene"])
    assert won.shape == (2, 120) and 0 < won.float().mean() < 1
    torch.manual_seed(1)
    first, second = model.pair(data["scan"])
    assert torch.equal(torch.where(won[..., None], first, second), winner)
    assert torch.equal(winner + loser, first + second) or torch.allclose(winner + loser, first + second)
    model.student_losses(**data)["loss_student"].backward()
    assert all(p.grad is not None for p in model.student.parameters())


def test_identical_pairs_and_unknown_choices_are_refused():
    with pytest.raises(ConfigError, match="identical pairs"):
        made(scales=(1.0, 1.0))
    made(scales=(1.0, 1.0), shared_noise=False)
    for name in ("preset", "metric", "weight"):
        with pytest.raises(ConfigError, match=f"{name}='x'"):
            made(**{name: "x"})


def test_several_steps_are_trained_at_each_of_them_with_one_graph(monkeypatch):
    model = made(steps=3).train()
    data = batch()
    drawn = []
    simulate = distillation.backward_simulation

    def told(denoise, process, x, levels, last):
        drawn.append(last)
        return simulate(denoise, process, x, levels, last)

    monkeypatch.setattr(distillation, "backward_simulation", told)
    for _ in range(16):
        first, _ = model.pair(data["scan"])
        assert first.requires_grad
    assert set(drawn) == {0, 1, 2}


def test_winner_and_loser_are_compared_at_one_level_with_one_noise(monkeypatch):
    model, seen = made().train(), {}
    gradient = model.gradient

    def told(x, y, t, role, *scan):
        seen[role] = (x.points if hasattr(x, "points") else x) - y.detach(), t
        return gradient(x, y, t, role, *scan)

    monkeypatch.setattr(model, "gradient", told)
    model.student_losses(**batch())
    (winner, t), (loser, other) = seen["winner"], seen["loser"]
    assert torch.equal(t, other) and winner.abs().max() > 0
    torch.testing.assert_close(winner, loser, atol=1e-5, rtol=1e-5)


def test_assistants_learn_with_the_teachers_regulariser_and_samples_may_have_dense_scenes():
    data = {**batch(), "dense": torch.zeros(2, 5, 3)}
    found = []
    for regulariser in (0.0, 5.0):
        model = CompletionDistillation(dict(profile=TINY, regulariser=regulariser))
        model.load_state_dict(made().state_dict())
        torch.manual_seed(1)
        found.append(model.train().assistant_losses(**data)["loss_winner"].item())
    assert found[1] > found[0] + 0.1
    assert model.student_losses(**data)["loss_student"].isfinite()


def test_a_batch_norm_keeps_the_teachers_statistics():
    model = CompletionDistillation(dict(profile=TINY, norm="batch"), critic_updates=1).train()
    steps = optimisers(model)
    before = {key: value.clone() for key, value in model.named_buffers() if "running" in key}
    for _ in range(4):
        model.train_step(batch(), steps)
    assert before and all(torch.equal(dict(model.named_buffers())[key], value) for key, value in before.items())


def test_the_student_completes_as_a_model_of_its_own_weights():
    model, data = made(steps=2).eval(), batch()
    torch.manual_seed(0)
    same = CompletionModel(TINY, steps=2, guidance=1.0).eval()
    same.encoder.load_state_dict(model.encoder.state_dict())
    same.predict.load_state_dict(model.student.state_dict())
    found = model(**data, mode="predict")
    torch.testing.assert_close(found[0]["prediction"], same.complete(data["scan"], data["seed"])[0])
    with pytest.raises(ConfigError, match="mode='loss'"):
        model(**data, mode="loss")
