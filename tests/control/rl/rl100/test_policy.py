"""The policy's parts: bottleneck, reconstruction, exact ratios with stored noise, what is and is not in its range."""

import functools

import pytest
import torch

from common.diffusion.process import vp_cosine
from common.errors import ConfigError
from common.nn.skip_net import SkipNet
from common.nn.unet1d import ConditionalUNet1D
from control.policies.encoders import PointEncoder, StateEncoder
from control.rl.rl100.policy import Bottleneck, Policy, Reconstruction, chamfer, gaussian_kl

CHUNK, WIDTH = 4, 2


def skip(action_dim, condition_dim):
    return SkipNet(action_dim, condition_dim, CHUNK, 32, 2)


def unet(action_dim, condition_dim):
    return ConditionalUNet1D(action_dim, condition_dim, (16, 32), kernel=3, groups=4, level_width=16)


def policy_of(net=skip, encoders=None, **kwargs) -> Policy:
    torch.manual_seed(0)
    encoders = encoders or {"state": StateEncoder(3)}
    policy = Policy(encoders, 2, WIDTH, CHUNK, net, vp_cosine(100), dict(steps=5, s_min=0.08, s_max=0.8), **kwargs)
    seen = {"state": torch.randn(50, 3), "points": torch.rand(50, 16, 3)}
    policy.fit({name: seen[name] for name in encoders}, 3 * torch.rand(50, WIDTH))
    return policy.eval()


def test_the_divergence_to_a_standard_normal_is_zero_there_and_positive_elsewhere():
    assert gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).abs().max() == 0
    mean, log_var = torch.randn(50, 3), torch.randn(50, 3)
    assert (gaussian_kl(mean, log_var) > 0).all()
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mean, (log_var / 2).exp()), normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, log_var), wanted)


def test_the_bottleneck_begins_as_the_identity_and_its_noise_is_given():
    bottleneck, features = Bottleneck(5), torch.randn(3, 5)
    z, kl = bottleneck(features)
    assert torch.equal(z, features) and kl.shape == (3,)
    noise = torch.randn(3, 5)
    assert torch.equal(bottleneck(features, noise)[0], bottleneck(features, noise)[0])
    torch.testing.assert_close(bottleneck(features, noise)[0] - z, torch.exp(torch.tensor(-2.0)) * noise)


def test_the_chamfer_distance_ignores_order_and_duplicates_are_near():
    torch.manual_seed(0)
    a, b = torch.rand(2, 7, 3), torch.rand(2, 9, 3)
    slow = torch.stack([
        torch.stack([min((p - q).norm() for q in y) for p in x]).mean()
        + torch.stack([min((p - q).norm() for p in x) for q in y]).mean() for x, y in zip(a, b, strict=True)
    ])  # fmt: skip
    torch.testing.assert_close(chamfer(a, b), slow)
    torch.testing.assert_close(chamfer(a, b), chamfer(b, a))
    assert chamfer(a, a[:, torch.randperm(7)]).abs().max() < 1e-6


def test_reconstruction_is_of_what_it_is_given_and_reaches_the_condition():
    condition = torch.randn(4, 6, requires_grad=True)
    loss = Reconstruction(6, state=3, points=8)(condition, torch.randn(4, 3), torch.rand(4, 8, 3))
    loss.backward()
    assert condition.grad.abs().sum() > 0
    only = Reconstruction(6, state=3)
    assert only.points is None and only(condition.detach(), torch.zeros(4, 3)) >= 0


@pytest.mark.parametrize("net", [skip, unet], ids=["skip", "unet"])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_with_its_noise_stored_the_ratio_is_one_and_with_fresh_noise_it_is_not(net, bottleneck):
    policy = policy_of(net, bottleneck=bottleneck)
    observation = {"state": torch.randn(6, 2, 3)}
    start, noise, z = torch.randn(6, CHUNK, WIDTH), torch.randn(5, 6, CHUNK, WIDTH), torch.randn(6, policy.width)
    with torch.no_grad():
        path = policy.explore(policy.condition(observation, z), start, noise)
        again = policy.chain.evaluate(policy.predict(policy.condition(observation, z)), path.states)[0]
        other = policy.chain.evaluate(policy.predict(policy.condition(observation, -z)), path.states)[0]
    assert ((again - path.log_prob).exp() - 1).abs().max() < 1e-3
    assert ((other - path.log_prob).abs().max() > 1e-3) == bottleneck


def test_points_are_seen_whatever_their_order():
    policy = policy_of(encoders={"state": StateEncoder(3), "points": PointEncoder(8, (16, 16))})
    points = torch.rand(2, 2, 16, 3)
    state = torch.randn(2, 2, 3)
    first = policy.condition({"state": state, "points": points})
    mixed = policy.condition({"state": state, "points": points[:, :, torch.randperm(16)]})
    doubled = policy.condition({"state": state, "points": torch.cat([points, points], 2)})
    torch.testing.assert_close(first, mixed)
    torch.testing.assert_close(first, doubled)


def test_actions_lie_in_the_data_and_one_step_is_one_evaluation():
    policy = policy_of()
    condition = policy.condition({"state": torch.randn(6, 2, 3)})
    start, calls = 3 * torch.randn(6, CHUNK, WIDTH), []
    policy.head.net.register_forward_hook(lambda *_: calls.append(1))
    for action in (policy.mean(condition, start), policy.one_step(condition, start)):
        assert action.shape == (6, CHUNK, WIDTH) and action.abs().max() <= 1
        robot = policy.to_robot(action)
        assert (robot >= policy.actions.low - 1e-5).all() and (robot <= policy.actions.high + 1e-5).all()
    assert len(calls) == 1
    with pytest.raises(ConfigError, match=r"policy\.chunk=0"):
        Policy({"state": StateEncoder(3)}, 2, 2, 0, skip, vp_cosine(100), dict(steps=5))


def test_what_is_executed_is_what_the_data_know():
    policy = policy_of()
    policy.actions.high[1] = policy.actions.low[1]  # the data's second number does not vary
    action = 2 * torch.randn(9, CHUNK, WIDTH)
    executed = policy.executed(action)
    torch.testing.assert_close(executed[..., 0], action[..., 0].clamp(-1, 1))
    assert executed[..., 1].abs().max() == 0
    torch.testing.assert_close(policy.to_robot(executed), policy.to_robot(action))


def test_the_head_begins_as_the_denoiser_of_now_and_shares_nothing_with_it():
    policy = policy_of()
    with torch.no_grad():
        policy.denoiser.net.first.weight += 1
    policy.make_head()
    pairs = functools.partial(zip, policy.denoiser.net.parameters(), policy.head.net.parameters())
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs(strict=True))
