"""Pooling: agreement of all forms, gradients, conservation, equivariance, export."""

import io
import math

import pytest
import torch

from perception.detection.bev_pool import (
    as_map,
    bev_pool,
    bev_pool_cumsum,
    bev_pool_index_add,
    scatter_pool,
    sorted_pool,
)
from perception.detection.grid import DepthBins, GridSpec
from perception.detection.view_transform import build_pool_index, frustum, lift_points

GRID = GridSpec(x=(-6.0, 6.0, 1.0), y=(-8.0, 4.0, 0.5), z=(-4.0, 4.0, 4.0))  # X = 12, Y = 24, Z = 2
BINS = DepthBins(low=1.0, high=13.0, step=0.5)
WIDE = GridSpec(x=(-16.0, 16.0, 0.8), y=(-16.0, 16.0, 0.8))
COVERING = GridSpec(x=(-64.0, 64.0, 1.0), y=(-64.0, 64.0, 1.0), z=(-64.0, 64.0, 128.0))


def random_case(grid=GRID, dtype=torch.float64, B=2, N=3, D=7, h=4, w=5, C=6):
    index = build_pool_index(torch.randn(B, N, D, h, w, 3) * 4, grid)
    return torch.rand(B, N, D, h, w, dtype=dtype), torch.randn(B, N, C, h, w, dtype=dtype), index


def lift(bev_aug=None, cameras=4, image_hw=(64, 96)):
    """Points of cameras looking all around, obliquely, from near the origin: (1, N, D, 4, 6, 3)."""
    turns = [2 * math.pi * k / cameras + 0.3 for k in range(cameras)]
    cam2lidar = torch.eye(4).repeat(1, cameras, 1, 1)
    for k, a in enumerate(turns):
        right, forward = torch.tensor([math.cos(a), math.sin(a), 0.0]), torch.tensor([-math.sin(a), math.cos(a), 0.0])
        cam2lidar[0, k, :3, :3] = torch.stack([right, torch.tensor([0.0, 0.0, -1.0]), forward], 1)
        cam2lidar[0, k, :3, 3] = 0.7 * forward + torch.tensor([0.13, 0.07, -0.3])
    cam2img = torch.tensor([[60.0, 0, 47], [0, 60, 33], [0, 0, 1]]).expand(1, cameras, 3, 3)
    identity = torch.eye(3).expand(1, cameras, 3, 3)
    bev_aug = torch.eye(4) if bev_aug is None else bev_aug
    return lift_points(frustum(image_hw, 16, BINS), cam2img, cam2lidar, identity, bev_aug[None])


def brute_force(depth, context, index):
    (B, Z, Y, X), C = index.volume_shape, context.shape[2]
    cells = torch.zeros(B * Z * Y * X, C, dtype=depth.dtype)
    rows = context.permute(0, 1, 3, 4, 2).reshape(-1, C)
    for d, f, c in zip(index.depth.tolist(), index.feature.tolist(), index.cell.tolist(), strict=True):
        cells[c] += depth.flatten()[d] * rows[f]
    bev = torch.zeros(B, C * Z, Y, X, dtype=depth.dtype)
    for b in range(B):
        for c in range(C):
            for z in range(Z):
                bev[b, c * Z + z] = cells.view(B, Z, Y, X, C)[b, z, :, :, c]
    return bev


@pytest.mark.parametrize("pool", [bev_pool, bev_pool_index_add, bev_pool_cumsum])
def test_every_form_equals_the_loop_over_triples_in_float64(pool):
    depth, context, index = random_case()
    assert len(index.cell) > 100
    torch.testing.assert_close(pool(depth, context, index), brute_force(depth, context, index), rtol=0, atol=1e-10)


def test_pooling_in_float32_keeps_five_digits():
    depth, context, index = random_case(dtype=torch.float32)
    want = brute_force(depth.double(), context.double(), index)
    torch.testing.assert_close(bev_pool(depth, context, index).double(), want, rtol=0, atol=1e-5)


def test_gradients_of_depth_and_context_pass_gradcheck():
    depth, context, index = random_case(B=1, N=2, D=3, h=2, w=2, C=3)
    assert len(index.cell) > 10
    assert torch.autograd.gradcheck(
        lambda d, c: bev_pool(d, c, index), (depth.requires_grad_(), context.requires_grad_())
    )


