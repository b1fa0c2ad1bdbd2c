"""Losses of completion in closed form."""

import pytest
import torch

from perception.completion.losses import nearest, noise_loss, squared_chamfer
from perception.completion.sampling import lidiff_local


def test_a_predictor_of_zero_has_error_one_and_pays_the_regulariser_once():
    eps = torch.randn(2, 20_000, 3, generator=torch.Generator().manual_seed(0))
    assert noise_loss(torch.zeros_like(eps), eps).item() == pytest.approx(1, abs=0.01)
    assert noise_loss(torch.zeros_like(eps), eps, 5.0).item() == pytest.approx(1 + 5, abs=0.01)
    assert noise_loss(eps, eps, 5.0).item() == pytest.approx(0, abs=1e-3)


def test_on_a_plane_only_the_normal_noise_can_be_told():
    """The best prediction, E[eps | x_t] of points spread over z = 0, has error 2/3 and variance 1/3; scaled by 1.6 it
    minimises the regularised loss."""
    g = torch.Generator().manual_seed(0)
    points = torch.rand(1, 200_000, 3, generator=g) * torch.tensor([20.0, 20.0, 0.0])
    eps, t = torch.randn(points.shape, generator=g), torch.tensor(0.5)
    x = lidiff_local().noise(points, t, eps)
    best = torch.zeros_like(eps)
    best[..., 2] = x[..., 2] / lidiff_local().sigma(t)
    assert noise_loss(best, eps).item() == pytest.approx(2 / 3, abs=0.01)
    scales = torch.arange(1.0, 2.2, 0.05)
    losses = torch.stack([noise_loss(best * scale, eps, 5.0) for scale in scales])
    assert scales[losses.argmin()].item() == pytest.approx(1.6, abs=0.1)


def test_the_chamfer_loss_of_a_shifted_lattice_is_twice_the_squared_shift_and_pulls_back():
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(1, -1, 3)
    shifted = (grid + torch.tensor([0.1, 0.0, 0.0])).requires_grad_()
    loss = squared_chamfer(shifted, grid)
    assert loss.item() == pytest.approx(2 * 0.1**2, rel=1e-5)
    loss.sum().backward()
    # both halves pull every point by 2 * 0.1 / N
    torch.testing.assert_close(shifted.grad[0, :, 0], torch.full((64,), 4 * 0.1 / 64), rtol=1e-4, atol=1e-7)
    assert shifted.grad[..., 1:].abs().max() < 1e-6


def test_the_chamfer_loss_has_the_gradient_of_finite_differences_and_takes_scenes_of_different_size():
    g = torch.Generator().manual_seed(0)
    points = torch.randn(2, 12, 3, dtype=torch.float64, generator=g, requires_grad=True)
    scenes = [torch.randn(n, 3, dtype=torch.float64, generator=g) for n in (9, 15)]
    assert torch.autograd.gradcheck(lambda p: squared_chamfer(p, scenes), points)


def test_the_nearest_point_is_that_of_all_distances():
    g = torch.Generator().manual_seed(0)
    query, reference = torch.randn(300, 3, generator=g), torch.randn(200, 3, generator=g)
    assert torch.equal(nearest(query, reference), torch.cdist(query, reference).argmin(1))
