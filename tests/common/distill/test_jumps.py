"""Two-time students, endpoint and consistency losses against the exact flow map of a 1-D mixture."""

import pytest
import torch
from torch import nn

from common.diffusion.analytic import Mixture1D
from common.diffusion.denoiser import Denoiser
from common.diffusion.process import rectified_flow, vp_cosine
from common.diffusion.samplers import ddim
from common.distill.metrics import mse, pseudo_huber, valid_mean
from common.distill.primitives.consistency import consistency
from common.distill.primitives.endpoint import endpoint, two_step_x0
from common.distill.states import (
    PairCache,
    States,
    as_level,
    guided,
    noised_data,
    prior,
    renoised,
    straight,
    teacher_path,
)
from common.distill.student import OneTime, SecondTime, TwoTime

TOY = Mixture1D(*torch.tensor([[0.3, 0.7], [-1.5, 1.0], [0.3, 0.5]], dtype=torch.float64))
FLOW = rectified_flow()


def level(value):
    return torch.tensor(value, dtype=torch.float64)


def exact(x, t, s):
    return TOY.flow_map(FLOW, x, t, s)


def one_parameter(theta):
    """The exact jump, bent by theta: f = Phi + theta (t - s) sin x."""
    return lambda x, t, s: exact(x, t, s) + theta * (t - s) * x.sin()


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Bend(nn.Module):
    def forward(self, x, t, s=None):
        return torch.tanh(x) * (0.5 + t) + (0.0 if s is None else s)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_student_that_ignores_its_target_makes_the_teachers_ddim_step(prediction):
    process, x = vp_cosine(100), drawn(6, 3)
    t, s = level(0.8), level(0.3)
    teacher = Denoiser(Bend(), process, prediction)
    student = TwoTime(OneTime(Bend()), process, prediction)
    torch.testing.assert_close(student(x, t, s), ddim(teacher, process, x, torch.stack([t, s])))
    assert torch.equal(student(x, t, t), x)


def test_a_second_time_starts_as_the_first_network_and_learns():
    net = SecondTime(Bend(), Bend()).double()
    x, t = drawn(4, 2), level(0.5)
    assert torch.equal(net(x, t, level(0.1)), Bend()(x, t))
    net(x, t, level(0.1)).sum().backward()
    assert net.gain.grad.abs() > 0
    with torch.no_grad():
        net.gain.fill_(1)
    assert not torch.equal(net(x, t, level(0.1)), net(x, t, level(0.2)))


def test_on_the_rectified_flow_the_flow_head_is_the_average_velocity():
    x, t, s = drawn(5), level(0.9), level(0.2)
    average = (x - exact(x, t, s)) / (t - s)
    student = TwoTime(lambda x, t, s: average, FLOW, "flow")
    torch.testing.assert_close(student(x, t, s), exact(x, t, s))