@pytest.mark.parametrize("pool", [bev_pool, bev_pool_cumsum])
def test_the_depth_gradient_is_the_product_of_feature_and_cell_gradient(pool):
    depth, context, index = random_case(GridSpec(x=(-6.0, 6.0, 1.0), y=(-6.0, 6.0, 1.0)))
    bev = pool(depth.requires_grad_(), context.requires_grad_(), index)
    weight = torch.randn_like(bev)
    (bev * weight).sum().backward()
    rows = context.detach().permute(0, 1, 3, 4, 2).reshape(-1, context.shape[2])
    cells = weight.permute(0, 2, 3, 1).reshape(-1, context.shape[2])
    want = torch.zeros(depth.numel(), dtype=depth.dtype)
    want[index.depth] = (rows[index.feature] * cells[index.cell]).sum(1)
    torch.testing.assert_close(depth.grad.flatten(), want)
    want = torch.zeros_like(rows).index_add(
        0, index.feature, depth.detach().flatten()[index.depth, None] * cells[index.cell]
    )
    torch.testing.assert_close(context.grad.permute(0, 1, 3, 4, 2).reshape(rows.shape), want)


def test_only_the_gradients_that_are_asked_for_are_computed():
    depth, context, index = random_case()
    bev_pool(depth.requires_grad_(), context, index).sum().backward()
    assert depth.grad is not None and context.grad is None


def test_mass_is_one_per_feature_pixel_when_the_grid_covers_everything():
    points = lift()
    depth = torch.randn(points.shape[:-1], dtype=torch.float64).softmax(2)
    context = torch.ones(1, 4, 1, *points.shape[3:5], dtype=torch.float64)
    assert bev_pool(depth, context, build_pool_index(points, COVERING)).sum().item() == pytest.approx(4 * 4 * 6)


def test_mass_on_a_small_grid_is_the_probability_of_the_points_inside():
    points = lift()
    depth = torch.randn(points.shape[:-1], dtype=torch.float64).softmax(2)
    index = build_pool_index(points, GRID)
    _, inside = GRID.cells(points)
    bev = bev_pool(depth, torch.ones(1, 4, 1, 4, 6, dtype=torch.float64), index)
    assert 1 < inside.sum() < inside.numel()
    assert bev.sum().item() == pytest.approx(depth[inside].sum().item())


def test_a_one_hot_pixel_lands_in_the_one_cell_that_contains_its_point():
    points = lift()
    index = build_pool_index(points, WIDE)
    n, i, j, k = 2, 3, 1, 9
    depth = torch.zeros(points.shape[:-1])
    depth[0, n, k, i, j] = 1
    context = torch.ones(1, 4, 1, 4, 6)
    x, y, _ = points[0, n, k, i, j].tolist()
    bev = bev_pool(depth, context, index)[0, 0]
    assert bev.nonzero().tolist() == [[math.floor((y + 16) / 0.8), math.floor((x + 16) / 0.8)]]
    assert bev.sum() == 1


@pytest.mark.parametrize(
    ("diagonal", "dims"), [((-1.0, 1.0), (3,)), ((1.0, -1.0), (2,)), ((-1.0, -1.0), (2, 3))], ids=["x", "y", "xy"]
)
def test_a_flipped_scene_pools_to_the_flipped_map(diagonal, dims):
    flip = torch.diag(torch.tensor([*diagonal, 1.0, 1.0]))
    points = lift()
    depth, context = torch.rand(points.shape[:-1]), torch.randn(1, 4, 3, 4, 6)
    plain = bev_pool(depth, context, build_pool_index(points, WIDE))
    flipped = bev_pool(depth, context, build_pool_index(lift(flip), WIDE))
    assert (plain - plain.flip(dims)).abs().max() > 0.1
    torch.testing.assert_close(flipped, plain.flip(dims), rtol=0, atol=1e-5)


def test_a_scene_turned_by_90_degrees_pools_to_the_turned_map():
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # x to y, y to -x
    points = lift()
    depth, context = torch.rand(points.shape[:-1]), torch.randn(1, 4, 3, 4, 6)
    plain = bev_pool(depth, context, build_pool_index(points, WIDE))
    turned = bev_pool(depth, context, build_pool_index(lift(turn), WIDE))
    torch.testing.assert_close(turned, plain.transpose(2, 3).flip(3), rtol=0, atol=1e-5)


def test_samples_of_a_batch_do_not_mix():
    depth, context, _ = random_case(B=2)
    points = torch.randn(2, 3, 7, 4, 5, 3) * 4
    both = bev_pool(depth, context, build_pool_index(points, GRID))
    for b in range(2):
        alone = bev_pool(depth[b : b + 1], context[b : b + 1], build_pool_index(points[b : b + 1], GRID))
        torch.testing.assert_close(both[b : b + 1], alone)


