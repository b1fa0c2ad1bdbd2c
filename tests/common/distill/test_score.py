"""Score distillation against closed forms: Gaussian KL gradients, quadrature, zero at the teacher, masks."""

import pytest
import torch

from common.diffusion.analytic import Mixture1D, gaussian
from common.diffusion.process import local, rectified_flow, vp_linear
from common.distill.primitives.score import direction, dmd_weight, eps_weight, kl_weight, surrogate

TOY = Mixture1D(*torch.tensor([[0.3, 0.7], [-1.5, 1.0], [0.3, 0.5]], dtype=torch.float64))


def normal(mean, std):
    """The exact denoiser of N(mean, std^2), elementwise."""
    return lambda process: Mixture1D(*torch.tensor([[1.0], [mean], [std]], dtype=torch.float64)).denoise(process)


def gradients(process, t, a, b, teacher, fake, weight, count=400_000):
    """d/da and d/db of the surrogate for the student a z + b."""
    z = torch.randn(count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps = torch.randn(count, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, b))
    t = torch.tensor(t, dtype=torch.float64)
    y = a * z + b
    d, _ = direction(fake(process), teacher(process), process.noise(y, t, eps).detach(), t)
    return [g.item() for g in torch.autograd.grad(surrogate(y, weight(process, t) * d).mean(), (a, b))]


def test_the_gradient_is_that_of_the_kl_divergence_of_gaussians():
    """Student 0.7 z + 0.2, teacher N(1, 0.5^2), rectified flow at t = 0.4: dKL/da = 0.258892, dKL/db = -1.152."""
    da, db = gradients(rectified_flow(), 0.4, 0.7, 0.2, normal(1.0, 0.5), normal(0.2, 0.7), kl_weight)
    assert (da, db) == (pytest.approx(0.258892, abs=3e-3), pytest.approx(-1.152, abs=3e-3))


@pytest.mark.parametrize("process", [rectified_flow(), vp_linear(1000), local(vp_linear(1000))], ids=["rf", "vp", "ve"])
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_gaussian_gradients_on_every_process(process, t):
    level = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = process.alpha(level).item(), process.sigma(level).item()
    m, s, mean, std = 0.1, 0.9, 0.4, 0.8
    fake, real = alpha**2 * s**2 + sigma**2, alpha**2 * std**2 + sigma**2
    da, db = gradients(process, t, s, m, normal(mean, std), normal(m, s), kl_weight)
    assert db == pytest.approx(alpha**2 * (m - mean) / real, abs=5e-3)
    assert da == pytest.approx(alpha**2 * s * (1 / real - 1 / fake), abs=5e-3)


def test_a_fake_score_that_is_the_teacher_gives_exactly_no_gradient():
    same = TOY.denoise(rectified_flow())
    y = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.5, dtype=torch.float64)
    d, _ = direction(same, same, y.detach(), t)
    (gradient,) = torch.autograd.grad(surrogate(y, d).sum(), y)
    assert torch.equal(gradient, torch.zeros_like(y))


def test_with_a_two_mode_teacher_the_gradient_is_that_of_quadrature():
    """KL of N(b, a^2) to the mixture at t, by quadrature, against the surrogate's slope."""
    process, t = rectified_flow(), 0.4
    level, x = torch.tensor(t, dtype=torch.float64), torch.linspace(-9, 9, 40_001, dtype=torch.float64)

    def log_density(weights, means, stds):
        a, s = process.alpha(level), process.sigma(level)
        width = (a**2 * stds**2 + s**2).sqrt()
        parts = -(((x[:, None] - a * means) / width) ** 2) / 2 - width.log() + weights.log()
        return parts.logsumexp(-1)

    def kl(a, b):
        one = torch.ones(1, dtype=torch.float64)
        student = log_density(one, b * one, a * one)
        density = student.exp()
        return (density * (student - log_density(TOY.weights, TOY.means, TOY.stds))).sum() / density.sum()

    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.8, 0.1))
    expected = [g.item() for g in torch.autograd.grad(kl(a, b), (a, b))]
    found = gradients(process, t, 0.8, 0.1, TOY.denoise, normal(0.1, 0.8), kl_weight)
    assert found == pytest.approx(expected, abs=4e-3)


def test_the_eps_weight_makes_the_difference_of_predicted_noises():
    process, t = vp_linear(1000), torch.tensor(0.3, dtype=torch.float64)
    x = torch.randn(20, 1, dtype=torch.float64)
    teacher, fake = TOY.denoise(process), normal(0.1, 0.8)(process)
    d, truth = direction(fake, teacher, x, t)
    torch.testing.assert_close(truth, teacher(x, t))
    expected = process.eps(x, t, teacher(x, t)) - process.eps(x, t, fake(x, t))
    torch.testing.assert_close(eps_weight(process, t) * d, expected)


def test_masked_entries_get_no_gradient_and_do_not_move_the_normaliser():
    y = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(3, 5, 1)
    mask[0, 3:] = 0
    d, truth = torch.randn(3, 5, 2, dtype=torch.float64), torch.zeros(3, 5, 2, dtype=torch.float64)
    weight = dmd_weight(y, truth, mask)
    (gradient,) = torch.autograd.grad(surrogate(y, weight * d, mask).sum(), y)
    assert torch.equal(gradient[0, 3:], torch.zeros(2, 2).double())
    torch.testing.assert_close(gradient[0, :3], (weight * d)[0, :3] / 6)
    other = y.detach().clone()
    other[0, 3:] = torch.inf
    assert torch.equal(dmd_weight(other, truth, mask), weight)
    assert weight[1].item() == pytest.approx(1 / y[1].abs().mean().item())
    assert dmd_weight(truth, truth).max() == pytest.approx(1000)  # the floor


def test_the_surrogates_gradient_is_that_of_finite_differences_of_its_definition():
    """mean(sg(d) . y(theta)) for a nonlinear student y."""
    z, d = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda k: surrogate(torch.tanh(k * z), d), torch.tensor(0.7).double().requires_grad_()
    )


def test_a_one_dimensional_gaussian_student_converges_to_the_teacher():
    process, teacher = rectified_flow(), gaussian(torch.tensor([0.5]).double(), torch.tensor([[0.3**2]]).double())
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, -0.5))
    optimiser, g = torch.optim.Adam([a, b], 0.02), torch.Generator().manual_seed(0)
    for _ in range(300):
        z, eps = (torch.randn(256, 1, dtype=torch.float64, generator=g) for _ in range(2))
        t = 0.02 + 0.96 * torch.rand(256, 1, dtype=torch.float64, generator=g)
        y = a * z + b
        fake = normal(b.item(), abs(a.item()))(process)
        d, truth = direction(fake, teacher.denoise(process), process.noise(y, t, eps).detach(), t)
        optimiser.zero_grad()
        surrogate(y, dmd_weight(y, truth) * d).mean().backward()
        optimiser.step()
    assert abs(a.item()) == pytest.approx(0.3, abs=0.03) and b.item() == pytest.approx(0.5, abs=0.03)
