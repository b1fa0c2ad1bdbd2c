import pytest
import torch

from common.engine.hooks import ema_decay
from common.errors import ConfigError, DataError
from control.policies.encoders import ImageEncoder, ObservationEncoder, PointEncoder, SpatialSoftmax, StateEncoder
from control.policies.normaliser import MinMaxNormaliser

from .conftest import tiny_model


def test_ranges_go_to_plus_minus_one_and_back_and_constant_dimensions_survive():
    normaliser = MinMaxNormaliser(3)
    data = torch.tensor([[0.0, -5.0, 7.0], [512.0, 5.0, 7.0]])
    normaliser.fit(data)
    assert normaliser(data).tolist() == [[-1, -1, 0], [1, 1, 0]]
    torch.testing.assert_close(normaliser.inverse(normaliser(data)), data)
    assert normaliser.inverse(torch.tensor([1.0, 1.0, 0.8])).tolist() == [512, 5, 7]


def test_ranges_are_in_the_checkpoint_and_a_model_without_them_is_refused(windows):
    model = tiny_model()
    with pytest.raises(DataError, match="without statistics"):
        model.check()
    model.fit(windows)
    other = tiny_model(seed=1)
    other.load_state_dict(model.state_dict())
    other.check()
    assert torch.equal(other.actions.low, model.actions.low)
    with pytest.raises(DataError, match="empty or not finite"):
        model.actions.fit(torch.tensor([[1.0, torch.nan, 0.0]]))


def test_the_loss_falls_on_every_pattern_of_levels(windows):
    model = tiny_model()
    model.fit(windows)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = windows.batch(range(0, len(windows), 2))
    log = []
    for _ in range(150):
        losses = model(**batch, mode="loss")
        losses["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        log.append({name: value.item() for name, value in losses.items()})
    assert set(log[0]) == {"loss", "mse_equal", "mse_ladder", "mse_iid"}
    for name in log[0]:
        assert sum(one[name] for one in log[-20:]) < 0.5 * sum(one[name] for one in log[:20]), name


def test_a_clean_prefix_is_seen_and_not_learnt(windows, monkeypatch):
    """Gradient of the output at clean positions is zero, and what stands there is the demonstration itself."""
    model = tiny_model()
    model.fit(windows)
    levels = torch.cat([torch.zeros(4, 3), torch.full((4, 17), 0.5)], 1).double()
    monkeypatch.setattr(model.mixture, "draw", lambda *a, **k: (levels, torch.zeros(4, dtype=torch.long)))
    seen = {}

    def spy(x, t, condition):
        seen["x"], seen["out"] = x, torch.zeros_like(x).requires_grad_()
        return seen["out"]

    monkeypatch.setattr(model.denoiser.net, "forward", spy)
    batch = windows.batch(range(4))
    model(**batch, mode="loss")["loss"].backward()
    assert not seen["out"].grad[:, :3].any() and seen["out"].grad[:, 3:].all()
    torch.testing.assert_close(seen["x"][:, :3], model.actions(batch["action"])[:, :3])


def test_the_average_warms_up_as_diffusion_policys():
    for step in (1, 10, 1000):
        assert ema_decay(step, 0.9999, power=0.75) == pytest.approx(1 - (1 + step) ** -0.75)
    assert ema_decay(10**7, 0.9999, power=0.75) == 0.9999


def test_key_points_are_where_the_channel_is_hot():
    x = torch.full((1, 2, 5, 9), -50.0)
    x[0, 0, 0, 8], x[0, 1, 4, 4] = 50.0, 50.0
    torch.testing.assert_close(SpatialSoftmax()(x)[0], torch.tensor([1.0, 0.0, -1.0, 1.0]))


def test_points_may_come_in_any_order():
    encoder = PointEncoder(16)
    points = torch.randn(2, 2, 30, 3)
    encoder.fit(points)
    torch.testing.assert_close(encoder(points), encoder(points[:, :, torch.randperm(30)]))


def test_images_are_cropped_at_random_in_training_and_at_the_centre_afterwards():
    torch.manual_seed(0)
    encoder = ImageEncoder(8, base=16, blocks=1)
    image = torch.randint(0, 256, (2, 2, 96, 96, 3), dtype=torch.uint8)
    encoder.train()
    assert not torch.equal(encoder(image), encoder(image))
    encoder.eval()
    assert torch.equal(encoder(image), encoder(image)) and encoder(image).shape == (2, 2, 8)
    image[:, :, :4] = 0  # outside the centre crop
    before = encoder(image)
    image[:, :, :4] = 255
    assert torch.equal(encoder(image), before)


def test_a_missing_observation_or_a_wrong_number_of_steps_is_named():
    encoder = ObservationEncoder({"state": StateEncoder(3)}, steps=2)
    with pytest.raises(ValueError, match="'state' is missing; the policy observes state"):
        encoder({"rgb": torch.zeros(1, 2, 3)})
    with pytest.raises(ValueError, match=r"\(1, 3, 3\), wanted 2 steps"):
        encoder({"state": torch.zeros(1, 3, 3)})
    with pytest.raises(ConfigError, match="at least one"):
        ObservationEncoder({}, 2)


def test_only_two_alignments_exist():
    with pytest.raises(ConfigError, match="offset=2: choose 0"):
        tiny_model(offset=2)
