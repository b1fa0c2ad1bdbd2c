"""What a small network learns: one episode streamed, the primers, the average, the mixture (checks 20 to 23)."""

import copy

import numpy as np
import pytest
import torch

from common.diffusion.levels import delayed_ladder, equal, linear
from common.engine.hooks import ema_decay, ema_update
from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, ladder_plan
from control.policies.windows import WindowDataset

from .conftest import run, sines, tiny_model

LADDER = ladder_plan(20, 1)


def train(model, data, iterations, batch=None, average=None):
    """AdamW with a cosine; batch: windows per step drawn anew, by default all of them twice."""
    model.fit(data)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    whole = data.batch(list(range(len(data))) * 2) if batch is None else None
    if average is not None:
        average.load_state_dict(model.state_dict())
    for step in range(iterations):
        drawn = whole or data.batch(torch.randint(len(data), (batch,)))
        model(**drawn, mode="loss")["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if average is not None:
            ema_update(average.state_dict(), model.state_dict(), ema_decay(step + 1, 0.999, power=0.75))
    return model.eval()


def streamed(policy, episodes):
    """Mean squared error of the normalised actions after the ladder's first pass, all episodes side by side."""
    seen = [
        {"state": np.stack([one.observations["state"][k] for one in episodes])} for k in range(len(episodes[0].actions))
    ]
    actions = torch.from_numpy(run(policy, list(range(len(episodes))), seen))
    wanted = torch.from_numpy(np.stack([one.actions for one in episodes]))
    normalise = policy.model.actions
    return (normalise(actions) - normalise(wanted))[:, 20:56].square().mean().item()


@pytest.mark.slow
def test_one_trajectory_is_learnt_and_streamed():
    """Check 20: overfit one episode; the ladder reproduces it after its first pass. Check 22: with every primer, and
    none costs less than "zero". Check 23: the averaged weights are at least as good."""
    episode = sines(1, 60)
    data, model = WindowDataset(episode, horizon=20, after=19), tiny_model(widths=(32, 64), prediction="x0")
    average = copy.deepcopy(model)
    train(model, data, 500, average=average)
    # whole chunks from noise are a fifth of the training, and eight positions of them are executed
    assert streamed(DiffusionPolicy(model, chunk_plan(20, 8, 10)), episode) < 0.05
    errors, cost = {}, {}
    for primer in ("zero", "constant", "denoise"):
        anchor = torch.tensor([0.5, -0.5, 0.0]) if primer == "constant" else None
        policy = DiffusionPolicy(model, LADDER, primer, anchor)
        errors[primer], cost[primer] = streamed(policy, episode), policy.evaluations
    assert max(errors.values()) < 1e-3, errors
    assert cost == {"zero": 60, "constant": 60, "denoise": 60 + model.process.steps}
    smooth = streamed(DiffusionPolicy(average.eval(), LADDER), episode)
    assert smooth < 1.1 * errors["zero"], (smooth, errors)


@pytest.mark.slow
def test_streaming_needs_ladders_in_the_training():
    """Check 21: four mixtures, the same seed and iterations, streamed on sines that were not trained on."""
    patterns = {
        "ladder": dict(type=delayed_ladder, steps=100, execute=1, max_delay=0),
        "equal": dict(type=equal, steps=100),
        "linear": dict(type=linear, steps=100),
    }
    mixtures = {"both": {"ladder": 0.8, "equal": 0.2}, **{name: {name: 1.0} for name in patterns}}
    data, held_out = WindowDataset(sines(6, 40), horizon=20, after=19), sines(4, 60, seed=9)
    errors = {}
    for name, weights in mixtures.items():
        torch.manual_seed(0)
        mine = {one: (weight, patterns[one]) for one, weight in weights.items()}
        model = train(tiny_model(widths=(32, 64), prediction="x0", patterns=mine), data, 600, batch=64)
        errors[name] = streamed(DiffusionPolicy(model, LADDER), held_out)
    assert errors["both"] < 1.2 * errors["ladder"], errors
    assert errors["ladder"] < 0.5 * min(errors["equal"], errors["linear"]), errors