def test_the_exact_student_has_no_endpoint_loss_and_a_bent_one_the_closed_form():
    x, t, s = drawn(64, 1), level(0.9), level(0.1)
    theta = level(0.0).requires_grad_()
    states = States(x, t, s, exact(x, t, s))
    loss = endpoint(one_parameter(theta), states)
    (slope,) = torch.autograd.grad(loss.sum(), theta)
    assert loss.max() < 1e-18 and slope.abs() < 1e-12
    bent = endpoint(one_parameter(level(0.3)), states)
    torch.testing.assert_close(bent, (0.3 * 0.8 * x[:, 0].sin()) ** 2, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("target", [0.0, 0.2], ids=["consistency", "trajectory"])
def test_the_exact_student_is_consistent_and_a_bent_one_is_told_its_gradient(target):
    x, t, u, s = drawn(64, 1), level(0.9), level(0.6), level(target)
    theta = level(0.0).requires_grad_()

    def loss(theta, frozen):
        return consistency(one_parameter(theta), one_parameter(frozen), exact, x, t, u, s, mse).mean()

    value = loss(theta, theta)
    (slope,) = torch.autograd.grad(value, theta)
    assert value < 1e-16 and slope.abs() < 1e-7
    theta = level(0.1).requires_grad_()
    (slope,) = torch.autograd.grad(loss(theta, theta), theta)
    step = 1e-5  # the target is not differentiated: finite differences of the student alone
    numeric = (loss(level(0.1 + step), level(0.1)) - loss(level(0.1 - step), level(0.1))) / (2 * step)
    assert slope.item() == pytest.approx(numeric.item(), rel=1e-5) and slope.abs() > 1e-4


def test_one_jump_to_the_two_step_target_arrives_where_two_teacher_steps_do():
    for process in (FLOW, vp_cosine(100)):
        x, levels = drawn(20), torch.tensor([0.9, 0.6, 0.3], dtype=torch.float64)
        there = ddim(TOY.denoise(process), process, x, levels)
        x0 = two_step_x0(process, x, levels[0], levels[2], there)
        torch.testing.assert_close(process.step(x, levels[0], levels[2], x0), there, rtol=0, atol=1e-12)


def test_a_teachers_path_holds_every_state_and_its_pairs_name_their_levels():
    levels = torch.linspace(1, 0, 5, dtype=torch.float64)
    z = drawn(30)
    path = teacher_path(TOY.denoise(FLOW), FLOW, z, levels)
    assert path.shape == (5, 30) and torch.equal(path[0], z)
    torch.testing.assert_close(path[3], ddim(TOY.denoise(FLOW), FLOW, z, levels[:4]))
    cache = PairCache(path[..., None], levels)
    pairs = cache.pairs(torch.tensor([3, 7]), first=1, last=3)
    assert torch.equal(pairs.x[:, 0], path[1, [3, 7]]) and torch.equal(pairs.target[:, 0], path[3, [3, 7]])
    assert pairs.t.flatten().tolist() == [0.75, 0.75] and pairs.s.flatten().tolist() == [0.25, 0.25]
    with pytest.raises(ValueError, match="5 states and 4 levels"):
        PairCache(path, levels[:4])


def test_states_have_the_marginals_of_their_process():
    g = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(100_000, 1, dtype=torch.float64, generator=g) + 1
    noisy = noised_data(FLOW, x0, torch.full((100_000,), 0.4), g)
    assert noisy.x.mean().item() == pytest.approx(0.6, abs=0.01)
    assert noisy.x.std().item() == pytest.approx((0.3**2 + 0.4**2) ** 0.5, abs=0.01)
    start = prior(FLOW, x0, g)
    assert start.x.std().item() == pytest.approx(1, abs=0.01) and (start.t == 1).all()
    between = noised_data(FLOW, x0, torch.full((100_000,), 0.2), g)
    eps = torch.randn(100_000, 1, dtype=torch.float64, generator=g)
    again = renoised(FLOW, between.x, torch.full((100_000,), 0.4), eps, 0.2)
    assert again.x.mean().item() == pytest.approx(0.6, abs=0.01)
    assert again.x.std().item() == pytest.approx((0.3**2 + 0.4**2) ** 0.5, abs=0.01)


def test_reflows_states_lie_on_the_straight_line_between_a_paths_ends():
    z, end = drawn(8, 1), drawn(8, 1, seed=1)
    t = torch.rand(8, dtype=torch.float64)
    states = straight(FLOW, States(z, as_level(torch.ones(8), z), None, end), t, z)
    torch.testing.assert_close(states.x, (1 - t[:, None]) * end + t[:, None] * z)
    assert torch.equal(states.target, end) and (states.s == 0).all()


def test_guidance_at_one_is_the_conditional_teacher_and_at_zero_the_unconditional():
    seen, unseen = (lambda x, t: x + 1), (lambda x, t: x - 1)
    x = drawn(4)
    assert guided(seen, unseen, 1) is seen
    torch.testing.assert_close(guided(seen, unseen, 0)(x, 0.5), x - 1)
    torch.testing.assert_close(guided(seen, unseen, 3.5)(x, 0.5), x + 6)


def test_masked_entries_do_not_count_even_if_they_are_not_numbers():
    a, b = drawn(3, 6, 2), drawn(3, 6, 2, seed=1)
    mask = torch.ones(3, 6, 1)
    mask[1, 2:] = 0
    for metric in (mse, pseudo_huber):
        kept = metric(a[1:2, :2], b[1:2, :2])
        wild = a.clone()
        wild[1, 2:] = torch.nan
        torch.testing.assert_close(metric(wild, b, mask)[1:2], kept)
    assert valid_mean(a, torch.zeros(3, 6, 1)).tolist() == [0, 0, 0]
    assert pseudo_huber(a, a).max() == 0


class Net(nn.Module):
    """A small network of x and the level."""

    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, x, t, s):
        return self.layers(torch.cat([x, t.expand_as(x)], -1))


