import pytest
import torch

from common.diffusion.denoiser import PREDICTIONS, Denoiser
from common.diffusion.process import rectified_flow, vp_cosine
from common.errors import ConfigError


class Oracle(torch.nn.Module):
    """Returns the true target, whatever it is asked for."""

    def __init__(self, target):
        super().__init__()
        self.target = target

    def forward(self, x, t, *condition):
        return self.target


@pytest.mark.parametrize("process", [vp_cosine(100), rectified_flow()], ids=["vp", "flow"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_gives_back_x0_at_any_level_per_position(prediction, process):
    x0, eps = torch.randn(2, 4, 16, 3, dtype=torch.float64)
    t = torch.randint(1, 99, (4, 16, 1)).double() / 100
    target = Denoiser(None, process, prediction).target(x0, t, eps)
    denoiser = Denoiser(Oracle(target), process, prediction)
    torch.testing.assert_close(denoiser(process.noise(x0, t, eps), t), x0)
    assert denoiser.loss(x0, t, eps).item() == 0


def test_v_is_the_time_derivative_on_the_circle_and_flow_on_the_line():
    x0, eps = torch.randn(2, 10, dtype=torch.float64)
    process, t, h = rectified_flow(), torch.tensor(0.4).double(), 1e-6
    slope = (process.noise(x0, t + h, eps) - process.noise(x0, t - h, eps)) / (2 * h)
    torch.testing.assert_close(Denoiser(None, process, "flow").target(x0, t, eps), slope, rtol=0, atol=1e-8)
    vp, u = vp_cosine(100), torch.tensor(0.4).double()
    angle = torch.atan2(vp.sigma(u), vp.alpha(u))
    slope = (
        ((angle + h).cos() * x0 + (angle + h).sin() * eps - (angle - h).cos() * x0 - (angle - h).sin() * eps) / 2 / h
    )
    torch.testing.assert_close(Denoiser(None, vp, "v").target(x0, u, eps), slope, rtol=0, atol=1e-8)


def test_clipping_bounds_x0():
    denoiser = Denoiser(Oracle(torch.tensor([-3.0, 0.2, 9.0])), vp_cosine(10), "x0", clip=1.0)
    assert denoiser(torch.zeros(3), torch.tensor(0.5)).tolist() == pytest.approx([-1.0, 0.2, 1.0])


def test_guidance_is_one_doubled_batch_and_extrapolates_from_the_unconditional():
    calls = []

    class Net(torch.nn.Module):
        def forward(self, x, t, c):
            calls.append((x.shape, t.shape))
            return x + c

    denoiser = Denoiser(Net(), vp_cosine(10), "x0", guidance=3.0, unconditional=lambda c: (torch.zeros_like(c),))
    x, c = torch.randn(2, 4, 1)
    out = denoiser(x, torch.full((4, 1), 0.5), c)
    torch.testing.assert_close(out, x + 3 * c)
    assert calls == [((8, 1), (8, 1))]
    torch.testing.assert_close(denoiser(x, torch.tensor(0.5), c), x + 3 * c)
    assert calls[1] == ((8, 1), ())


def test_a_weighted_loss_is_the_mean_over_the_weighted_entries():
    denoiser = Denoiser(Oracle(torch.zeros(2, 4, 3)), vp_cosine(10), "x0")
    x0 = torch.randn(2, 4, 3)
    weight = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 4, 1)
    loss = denoiser.loss(x0, torch.tensor(0.5), torch.randn(2, 4, 3), weight=weight)
    torch.testing.assert_close(loss, x0[:, 1:3].square().mean())


def test_unknown_predictions_and_guidance_without_an_empty_condition_are_refused():
    with pytest.raises(ConfigError, match="prediction='noise': choose one of eps, x0, v, flow"):
        Denoiser(None, vp_cosine(10), "noise")
    with pytest.raises(ConfigError, match="needs `unconditional`"):
        Denoiser(None, vp_cosine(10), guidance=2.0)