def test_no_point_in_the_grid_gives_a_zero_map_and_zero_gradients():
    depth, context, _ = random_case()
    index = build_pool_index(torch.full((2, 3, 7, 4, 5, 3), 1e3), GRID)
    bev = bev_pool(depth.requires_grad_(), context.requires_grad_(), index)
    bev.sum().backward()
    assert len(index.cell) == 0 and bev.shape == (2, 12, 24, 12)
    assert not bev.any() and not depth.grad.any() and not context.grad.any()


def test_one_slab_comes_in_channels_last_memory():
    depth, context, index = random_case(WIDE)
    assert bev_pool(depth, context, index).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_context_is_summed_in_float32(dtype):
    depth, context, index = random_case(dtype=torch.float32)
    context = context.to(dtype)
    bev = bev_pool(depth, context, index)
    assert bev.dtype == dtype
    torch.testing.assert_close(bev, bev_pool(depth, context.float(), index).to(dtype), rtol=0, atol=0)


def test_shapes_that_differ_from_the_index_are_named():
    depth, context, index = random_case()
    with pytest.raises(
        ValueError, match=r"depth is \(2, 3, 6, 4, 5\) and context \(2, 3, 6, 4, 5\).*wants \(2, 3, 7, 4, 5\)"
    ):
        bev_pool(depth[:, :, :6], context, index)
    with pytest.raises(ValueError, match="build it from the same frustum"):
        bev_pool(depth, context[..., :4], index)


def flat_case(**kwargs):
    depth, context, index = random_case(**kwargs)
    rows = context.permute(0, 1, 3, 4, 2).reshape(-1, context.shape[2])
    return bev_pool(depth, context, index), (depth.flatten(), rows, index.depth, index.feature, index.cell), index


@pytest.mark.parametrize("form", [scatter_pool, sorted_pool])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, None])
def test_the_export_forms_equal_the_bag_for_any_number_of_points(form, count):
    _, arguments, index = flat_case()
    arguments = arguments[:2] + tuple(a[:count] for a in arguments[2:])
    depth, rows, d, f, c = arguments
    want = torch.zeros(index.num_cells, rows.shape[1], dtype=rows.dtype).index_add(0, c, depth[d, None] * rows[f])
    torch.testing.assert_close(form(*arguments, index.num_cells), want, rtol=0, atol=1e-10)


def onnx_session(form, arguments, num_cells, threads):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Pool(torch.nn.Module):
        def forward(self, depth, rows, depth_index, feature_index, cell_index):
            return form(depth, rows, depth_index, feature_index, cell_index, num_cells)

    points = {0: torch.export.Dim("P", min=2)}
    example = arguments[:2] + tuple(a[:50] for a in arguments[2:])
    program = torch.onnx.export(
        Pool().eval(),
        example,
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({}, {}, points, points, points),
        verbose=False,
    )
    file = io.BytesIO()
    program.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

    def run(*arrays):
        names = [i.name for i in session.get_inputs()]
        return torch.from_numpy(session.run(None, dict(zip(names, (a.numpy() for a in arrays), strict=True)))[0])

    return run


@pytest.mark.parametrize("form", [scatter_pool, sorted_pool])
def test_the_onnx_graph_equals_the_bag_in_float64_for_another_number_of_points(form):
    bev, arguments, index = flat_case()
    run = onnx_session(form, arguments, index.num_cells, threads=2)
    torch.testing.assert_close(as_map(run(*arguments), index.volume_shape), bev, rtol=0, atol=1e-10)
    none = arguments[:2] + tuple(a[:0] for a in arguments[2:])
    assert not run(*none).any()


@pytest.mark.parametrize("form", [scatter_pool, sorted_pool])
def test_the_onnx_graph_loses_no_sum_when_threads_meet_in_one_cell(form):
    """ScatterND with reduction "add" fails here: its threads overwrite one another."""
    P, F, C = 60_000, 40, 16
    depth, rows = torch.rand(P), torch.rand(F, C)
    d, f, c = torch.arange(P), torch.randint(F, (P,)), torch.zeros(P, dtype=torch.int64)
    run = onnx_session(form, (depth, rows, d, f, c), 4, threads=4)
    want = (depth.double()[:, None] * rows.double()[f]).sum(0)
    for _ in range(5):
        # float32 sums of 60,000 terms one after another: up to some 1e-4 relative
        torch.testing.assert_close(run(depth, rows, d, f, c)[0].double(), want, rtol=1e-4, atol=0)
