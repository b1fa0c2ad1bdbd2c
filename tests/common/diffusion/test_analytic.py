import pytest
import torch

from common.diffusion.analytic import GaussianMixture, Mixture1D, gaussian
from common.diffusion.process import rectified_flow, vp_cosine
from common.diffusion.samplers import ddim, ddpm


def rbf(size, length=4.0):
    """Covariance of smooth sequences, A1 of the toys."""
    t = torch.arange(size, dtype=torch.float64)
    return (-((t[:, None] - t) ** 2) / (2 * length**2)).exp() + 1e-3 * torch.eye(size, dtype=torch.float64)


def test_the_smooth_sequences_have_their_published_spectrum():
    top = torch.linalg.eigvalsh(rbf(16)).flip(0)[:6]
    expected = torch.tensor([8.346, 4.850, 2.013, 0.618, 0.146, 0.028], dtype=torch.float64)
    torch.testing.assert_close(top, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("process", [vp_cosine(100), rectified_flow()], ids=["vp", "flow"])
def test_the_exact_denoiser_is_the_regression_of_x0_on_x_at_levels_per_position(process):
    g = torch.Generator().manual_seed(0)
    teacher = gaussian(torch.linspace(-1, 1, 4, dtype=torch.float64), rbf(4))
    t = torch.tensor([0.0001, 0.2, 0.5, 0.9], dtype=torch.float64)
    x0 = teacher.sample(200_000, g)
    x = process.noise(x0, t, torch.randn(x0.shape, dtype=torch.float64, generator=g))
    design = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    fitted = design @ torch.linalg.lstsq(design, x0).solution
    exact = teacher.denoise(process)(x, t)
    assert (fitted - exact).abs().mean() < 5e-3  # the fit's own error with 200,000 draws


def test_on_the_line_it_agrees_with_the_one_dimensional_mixture():
    toy = Mixture1D(*torch.tensor([[0.3, 0.7], [-1.5, 1.0], [0.3, 0.5]], dtype=torch.float64))
    general = GaussianMixture(toy.weights, toy.means[:, None], (toy.stds**2)[:, None, None])
    x, t = torch.linspace(-3, 3, 50, dtype=torch.float64), torch.tensor(0.37, dtype=torch.float64)
    process = vp_cosine(100)
    torch.testing.assert_close(general.denoise(process)(x[:, None], t)[:, 0], toy.denoise(process)(x, t))


def test_independent_positions_do_not_look_at_one_another():
    means = torch.zeros(3, 2, dtype=torch.float64)
    teacher = gaussian(means, torch.eye(6, dtype=torch.float64) * 0.3)
    x = torch.randn(2, 3, 2, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)[:, None]
    before = teacher.denoise(vp_cosine(100))(x, t)
    x[:, 2] += 1
    after = teacher.denoise(vp_cosine(100))(x, t)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2], before[:, 2])


def test_sampling_a_single_sequence_gives_back_that_sequence():
    mean = torch.linspace(-0.8, 0.8, 12, dtype=torch.float64).reshape(6, 2)
    teacher = gaussian(mean, torch.zeros(12, 12, dtype=torch.float64))
    process = vp_cosine(100)
    for sampler in (ddim, ddpm):
        x = sampler(teacher.denoise(process), process, torch.randn(3, 6, 2).double(), process.levels(20))
        torch.testing.assert_close(x, mean.expand(3, 6, 2))


def test_four_ddim_steps_shrink_the_fast_modes_of_smooth_sequences_most():
    process, covariance = rectified_flow(), rbf(16)
    values, vectors = torch.linalg.eigh(covariance)
    z = torch.randn(40_000, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = ddim(gaussian(torch.zeros(16).double(), covariance).denoise(process), process, z, process.levels(4))
    ratio = (x @ vectors).std(0).flip(0) / values.sqrt().flip(0)
    expected = torch.tensor([0.6225, 0.7103, 0.4263, 0.0943], dtype=torch.float64)
    torch.testing.assert_close(ratio[[0, 2, 5, 10]], expected, rtol=0.02, atol=0)


def test_levels_of_their_own_per_sample_give_what_each_sample_gets_alone():
    teacher = GaussianMixture(torch.tensor([0.4, 0.6]).double(), torch.randn(2, 5).double(), torch.stack([rbf(5)] * 2))
    x, t = torch.randn(3, 5).double(), torch.rand(3, 5).double()
    denoise = teacher.denoise(vp_cosine(100))
    alone = torch.cat([denoise(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(denoise(x, t), alone)
