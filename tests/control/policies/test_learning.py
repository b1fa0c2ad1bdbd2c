"""What a small network learns: one episode streamed, with every primer, by its average (checks 20, 22, 23)."""

import copy

import numpy as np
import pytest
import torch

from common.engine.hooks import ema_decay, ema_update
from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, ladder_plan
from control.policies.windows import WindowDataset

from .conftest import run, sines, tiny_model

LADDER = ladder_plan(20, 1)


def train(model, data, iterations, average):
    """AdamW with a cosine on all windows, each twice per step; `average` is a copy that follows."""
    model.fit(data)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    batch = data.batch(list(range(len(data))) * 2)
    average.load_state_dict(model.state_dict())
    for step in range(iterations):
        model(**batch, mode="loss")["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        ema_update(average.state_dict(), model.state_dict(), ema_decay(step + 1, 0.999, power=0.75))


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
    none costs less than "zero". Check 23: the averaged weights tie, 4.5e-4 and 4.1e-4 over eight streams; a hundred of
    the five hundred steps are in the average."""
    episode = sines(1, 60)
    data, model = WindowDataset(episode, horizon=20, after=19), tiny_model(widths=(32, 64), prediction="x0")
    average = copy.deepcopy(model)
    train(model, data, 500, average)
    # whole chunks from noise are a fifth of the training, and eight positions of them are executed
    assert streamed(DiffusionPolicy(model.eval(), chunk_plan(20, 8, 10)), episode) < 0.05
    errors, cost = {}, {}
    for primer in ("zero", "constant", "denoise"):
        anchor = torch.tensor([0.5, -0.5, 0.0]) if primer == "constant" else None
        policy = DiffusionPolicy(model, LADDER, primer, anchor)
        errors[primer], cost[primer] = streamed(policy, episode), policy.evaluations
    assert max(errors.values()) < 1e-3, errors
    assert cost == {"zero": 60, "constant": 60, "denoise": 60 + model.process.steps}
    raw, averaged = (streamed(DiffusionPolicy(one.eval(), LADDER), episode * 8) for one in (model, average))
    assert averaged < 1.25 * raw < 1.25e-3, (averaged, raw)
