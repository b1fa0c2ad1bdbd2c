import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import ConfigError
from perception.datasets.transforms.lidar import depth_maps
from perception.detection.bev_pool import bev_pool
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


def test_a_lidar_point_reaches_the_bev_through_the_prior_in_exactly_the_cell_of_its_bin_point(detector, batch):
    """Check 4 as a chain: point, depth map, block minimum, prior, lift, pool. The context marks one feature pixel."""
    core = detector(lidar_prior=True).core
    inputs, _ = batch(0)
    point = np.array([[3.3, 9.6, 0.7]])  # in front of camera 0, which looks along +y
    cam2lidar, cam2img = inputs["cam2lidar"][0].double().numpy(), inputs["cam2img"][0].double().numpy()
    img_aug = inputs["img_aug"][0].double().numpy()
    maps = depth_maps(point, np.linalg.inv(cam2lidar), cam2img, img_aug, core.image_hw, low=1.0, high=17.0)
    nearest = block_minimum(torch.from_numpy(maps)[None], core.stride)
    ((camera, row, column),) = nearest[0].nonzero().tolist()
    assert camera == 0 and nearest[0, camera, row, column] == pytest.approx(9.6)

    one = {key: value[:1] for key, value in inputs.items() if isinstance(value, torch.Tensor)}
    points, index = core.lifted_points(one)
    logits = torch.randn(1, 2, core.depth_bins.count, *nearest.shape[-2:])
    fused = core.depth_distribution(logits, nearest)
    context = torch.zeros(1, 2, 1, *nearest.shape[-2:])
    context[0, camera, 0, row, column] = 1
    pooled = bev_pool(fused, context, index)[0, 0]
    ((y, x),) = pooled.nonzero().tolist()
    assert pooled[y, x] == 1
    lifted = points[0, camera, 8, row, column]  # bin 8 of width 1 m from 1 m on covers [9, 10) m
    low = torch.tensor([core.grid.x[0], core.grid.y[0]])
    assert [x, y] == torch.floor((lifted[:2] - low) / 1.0).tolist()
    # within a bin's depth and half a block of 8 pixels, at a focal length of 40 pixels, of the point itself
    assert np.abs(lifted[:2].numpy() - point[0, :2]).max() < 1.0 + 4.5 / 40 * 9.6
