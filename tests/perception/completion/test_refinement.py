"""Refinement and the one-pass competitor: what they are given, what they return, and that training helps."""

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from perception.completion.dataset import TownScenes
from perception.completion.losses import squared_chamfer
from perception.completion.model import OnePassModel
from perception.completion.refinement import CLIP, RefinementModel, disturbance
from perception.completion.samples import make_sample

from .tiny import TINY, batch


def plane(B=2, points=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.cat([4 * torch.rand(B, points, 2, generator=g) - 2, torch.zeros(B, points, 1)], -1)


def test_six_points_around_each_at_most_a_metre_away():
    torch.manual_seed(0)
    model, data = RefinementModel(TINY).eval(), batch()
    found = model.refine(data["scene"])
    assert found.shape == (2, 6 * 120, 3)
    away = (found.reshape(2, 120, 6, 3) - data["scene"][:, :, None]).abs()
    assert 0 < away.max() <= 1
    (first, second) = model(**data, mode="predict")
    assert first["prediction"].shape == (720, 3) and second["seed"] == 8


def test_the_noise_is_cut():
    noise = disturbance(torch.randn(10_000, generator=torch.Generator().manual_seed(0)))
    assert noise.abs().max() == CLIP and noise.std() == pytest.approx(0.176, abs=0.005)


def test_refinement_learns_the_surface():
    """Points around a plane come closer to it than they were."""
    torch.manual_seed(0)
    model = RefinementModel(TINY)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(60):
        adam.zero_grad()
        model(scan=None, scene=plane(seed=step), dense=plane(points=800, seed=100 + step))["loss"].backward()
        adam.step()
    with torch.no_grad():
        noisy = plane(seed=999) + disturbance(torch.randn(2, 400, 3))
        refined = model.refine(noisy)
    assert refined[..., 2].abs().mean() < 0.6 * noisy[..., 2].abs().mean()


def test_a_sample_without_a_dense_scene_is_refused():
    with pytest.raises(ConfigError, match=r"set train_dataloader\.dataset\.dense=2"):
        RefinementModel(TINY)(**batch())


def test_the_dense_scene_is_another_draw_of_the_same_augmented_scene(tmp_path):
    random = np.random.default_rng(0)
    scan, scene = (random.uniform(-6, 6, (n, 3)).astype(np.float32) for n in (300, 3000))
    sample = make_sample(scan, scene, TINY, np.random.default_rng(1), train=True, dense=2)
    assert sample["scene"].shape == (120, 3) and sample["dense"].shape == (240, 3)
    without = make_sample(scan, scene, TINY, np.random.default_rng(1), train=True)
    assert all(np.array_equal(sample[key], without[key]) for key in ("scan", "scene"))
    items = TownScenes(str(tmp_path), TINY, count=1, dense=2)
    assert items[0]["dense"].shape == (240, 3)


def test_one_pass_learns_by_chamfer_distance_and_predicts_in_one_evaluation():
    torch.manual_seed(0)
    model, data = OnePassModel(TINY), batch()
    before = squared_chamfer(model.complete(data["scan"], data["seed"]), data["scene"]).mean()
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        adam.zero_grad()
        model(**data)["loss"].backward()
        adam.step()
    after = squared_chamfer(model.complete(data["scan"], data["seed"]), data["scene"]).mean()
    assert after < 0.8 * before
    assert (model.steps, model.guidance) == (1, 1.0)
