import pytest
import torch

from common.errors import ConfigError
from common.nn.embeddings import LevelEmbedding, sinusoid
from common.nn.transformer import ConditionalTransformer
from common.nn.unet1d import ConditionalUNet1D


def millions(net):
    return sum(p.numel() for p in net.parameters()) / 1e6


@pytest.mark.parametrize(
    "horizon, published", [(None, 65.78), (16, 69.72), (20, 70.76)], ids=["DP", "SDP 16", "SDP 20"]
)
def test_the_published_networks_have_their_published_size(horizon, published):
    with torch.device("meta"):
        net = ConditionalUNet1D(2, 40, joint_positions=horizon)
    assert millions(net) == pytest.approx(published, abs=0.006)


def small(joint=None, **kwargs):
    torch.manual_seed(0)
    return ConditionalUNet1D(3, 5, widths=(16, 32), groups=4, level_width=16, joint_positions=joint, **kwargs)


def inputs(batch=2, horizon=16):
    g = torch.Generator().manual_seed(1)
    return torch.randn(batch, horizon, 3, generator=g), torch.randn(batch, 5, generator=g)


def test_the_sinusoid_has_the_published_frequencies():
    e = sinusoid(torch.tensor([0.0, 3.0]), 8)
    assert e[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(e[1, :4], (3 * torch.tensor([1, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3), 1e-4])).sin())


def test_a_level_is_told_as_the_index_of_the_published_tables():
    embedding = LevelEmbedding(8, scale=100)
    t = torch.tensor([0.01, 0.5, 1.0]).view(1, 3, 1)
    expected = embedding.mlp(sinusoid(torch.tensor([[0.0, 49.0, 99.0]]), 8))
    torch.testing.assert_close(embedding(t), expected, atol=1e-5, rtol=1e-4)


def test_equal_levels_at_every_position_are_one_level_for_all():
    net, (x, observation) = small(), inputs()
    projected = net.project(observation)
    one = net(x, torch.full((2, 1, 1), 0.3), projected)
    torch.testing.assert_close(net(x, torch.full((2, 16, 1), 0.3), projected), one, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(net(x, torch.tensor(0.3), projected), one)
    assert one.shape == x.shape


def test_the_observation_and_the_level_enter_as_one_linear_film_of_both():
    """The split film equals Linear(mish([level feature; observation])) of the published block."""
    net, (_, observation) = small(), inputs()
    t = torch.full((2, 1, 1), 0.3)
    first = net.sizes[0]
    weight = torch.cat([net.film_level[0].weight, net.film_observation.weight[:first]], 1)
    both = torch.cat([net.level(t)[:, 0], observation], 1)
    expected = torch.nn.functional.linear(torch.nn.functional.mish(both), weight, net.film_level[0].bias)
    torch.testing.assert_close(net.films(t, net.project(observation))[0][..., 0], expected)


def test_the_level_of_a_position_acts_only_within_the_convolutions_reach():
    torch.manual_seed(0)
    net = ConditionalUNet1D(2, 3, widths=(8,), groups=2, level_width=8)  # one resolution: norms still mix all positions
    for block in (*net.down[0], *net.middle):
        block.first[1], block.second[1] = torch.nn.Identity(), torch.nn.Identity()
    net.last[0][1] = torch.nn.Identity()
    x, t = torch.randn(1, 64, 2), torch.full((1, 64, 1), 0.5)
    projected = net.project(torch.randn(1, 3))
    changed = t.clone()
    changed[:, 32] = 0.9
    moved = (net(x, changed, projected) - net(x, t, projected)).abs().sum(-1)[0].nonzero()[:, 0]
    # behind the first film: one convolution of its block, two in each of the three others, one in the last: 8 x 2;
    # the outermost changes may round to nothing
    assert 16 <= moved.min() < 22 and 42 < moved.max() <= 48


def test_the_joint_form_tells_every_position_about_all_levels():
    net, (x, observation) = small(joint=16), inputs()
    t = torch.rand(2, 16, 1)
    out = net(x, t, net.project(observation))
    changed = t.clone()
    changed[:, 15] = 0.01
    assert ((net(x, changed, net.project(observation)) - out).abs().sum(-1) > 0).all()
    with pytest.raises(ConfigError, match="made for 16"):
        net(x[:, :8], t[:, :8], net.project(observation))


@pytest.mark.parametrize(
    "net", [small(), ConditionalTransformer(3, 5, 16, width=16, depth=2, heads=2)], ids=["unet", "transformer"]
)
def test_the_batch_entries_do_not_see_one_another(net):
    torch.manual_seed(2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, observation = inputs(3)
    t = torch.rand(3, 16, 1)
    out = net(x, t, net.project(observation))
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        net(x[order], t[order], net.project(observation[order])), out[order], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(net(x[:1], t[:1], net.project(observation[:1])), out[:1], atol=1e-5, rtol=1e-4)


def test_a_horizon_that_cannot_be_halved_is_named():
    net, (x, observation) = small(), inputs(horizon=15)
    with pytest.raises(ConfigError, match="horizon 15: 2 widths need a multiple of 2"):
        net(x, torch.tensor(0.5), net.project(observation))
    with pytest.raises(ValueError, match=r"t is \(2, 8, 1\)"):
        net(inputs()[0], torch.rand(2, 8, 1), net.project(observation))


def test_a_new_transformer_ignores_levels_and_observation_and_a_trained_one_does_not():
    net, (x, observation) = ConditionalTransformer(3, 5, 16, width=16, depth=2, heads=2), inputs()
    a = net(x, torch.full((2, 16, 1), 0.2), net.project(observation))
    b = net(x, torch.full((2, 16, 1), 0.8), net.project(observation + 1))
    assert torch.equal(a, b)
    for block in net.blocks:
        torch.nn.init.normal_(block.adapt.weight, std=0.1)
    a = net(x, torch.full((2, 16, 1), 0.2), net.project(observation))
    assert not torch.allclose(a, net(x, torch.full((2, 16, 1), 0.8), net.project(observation)))
    assert not torch.allclose(a, net(x, torch.full((2, 16, 1), 0.2), net.project(observation + 1)))
    with pytest.raises(ConfigError, match="horizon 20: this transformer has positions for 16"):
        net(torch.randn(2, 20, 3), torch.tensor(0.5), net.project(observation))
