import pytest
import torch
import torch.nn.functional as F

from common.errors import ConfigError
from perception.detection.depth_prior import block_minimum, depth_bin, depth_loss, fuse_prior
from perception.detection.grid import DepthBins

BINS = DepthBins(low=1.0, high=60.0, step=0.5)
SMALL = DepthBins(low=1.0, high=9.0, step=1.0)


def test_the_bin_rule():
    depth = torch.tensor([1.0, 1.4999, 1.5, 59.99, 0.99, 60.0, 0.0, torch.nan, torch.inf])
    index, valid = depth_bin(depth, BINS)
    assert index[:4].tolist() == [0, 0, 1, 117]
    assert valid.tolist() == [True] * 4 + [False] * 5
    assert index.min() >= 0 and index.max() < BINS.count


@pytest.mark.parametrize("step", [0.1, 0.3, 0.5, 0.8])
def test_every_float32_edge_opens_its_own_bin_and_the_number_below_closes_the_previous(step):
    bins = DepthBins(low=0.7, high=0.7 + 90 * step, step=step)
    edges = bins.edges(dtype=torch.float64).float()
    below = torch.nextafter(edges, torch.zeros(()))
    assert depth_bin(edges, bins)[0].tolist() == list(range(90))
    assert depth_bin(below, bins)[0][1:].tolist() == list(range(89))
    assert not depth_bin(below, bins)[1][0]


def test_the_block_minimum_ignores_zeros():
    depth = torch.zeros(2, 1, 32, 48)
    depth[0, 0, 3, 17], depth[0, 0, 15, 31] = 7.0, 5.0
    depth[1, 0, 16, 0] = 2.0
    wanted = torch.zeros(2, 1, 2, 3)
    wanted[0, 0, 0, 1], wanted[1, 0, 1, 0] = 5.0, 2.0
    assert torch.equal(block_minimum(depth, 16), wanted)
    with pytest.raises(ConfigError, match="use 32x48"):
        block_minimum(torch.zeros(1, 1, 33, 50), 16)


def scene(seed=0, bins=SMALL):
    """logits (B, N, D, h, w) and a depth map in which about half of the pixels have a point."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, bins.count, 4, 5, generator=g) * 3
    depth = torch.rand(2, 3, 4, 5, generator=g) * 12
    return logits, torch.where(torch.rand(depth.shape, generator=g) < 0.5, depth, 0)


@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_the_fused_distribution_is_one(weight):
    logits, depth = scene()
    fused = fuse_prior(logits.softmax(2), depth, SMALL, weight)
    assert fused.min() >= 0
    torch.testing.assert_close(fused.sum(2), torch.ones(2, 3, 4, 5), atol=1e-6, rtol=0)


def test_without_points_the_fused_distribution_is_the_cameras_bit_for_bit():
    logits, depth = scene()
    probability = logits.softmax(2)
    assert torch.equal(fuse_prior(probability, torch.zeros_like(depth), SMALL), probability)
    fused, empty = fuse_prior(probability, depth, SMALL), ~depth_bin(depth, SMALL)[1]
    assert torch.equal(fused.movedim(2, -1)[empty], probability.movedim(2, -1)[empty])
    assert not torch.equal(fused, probability)


def test_a_point_puts_all_mass_into_its_bin():
    logits, _ = scene()
    depth = torch.full((2, 3, 4, 5), 3.7)
    wanted = torch.zeros_like(logits)
    wanted[:, :, 2] = 1
    assert torch.equal(fuse_prior(logits.softmax(2), depth, SMALL), wanted)


def test_points_everywhere_cut_the_task_gradient_but_not_the_depth_losss():
    logits, _ = scene()
    depth = torch.full((2, 3, 4, 5), 3.7)
    logits.requires_grad_()
    task = (fuse_prior(logits.softmax(2), depth, SMALL) * torch.randn(logits.shape)).sum()
    (gradient,) = torch.autograd.grad(task, logits)
    assert torch.count_nonzero(gradient) == 0
    (gradient,) = torch.autograd.grad(depth_loss(logits, depth, SMALL), logits)
    assert gradient.abs().amax() > 1e-3


def released_depth_loss(probability, depth, bins):
    """3 * BCE over the pixels with a point, as the formula reads, in float64."""
    index, valid = depth_bin(depth, bins)
    target = F.one_hot(index, bins.count).movedim(-1, 2).double()
    bce = F.binary_cross_entropy(probability.double(), target, reduction="none").sum(2)
    return 3 * bce[valid].sum() / max(1, int(valid.sum()))


def test_the_depth_loss_is_the_binary_cross_entropy_of_the_softmax():
    logits, depth = scene()
    wanted = released_depth_loss(logits.double().softmax(2), depth, SMALL)
    assert depth_loss(logits, depth, SMALL).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert depth_loss(logits, torch.zeros_like(depth), SMALL) == 0


def test_the_depth_losss_gradient_matches_finite_differences():
    logits, depth = scene(1)
    logits, depth = logits[:1, :1, :, :2, :2].double(), torch.tensor([[[[1.2, 3.0], [0.0, 8.9]]]])
    step = torch.zeros_like(logits)
    (gradient,) = torch.autograd.grad(depth_loss(logits.requires_grad_(), depth, SMALL), logits)
    for k in range(0, logits.numel(), 3):
        step.zero_().view(-1)[k] = 1e-4
        up, down = (released_depth_loss((logits + s * step).detach().softmax(2), depth, SMALL) for s in (1, -1))
        assert gradient.view(-1)[k].item() == pytest.approx((up - down).item() / 2e-4, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_depth_loss_is_finite_in_float32_under_autocast_however_sure_the_network_is(dtype):
    _, depth = scene()
    logits = torch.zeros(2, 3, SMALL.count, 4, 5, dtype=dtype)
    logits[:, :, 5] = 3e4  # softmax is exactly one-hot here, mostly at the wrong bin
    logits.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = depth_loss(logits, depth, SMALL)
    assert loss.dtype == torch.float32 and torch.isfinite(loss) and loss > 1e4
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all() and gradient.abs().max() < 10


def test_a_distribution_of_another_size_is_named():
    logits, depth = scene()
    with pytest.raises(ValueError, match="depth bins"):
        depth_loss(logits, depth, BINS)
    with pytest.raises(ValueError, match="probability"):
        fuse_prior(logits.softmax(2), depth[..., :3], SMALL)
    with pytest.raises(ConfigError, match="weight"):
        fuse_prior(logits.softmax(2), depth, SMALL, weight=0)