def equiprobable(count):
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None].float()


def wasserstein(student, count=1000):
    """Distance to the oracle under the same noise: both maps are monotone, so it is W1 as well."""
    z = equiprobable(count)
    with torch.no_grad():
        out = student(z, torch.ones(()), torch.zeros(()))
    truth = exact(z.double(), level(1.0), level(0.0)).float()
    return (out - truth).abs().mean().item(), (out < -0.6).float().mean().item()


def fit(student, loss, steps, rate=1e-2):
    optimiser = torch.optim.Adam(student.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        schedule.step()


def test_a_student_of_pairs_makes_the_teachers_path_in_one_step():
    """Mean distance at most 0.10; one Euler step of the teacher has 1.07."""
    torch.manual_seed(0)
    z = equiprobable(4000).double()
    levels = torch.linspace(1, 0, 65, dtype=torch.float64)
    path = teacher_path(TOY.denoise(FLOW), FLOW, z, levels).float()
    cache = PairCache(path, levels.float())
    student = TwoTime(Net(), FLOW, "x0")
    assert wasserstein(student)[0] > 0.5
    fit(student, lambda: endpoint(student, cache.pairs(torch.randint(4000, (256,)))).mean(), 800)
    error, left = wasserstein(student)
    assert error < 0.10 and left == pytest.approx(0.300, abs=0.02)


@pytest.mark.slow
def test_a_consistent_student_makes_the_teachers_path_in_one_step():
    """Mean distance at most 0.06: better than sixteen Euler steps."""
    torch.manual_seed(0)
    teacher = TOY.denoise(FLOW)
    student = TwoTime(Net(), FLOW, "x0")
    average = TwoTime(Net(), FLOW, "x0")
    average.load_state_dict(student.state_dict())

    def step(x, t, u):  # Heun
        def velocity(x, t):
            return (x - teacher(x, t)) / t

        first = velocity(x.double(), t.double())
        second = velocity(x.double() + (u - t) * first, u.double())
        return (x + (u - t) * (first + second) / 2).float()

    def loss():
        with torch.no_grad():
            for mean, value in zip(average.parameters(), student.parameters(), strict=True):
                mean.lerp_(value, 0.05)
        which = torch.rand(256, 1) < 0.3
        x0 = torch.where(which, -1.5 + 0.3 * torch.randn(256, 1), 1.0 + 0.5 * torch.randn(256, 1))
        n = torch.randint(1, 33, (256, 1))
        t, u = n / 32, (n - 1) / 32
        x = FLOW.noise(x0, t, torch.randn(256, 1))
        there = torch.where(u > 0, step(x, t, u.clamp_min(1e-3)), teacher(x.double(), t.double()).float())

        def to_data(x, t, s):
            return torch.where(t > 0, average(x, t.clamp_min(1e-3), s), x)

        return consistency(student, to_data, lambda *_: there, x, t, u, torch.zeros_like(t), mse).mean()

    fit(student, loss, 6000)
    error, left = wasserstein(student)
    assert error < 0.06 and left == pytest.approx(0.300, abs=0.02)
