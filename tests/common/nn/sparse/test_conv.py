"""Sparse convolutions equal dense ones read at occupied voxels, forwards and backwards, in both forms."""

import pytest
import torch
import torch.nn.functional as F

from common.nn.sparse.conv import (
    conv3_padded,
    conv3_paired,
    down2,
    gather,
    kernel,
    rearrange,
    sum_rows,
    up2,
    voxel_mean,
)
from common.nn.sparse.tables import rows, stacked_tables

SIDE = 12


def setup(C=5, dtype=torch.float64, levels=2, points=250):
    """Tables, features, and where the voxels lie in a dense grid whose cells begin at even coordinates."""
    g = torch.Generator().manual_seed(0)
    made = stacked_tables(torch.rand(2, points, 3, generator=g) * 2.4 - 1.2, 0.25, levels)
    x = torch.randn(len(made.levels[0]), C, dtype=dtype, generator=g)
    return made, x, g


def dense(x, level, side=SIDE):
    """(B, C, side, side, side) with x at the level's voxels."""
    grid = x.new_zeros(level.samples, side, side, side, x.shape[1])
    i, j, k = (level.coords + side // 2).unbind(-1)
    return grid.index_put((level.sample, i, j, k), x).permute(0, 4, 1, 2, 3)


def read(grid, level, side=SIDE):
    i, j, k = (level.coords + side // 2).unbind(-1)
    return grid.permute(0, 2, 3, 4, 1)[level.sample, i, j, k]


def compare(sparse, plain, *inputs):
    """Values and gradients with respect to all inputs."""
    weights = torch.randn(sparse.shape, dtype=sparse.dtype, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sparse, plain, rtol=0, atol=1e-10)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), inputs) for out in (sparse, plain))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["padded", "paired"])
def test_conv3_is_the_dense_convolution_at_occupied_voxels(form):
    made, x, g = setup()
    level, weight = made.levels[0], torch.randn(27, 5, 7, dtype=torch.float64, generator=g)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    out = conv3_padded(x, weight, level.neighbours) if form == "padded" else conv3_paired(x, weight, level.pairs)
    dense_weight = weight.reshape(3, 3, 3, 5, 7).permute(4, 3, 0, 1, 2)
    compare(out, read(F.conv3d(dense(x, level), dense_weight, padding=1), level), x, weight)


def test_down2_is_the_dense_strided_convolution():
    made, x, g = setup()
    weight = torch.randn(8, 5, 7, dtype=torch.float64, generator=g).requires_grad_()
    x, (fine, coarse) = x.requires_grad_(), made.levels
    dense_weight = weight.reshape(2, 2, 2, 5, 7).permute(4, 3, 0, 1, 2)
    plain = read(F.conv3d(dense(x, fine), dense_weight, stride=2), coarse, SIDE // 2)
    compare(down2(x, weight, fine), plain, x, weight)


def test_up2_is_the_dense_transposed_convolution_onto_the_finer_voxels():
    made, _, g = setup()
    weight = torch.randn(8, 5, 7, dtype=torch.float64, generator=g).requires_grad_()
    fine, coarse = made.levels
    x = torch.randn(len(coarse), 5, dtype=torch.float64, generator=g).requires_grad_()
    dense_weight = weight.reshape(2, 2, 2, 5, 7).permute(3, 4, 0, 1, 2)
    plain = read(F.conv_transpose3d(dense(x, coarse, SIDE // 2), dense_weight, stride=2), fine)
    compare(up2(x, weight, fine), plain, x, weight)


def test_gradients_are_those_of_finite_differences():
    made, x, g = setup(C=2, points=12)
    level = made.levels[0]
    x = x.requires_grad_()
    weight, step = (torch.randn(n, 2, 3, dtype=torch.float64, generator=g).requires_grad_() for n in (27, 8))
    assert torch.autograd.gradcheck(lambda x, w: conv3_paired(x, w, level.pairs), (x, weight))
    assert torch.autograd.gradcheck(lambda x, w: down2(x, w, level), (x, step))
    coarse = torch.randn(len(made.levels[1]), 2, dtype=torch.float64, generator=g).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: up2(x, w, level), (coarse, step))
    assert torch.autograd.gradcheck(lambda x: gather(x, made.of_points), (x,))
    assert torch.autograd.gradcheck(lambda x: rearrange(x, level.child.reshape(-1), level.place), (x,))


def test_a_voxels_feature_is_the_mean_of_its_points():
    made, _, g = setup()
    points = torch.randn(500, 3, generator=g)
    mean = voxel_mean(points, made.of_points)
    for row in range(0, len(mean), 17):
        torch.testing.assert_close(mean[row], points[made.point2voxel == row].mean(0))


def test_sums_of_rows_that_nobody_names_are_zero():
    at = rows(torch.tensor([2, 0, 2]), 4)
    values = torch.tensor([[1.0], [2.0], [4.0]])
    assert sum_rows(values, at)[:, 0].tolist() == [2, 0, 5, 0]


def test_kernels_keep_the_variance_of_relu_features_where_all_places_are_occupied():
    torch.manual_seed(0)
    x = torch.randn(4000, 27 * 16).relu()
    out = x @ kernel(27, 16, 32).detach().flatten(0, 1)
    assert out.square().mean().item() == pytest.approx(2 * x.square().mean().item(), rel=0.05)
