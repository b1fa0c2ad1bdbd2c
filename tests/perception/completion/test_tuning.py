"""Diffusion-DPO of a teacher: log 2 at the reference, and what training on one pair does to either fit."""

import math

import pytest
import torch

from perception.completion.distillation import worse
from perception.completion.sampling import lidiff_local
from perception.completion.tuning import CompletionTuning, noise_error

from .tiny import TINY, batch


def made(**arguments):
    torch.manual_seed(0)
    return CompletionTuning(dict(profile=TINY), **{"steps": 2, **arguments}).train()


def test_at_the_reference_the_loss_is_log_2_and_only_the_tuned_network_has_a_gradient():
    model = made()
    losses = model(**batch())
    assert losses["loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    losses["loss"].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.predict.parameters())
    assert all(p.grad is None for part in (model.encoder, model.reference) for p in part.parameters())


def test_the_winner_is_the_better_of_two_completions_of_the_reference():
    model, data = made(), batch()
    with torch.no_grad():
        seen = model.encoder(data["scan"])
    winner, loser = model.compared(data["scan"], data["scene"], seen)
    assert winner.shape == (2, 120, 3) and not torch.equal(winner, loser)
    assert (worse(winner, data["scene"], "cd") <= worse(loser, data["scene"], "cd")).all()


def test_training_on_one_pair_raises_the_winners_fit_above_the_losers(monkeypatch):
    model, data = made(), batch()
    with torch.no_grad():
        seen = model.encoder(data["scan"])
    pair = model.compared(data["scan"], data["scene"], seen)
    monkeypatch.setattr(model, "compared", lambda *_: pair)
    t, eps = torch.full((2, 1, 1), 0.5), torch.randn_like(pair[0])

    @torch.no_grad()
    def fit(predict):
        return [noise_error(predict(lidiff_local().noise(one, t, eps), t, seen), eps) for one in pair]

    adam = torch.optim.Adam(model.predict.parameters(), lr=1e-3)
    for _ in range(30):
        adam.zero_grad()
        model(**data)["loss"].backward()
        adam.step()
    (winner, loser), (winner_before, loser_before) = fit(model.predict), fit(model.reference)
    assert ((winner - winner_before) - (loser - loser_before)).mean() < 0


def test_the_scale_is_one_over_the_spread_of_the_references_differences():
    model = made()
    assert model.fitted_scale(torch.tensor([0.3, -0.1])) == pytest.approx((2 / (0.09 + 0.01)) ** 0.5)
    assert model.fitted_scale(torch.tensor([0.2])) == pytest.approx((3 / 0.14) ** 0.5)
    assert model.eval().fitted_scale(torch.tensor([5.0])) == pytest.approx((3 / 0.14) ** 0.5)
    assert made(scale=7.0).fitted_scale(torch.tensor([0.3])) == 7.0
