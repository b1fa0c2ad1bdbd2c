"""Splat: the depth-weighted sum of context features in every BEV cell, without materialised frustum features.

Pooling is an embedding bag: the bags are cells, the table holds the context rows, the weight of an entry is its depth
probability. The gradient of the context is an embedding bag too, with the entries sorted by feature pixel; the gradient
of a depth probability is the inner product of its context row with the gradient of its cell.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, pad

from perception.detection.view_transform import PoolIndex


class _WeightedBag(torch.autograd.Function):
    """(depth.numel(),) and (num_features, C) to (num_cells, C)."""

    @staticmethod
    def forward(ctx, depth: Tensor, rows: Tensor, index: PoolIndex) -> Tensor:
        ctx.save_for_backward(depth, rows)
        ctx.index = index
        return _bag(rows, index.feature, index.cell_offsets, depth[index.depth])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (depth, rows), index = ctx.saved_tensors, ctx.index
        grad = grad.contiguous()
        grad_depth = grad_rows = None
        if ctx.needs_input_grad[0]:
            # <rows[feature[p]], grad[cell[p]]>
            products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                grad, rows, index.feature, index.cell_offsets[:-1], index.cell, 0
            )
            grad_depth = torch.zeros_like(depth)
            grad_depth[index.depth] = products
        if ctx.needs_input_grad[1]:
            order = index.by_feature
            grad_rows = _bag(grad, index.cell[order], index.feature_offsets, depth[index.depth[order]])
        return grad_depth, grad_rows, None


def _bag(table: Tensor, entries: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    return embedding_bag(entries, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def bev_pool(depth: Tensor, context: Tensor, index: PoolIndex) -> Tensor:
    """BEV map of a lifted feature map: BEV[cell] = sum over its frustum points of depth * context.

    Args: depth (B, N, D, h, w) probabilities; context (B, N, C, h, w); index of the same shapes, on the same device.
    Returns: (B, C*Z, Y, X) as `as_map`, in context's dtype, summed in at least float32. A single slab comes in
        channels-last memory, so that no transposition is paid.
    Raises: ValueError if a shape differs from the index's.
    """
    _check(depth, context, index)
    C, dtype = context.shape[2], torch.promote_types(context.dtype, torch.float32)
    rows = context.permute(0, 1, 3, 4, 2).reshape(-1, C).to(dtype)
    cells = _WeightedBag.apply(depth.reshape(-1).to(dtype), rows, index)
    return as_map(cells, index.volume_shape).to(context.dtype)


def as_map(cells: Tensor, volume_shape: tuple[int, int, int, int]) -> Tensor:
    """Pooled cells (B*Z*Y*X, C) as a BEV map (B, C*Z, Y, X): channel c*Z + z is context channel c in slab z."""
    B, Z, Y, X = volume_shape
    C = cells.shape[1]
    return cells.view(B, Z, Y, X, C).permute(0, 4, 1, 2, 3).reshape(B, C * Z, Y, X)


def scatter_pool(
    depth: Tensor, rows: Tensor, depth_index: Tensor, feature_index: Tensor, cell_index: Tensor, num_cells: int
) -> Tensor:
    """Pooling as one ScatterElements with reduction "add" (opset >= 16), for export. Cells in any order.

    Args: depth (B*N*D*h*w,); rows (B*N*h*w, C); the three parts of a `PoolIndex`, (P,) int64, P may be dynamic.
    Returns: (num_cells, C).
    """
    # Not index_add or index_put: they become ScatterND, whose threads overwrite one another's sums on ONNX Runtime's
    # CPU provider, or lose the reduction (TorchScript exporter). The channel-first form avoids its slowest loop.
    lifted = rows.index_select(0, feature_index).t() * depth.index_select(0, depth_index)
    cells = rows.new_zeros(rows.shape[1], num_cells)
    return cells.scatter_add(1, cell_index.expand(rows.shape[1], -1), lifted).t()


def sorted_pool(
    depth: Tensor, rows: Tensor, depth_index: Tensor, feature_index: Tensor, cell_index: Tensor, num_cells: int
) -> Tensor:
    """Pooling as differences of a running sum, for export: no floating-point scatter, any number of threads.

    Arguments and result of `scatter_pool`, but `cell_index` must ascend. Rows are summed within blocks of 64, blocks in
    float64, so that the differences keep float32's digits.
    """
    P, C, block = depth_index.shape[0], rows.shape[1], 64
    count = P // block + 1
    filling = (1, count * block - P - 1)  # one empty entry in front: the sum before the first
    weight = pad(depth.index_select(0, depth_index), filling).view(count, block, 1)
    inner = (weight * rows.index_select(0, pad(feature_index, filling)).view(count, block, C)).cumsum(1)
    outer = pad(inner[:, -1].double().cumsum(0), (0, 0, 1, 0))
    inner = inner.view(-1, C)
    population = torch.zeros(num_cells, dtype=torch.int64, device=rows.device)
    population = population.scatter_add(0, cell_index, torch.ones_like(cell_index))
    stop = population.cumsum(0)
    start = stop - population
    blocks = outer.index_select(0, stop // block) - outer.index_select(0, start // block)
    return blocks.to(rows.dtype) + (inner.index_select(0, stop) - inner.index_select(0, start))


def bev_pool_index_add(depth: Tensor, context: Tensor, index: PoolIndex) -> Tensor:
    """Reference: all frustum features, then one index_add. Same arguments and result as `bev_pool`."""
    _check(depth, context, index)
    lifted = _frustum_features(depth, context)
    cells = lifted.new_zeros(index.num_cells, lifted.shape[1])
    return as_map(cells.index_add(0, index.cell, lifted[index.depth]), index.volume_shape)


def bev_pool_cumsum(depth: Tensor, context: Tensor, index: PoolIndex) -> Tensor:
    """Reference: all frustum features sorted by cell, their running sum, and its differences where the cell changes.

    This is the plain form of Lift, Splat, Shoot (arXiv 2008.05711). In float32 the running sum costs digits.
    """
    _check(depth, context, index)
    sums, cell = segment_sums(_frustum_features(depth, context)[index.depth], index.cell)
    return as_map(sums.new_zeros(index.num_cells, sums.shape[1]).index_copy(0, cell, sums), index.volume_shape)


class _SegmentSums(torch.autograd.Function):
    """Backward copies a segment's gradient to its rows instead of going through the running sum."""

    @staticmethod
    def forward(ctx, rows: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        last = torch.ones_like(key, dtype=torch.bool)
        last[:-1] = key[1:] != key[:-1]
        ctx.save_for_backward(last)
        sums = rows.cumsum(0)[last]
        sums = torch.cat([sums[:1], sums[1:] - sums[:-1]])
        key = key[last]
        ctx.mark_non_differentiable(key)
        return sums, key

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _):
        (last,) = ctx.saved_tensors
        return grad[last.cumsum(0) - last.long()], None


def segment_sums(rows: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of rows (P, C) with equal, ascending keys (P,) by a running sum: (S, C), and the S distinct keys."""
    return _SegmentSums.apply(rows, key)


def _frustum_features(depth: Tensor, context: Tensor) -> Tensor:
    """(B*N*D*h*w, C): every frustum point's feature."""
    C = context.shape[2]
    return (depth.unsqueeze(-1) * context.permute(0, 1, 3, 4, 2).unsqueeze(2)).reshape(-1, C)


def _check(depth: Tensor, context: Tensor, index: PoolIndex) -> None:
    B, N, D, h, w = index.frustum_shape
    if depth.shape != (B, N, D, h, w) or context.dim() != 5 or context[:, :, 0].shape != (B, N, h, w):
        raise ValueError(
            f"depth is {tuple(depth.shape)} and context {tuple(context.shape)}; the index wants {(B, N, D, h, w)} and "
            f"{(B, N, 'C', h, w)}: build it from the same frustum (build_pool_index)"
        )
