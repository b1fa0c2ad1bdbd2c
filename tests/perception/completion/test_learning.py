"""What a teacher can learn: the normal part of the noise on a plane, and no more."""

import numpy as np
import pytest
import torch

from perception.completion.model import CompletionModel
from perception.completion.profiles import PROFILES, Profile

SMALL = Profile(**{**vars(PROFILES["ci"]), "scan_points": 60, "copies": 10})


def fitted(model, batches, steps, rate=2e-3):
    """Losses of so many steps of Adam, its rate falling to a tenth."""
    adam = torch.optim.Adam(model.parameters(), lr=rate)
    fall = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.1, steps)
    losses = []
    for step in range(steps):
        adam.zero_grad()
        loss = model(**batches(step))["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        fall.step()
        losses.append(loss.item())
    return losses


def test_a_predictor_of_nothing_has_loss_one_and_a_plane_shows_a_third_of_the_noise():
    """Only the noise along the normal can be told: the floor is 2/3 (of the plane's levels, a little above)."""
    torch.manual_seed(0)
    model = CompletionModel(SMALL, drop=0.0).train()

    def plane(step):
        g = torch.Generator().manual_seed(step)
        scene = torch.cat([12 * torch.rand(4, 600, 2, generator=g) - 6, torch.full((4, 600, 1), -1.8)], -1)
        return {"scan": scene[:, :60], "scene": scene}

    with torch.no_grad():
        silent = CompletionModel(SMALL)
        torch.nn.init.zeros_(silent.predict.net.head[2].weight)
        torch.nn.init.zeros_(silent.predict.net.head[2].bias)
        assert silent(**plane(0))["loss"].item() == pytest.approx(1.0, abs=0.03)
    late = np.mean(fitted(model, plane, 150)[-30:])
    assert 0.62 < late < 0.75
