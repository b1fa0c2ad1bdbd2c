"""The critic: unbiased at every level of the sample, two time scales, and who may change when."""

import hashlib

import pytest
import torch
from torch import nn

from common.diffusion.process import local, rectified_flow, vp_linear
from common.distill.fake_score import TwoTimeScale, fake_score_loss, frozen
from common.distill.rollout import backward_simulation
from common.distill.times import logit_normal, on_grid, uniform, within_segment


def test_the_critic_of_an_intermediate_sample_learns_the_marginal_and_the_naive_target_does_not():
    """x0 uniform over {-1, 0, 1, 2}, samples at level 0.4 noised on to 0.5: by least squares in bins of x_0.5, the
    minimiser is the marginal's noise prediction."""
    process, l, t = rectified_flow(), torch.tensor(0.4).double(), torch.tensor(0.5).double()
    g = torch.Generator().manual_seed(0)
    x0 = torch.randint(-1, 3, (1_500_000,), generator=g).double()
    y = process.noise(x0, l, torch.randn(x0.shape, dtype=torch.float64, generator=g))
    eps = torch.randn(x0.shape, dtype=torch.float64, generator=g)
    x = process.renoise(y, l, t, eps)
    bins = (x / 0.1).round().long()
    places = torch.arange(-10, 15)
    atoms = torch.arange(-1.0, 3).double()
    centre = places.double() * 0.1
    chance = (-((centre[:, None] - 0.5 * atoms) ** 2) / (2 * 0.5**2)).softmax(-1)
    truth = (centre - 0.5 * (chance * atoms).sum(-1)) / 0.5
    ratio = (process.added_sigma(l, t) / process.sigma(t)).item()
    drawn = torch.stack([eps[bins == place].mean() for place in places])
    # argmin of (ratio e - eps)^2 is E[eps | x] / ratio
    assert (drawn / ratio - truth).abs().max() < 0.02
    assert (drawn - truth).abs().max() > 0.2
    at_truth, off = (
        fake_score_loss(process, value.expand(1000, 1), torch.zeros(1000, 1).double(), t, 0.4).mean()
        for value in (torch.zeros(1).double(), torch.ones(1).double())
    )
    assert at_truth == 0 and off.item() == pytest.approx(ratio**2)


@pytest.mark.parametrize("process", [rectified_flow(), vp_linear(1000), local(vp_linear(1000))], ids=["rf", "vp", "ve"])
def test_for_clean_samples_the_critics_loss_is_the_denoising_loss(process):
    eps_hat, eps, t = torch.randn(3, 4).double(), torch.randn(3, 4).double(), torch.tensor(0.6).double()
    torch.testing.assert_close(fake_score_loss(process, eps_hat, eps, t), (eps_hat - eps).square().mean(1))


def test_the_critic_is_updated_so_many_times_before_each_update_of_the_student():
    turns = [TwoTimeScale(3).students_turn(i) for i in range(9)]
    assert turns == [False, False, False, True] * 2 + [False]
    with pytest.raises(ValueError, match="critic_updates=0"):
        TwoTimeScale(0)


def fingerprint(module):
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in module.state_dict().values())).hexdigest()


def test_in_a_phase_only_the_named_network_changes_buffers_included():
    torch.manual_seed(0)
    student, critic = (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(2))
    optimiser = torch.optim.SGD([*student.parameters(), *critic.parameters()], 0.1)
    for active, still in ((student, critic), (critic, student)):
        before = fingerprint(active), fingerprint(still)
        with frozen(still):
            for _ in range(5):
                optimiser.zero_grad(set_to_none=True)
                critic(student(torch.randn(8, 3))).square().mean().backward()
                optimiser.step()
        assert fingerprint(active) != before[0] and fingerprint(still) == before[1]
        assert still.training and all(parameter.requires_grad for parameter in still.parameters())


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.graphs = nn.Parameter(torch.tensor(0.5)), []

    def forward(self, x, t):
        out = self.weight * x
        self.graphs.append(out.requires_grad)
        return out


@pytest.mark.parametrize("last", [0, 1, 3])
def test_gradient_reaches_the_last_executed_step_alone(last):
    process, levels, x = rectified_flow(), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]), torch.randn(5, 2)
    net = Counted()
    y = backward_simulation(net, process, x, levels, last)
    assert net.graphs == [False] * last + [True]
    (slope,) = torch.autograd.grad(y.sum(), net.weight)
    state = x
    with torch.no_grad():
        for i in range(last):
            state = process.step(state, levels[i], levels[i + 1], 0.5 * state)
    torch.testing.assert_close(slope, state.sum())
    torch.testing.assert_close(y, 0.5 * state)
    with pytest.raises(ValueError, match="step 4 of a sampler of 4 steps"):
        backward_simulation(net, process, x, levels, 4)


def test_time_laws_stay_in_their_range():
    g = torch.Generator().manual_seed(0)
    t = uniform(20_000, 0.02, 0.98, g)
    assert t.min() > 0.0199 and t.max() <= 0.98 and t.mean().item() == pytest.approx(0.5, abs=0.01)
    assert logit_normal(20_000, 0.0, 1.0, g).median().item() == pytest.approx(0.5, abs=0.01)
    grid = on_grid(1000, torch.tensor([1.0, 0.5, 0.0]), g)
    assert set(grid.tolist()) == {1.0, 0.5}
    s = within_segment(t, 4, g)
    floor = ((t * 4).ceil() - 1) / 4
    assert (s >= floor).all() and (s < t).all()
    assert torch.equal(within_segment(torch.full((50,), 0.5), 2, g) < 0.5, torch.ones(50, dtype=torch.bool))
