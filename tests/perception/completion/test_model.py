"""The completion teacher: its loss, guidance, seeded sampling, and data made once."""

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError
from perception.completion.dataset import HELD_OUT, TownScenes, town_file, write_towns
from perception.completion.evaluation import SceneMetric
from perception.completion.model import CompletionModel, guided_denoiser, seeded_noise
from perception.completion.network import cloud

from .tiny import TINY, batch


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CompletionModel(TINY).eval()


def test_the_loss_trains_encoder_and_predictor(model):
    torch.manual_seed(0)
    loss = model(**batch(), mode="loss")["loss"]
    loss.backward()
    assert 0.5 < loss.item() < 3
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


def test_a_hidden_scan_leaves_no_trace(model):
    """With every scan hidden, the loss does not depend on it."""
    model.drop = 1.0
    losses = []
    for seed in (0, 1):
        torch.manual_seed(5)
        losses.append(model.loss(batch(seed=seed)["scan"], batch()["scene"]).item())
    model.drop = 0.1
    assert losses[0] == losses[1]


def test_guidance_one_is_the_seen_prediction_and_zero_the_unseen(model):
    data = batch()
    with torch.no_grad():
        seen, empty = model.encoder(data["scan"]), model.encoder.empty(2)
        x, t = data["scene"], torch.tensor(0.5)
        one, zero, more = (guided_denoiser(model.predict, seen, empty, w)(x, t) for w in (1, 0, 3.5))
        unseen = guided_denoiser(model.predict, empty, None, 1)(x, t)
        torch.testing.assert_close(zero, unseen)
        torch.testing.assert_close(more, unseen + 3.5 * (one - unseen), rtol=1e-4, atol=1e-4)
        prepared = cloud(x, model.predict.spec)
        torch.testing.assert_close(guided_denoiser(model.predict, seen, empty, 3.5)(prepared, t), more)


def test_a_samples_noise_is_its_seeds_whatever_the_batch(model):
    data = batch()
    together = model.complete(data["scan"], data["seed"], steps=2)
    alone = model.complete(data["scan"][1:], data["seed"][1:], steps=2)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-4)
    assert together.shape == (2, 120, 3)
    noise = seeded_noise(torch.tensor([3, 3]), (5, 3), torch.zeros(1))
    assert torch.equal(noise[0], noise[1])


def test_predictions_name_their_scenes_and_the_metric_filters_and_scores_them(model, tmp_path):
    found = model(**batch(), mode="predict")
    assert [one["seed"] for one in found] == [7, 8] and found[0]["prediction"].shape == (120, 3)
    metric = SceneMetric(8.0, out_dir=str(tmp_path))
    metric.process(None, found)
    scores = metric.compute_metrics(metric.results)
    assert scores["cd"] == pytest.approx((scores["cd_to_truth"] + scores["cd_to_prediction"]) / 2)
    assert (tmp_path / "scenes.json").read_text().startswith('{"7": {"cd":')
    with pytest.raises(ConfigError, match="mode='tensor'"):
        model(**batch(), mode="tensor")
    with pytest.raises(ConfigError, match="sampler='ddim'"):
        CompletionModel(TINY, sampler="ddim")


def test_towns_are_made_once_and_held_out_ones_are_others(tmp_path):
    train = TownScenes(tmp_path, "ci", count=2)
    stamps = [town_file(tmp_path, seed, 8.0).stat().st_mtime_ns for seed in train.seeds]
    again, held = TownScenes(tmp_path, "ci", count=2), TownScenes(tmp_path, "ci", train=False, count=1)
    assert stamps == [town_file(tmp_path, seed, 8.0).stat().st_mtime_ns for seed in again.seeds]
    assert held.seeds[0] == HELD_OUT and held[0]["seed"] == HELD_OUT
    assert torch.equal(held[0]["scan"], held[0]["scan"]) and not torch.equal(train[0]["scan"], train[0]["scan"])
    assert train[0]["scan"].shape == (200, 3) and train[0]["scene"].shape == (2000, 3)
    path = town_file(tmp_path, 1, 8.0)
    path.write_bytes(b"cut")
    with pytest.raises(DataError, match=r"1\.npz cannot be read"):
        train[1]
    path.unlink()
    write_towns(tmp_path, range(2), 8.0, progress=False)
    assert np.isfinite(train[1]["scene"]).all()
    with pytest.raises(ConfigError, match="profile='tiny'"):
        TownScenes(tmp_path, "tiny")
