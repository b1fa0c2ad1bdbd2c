"""What a teacher can learn: the normal part of the noise on a plane, and no more; one scene by heart."""

import numpy as np
import pytest
import torch

from perception.completion.dataset import TownScenes
from perception.completion.evaluation import evaluate
from perception.completion.model import CompletionModel, seeded_noise
from perception.completion.profiles import PROFILES, Profile
from perception.completion.sampling import lidiff_local, sample_local, start

CI = PROFILES["ci"]
SMALL = Profile(**{**vars(CI), "scan_points": 60, "copies": 10})


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


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """One held-out scene of the smallest profile, with eight points of the truth for each of a completion."""
    return TownScenes(str(tmp_path_factory.mktemp("towns")), CI, train=False, count=1, dense=8)[0]


def distance(complete, town) -> float:
    """Chamfer distance of a way of completing, m."""
    return evaluate(complete, [town], CI.radius)["means"]["cd"]


def noisy(scan, seed):
    """Where sampling begins."""
    anchor = scan.repeat(1, CI.copies, 1)
    return start(anchor, lidiff_local(), seeded_noise(seed, anchor.shape[1:], anchor))


def posterior_mean(x, t, points):
    """E[p | x] of points (M, 3) that are equally likely, noised where they stand: x (..., 3) at a level."""
    sigma = lidiff_local().sigma(t).reshape(-1)[0]
    return torch.softmax(-torch.cdist(x, points).square() / (2 * sigma**2), -1) @ points


def test_the_exact_posterior_of_a_scene_completes_its_scan_in_twenty_steps(town):
    """What no network can beat by much: from a noisy scan, points go to the surface, as far as their noise carries."""
    begun = distance(noisy, town)
    found = {
        steps: distance(
            lambda scan, seed, n=steps: sample_local(
                lambda x, t: posterior_mean(x, t, town["dense"][::2]), noisy(scan, seed), n
            ),
            town,
        )
        for steps in (1, 4, 20)
    }
    assert found[20] < 0.3 * begun
    assert found[20] < found[4] < found[1] < 0.6 * begun


@pytest.mark.slow
def test_a_scene_learnt_by_heart_is_completed(town):
    """By the share of the noise that can be told at high levels, and by what 20 steps leave of a noisy scan's distance.
    Asked of 300 iterations are 30 %; the smallest profile, whose voxels are 0.4 m, takes more and comes to 40 %."""
    torch.manual_seed(0)
    model = CompletionModel(CI, drop=0.0).train()
    scan, scene = town["scan"][None], town["scene"][None]
    pair = {"scan": scan.repeat(2, 1, 1), "scene": scene.repeat(2, 1, 1)}
    untrained = distance(lambda scan, seed: model.complete(scan, seed, 20, guidance=1.0), town)
    fitted(model, lambda step: pair, 1500, rate=3e-3)
    model.eval()
    level, eps = torch.tensor(0.7), torch.randn(scene.shape, generator=torch.Generator().manual_seed(0))
    x = lidiff_local().noise(scene, level, eps)
    with torch.no_grad():
        ours = float((model.predict(x, level.expand(1, 1, 1), model.encoder(scan)) - eps).square().mean())
    best = (x - posterior_mean(x, level, scene[0])) / lidiff_local().sigma(level)
    least = float((best - eps).square().mean())
    assert 0.97 * least < ours < 1.1 * least
    begun = distance(noisy, town)
    assert distance(lambda scan, seed: model.complete(scan, seed, 20, guidance=1.0), town) < 0.45 * begun
    assert untrained > 0.8 * begun
