"""Convolutions over the tables of `tables.py`: each is a gather, one or several products, and a sum.

Kernels are (27, C, C') for 3 x 3 x 3 and (8, C, C') for 2 x 2 x 2 with stride 2 and its transpose, without bias. Two
forms of the 3 x 3 x 3 convolution give the same numbers: `padded` gathers all 27 neighbours and makes one product (it
exports to ONNX), `paired` touches existing neighbours only: at the start of diffusion voxels are nearly alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.nn.sparse.tables import CENTRE, Level, Pairs, Rows


def pad_row(x: Tensor) -> Tensor:
    """(V + 1, C): a row of zeros behind, for missing neighbours."""
    return F.pad(x, (0, 0, 0, 1))


def sum_rows(values: Tensor, at: Rows) -> Tensor:
    """(count, C): row i is the sum of the values (M, C) at the positions that name row i."""
    return F.embedding_bag(at.order, values, at.start[:-1], mode="sum")


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, at: Rows) -> Tensor:
        ctx.at = at
        return x.index_select(0, at.index)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return sum_rows(gradient.contiguous(), ctx.at), None


def gather(x: Tensor, at: Rows) -> Tensor:
    """x[at.index], (V, C) -> (M, C). Its gradient is summed row by row instead of scattered: several times as quick on
    a CPU, and deterministic on a GPU."""
    return x.index_select(0, at.index) if torch.compiler.is_compiling() else _Gather.apply(x, at)


class _Rearrange(torch.autograd.Function):
    """x[there] with rows of zeros where `there` names none; every row is named at most once, and `back` says where."""

    @staticmethod
    def forward(ctx, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return _take(x, there)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (back,) = ctx.saved_tensors
        return _take(gradient, back), None, None


def _take(x: Tensor, there: Tensor) -> Tensor:
    return pad_row(x).index_select(0, there)


def rearrange(x: Tensor, there: Tensor, back: Tensor) -> Tensor:
    """Rows of x in another order; missing ones are 0, on the way there and, for gradients, on the way back."""
    return _take(x, there) if torch.compiler.is_compiling() else _Rearrange.apply(x, there, back)


def conv3_padded(x: Tensor, kernel: Tensor, neighbours: Tensor) -> Tensor:
    """(V, C) -> (V, C') by one product of (V, 27 C)."""
    return _take(x, neighbours.reshape(-1)).reshape(len(x), -1) @ kernel.flatten(0, 1)


class _Paired(torch.autograd.Function):
    """x W_centre + sum over the other offsets of A_k x W_k, A_k the occupied pairs of an offset."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, pairs: Pairs) -> Tensor:
        gathered = x.index_select(0, pairs.source.index)
        ctx.pairs = pairs
        ctx.save_for_backward(x, gathered, kernel)
        return (x @ kernel[CENTRE]).add_(sum_rows(_products(gathered, kernel, pairs.sizes), pairs.target))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        x, gathered, kernel = ctx.saved_tensors
        pairs, gradient = ctx.pairs, gradient.contiguous()
        spread = gradient.index_select(0, pairs.target.index)
        d_x = d_kernel = None
        if ctx.needs_input_grad[0]:
            d_x = gradient @ kernel[CENTRE].T
            d_x.add_(sum_rows(_products(spread, kernel.transpose(1, 2), pairs.sizes), pairs.source))
        if ctx.needs_input_grad[1]:
            d_kernel = torch.zeros_like(kernel)
            parts = zip(gathered.split(pairs.sizes), spread.split(pairs.sizes), strict=True)
            for k, (source, target) in enumerate(parts):
                if len(source):
                    torch.mm(source.T, target, out=d_kernel[k])
            torch.mm(x.T, gradient, out=d_kernel[CENTRE])
        return d_x, d_kernel, None


def _products(given: Tensor, kernel: Tensor, sizes: list[int]) -> Tensor:
    """(M, C'): the rows (M, C) of every offset by its own matrix."""
    out = given.new_empty(len(given), kernel.shape[-1])
    first = 0
    for k, size in enumerate(sizes):
        if size:
            torch.mm(given[first : first + size], kernel[k], out=out[first : first + size])
        first += size
    return out


def conv3_paired(x: Tensor, kernel: Tensor, pairs: Pairs) -> Tensor:
    """(V, C) -> (V, C') over existing neighbours only."""
    return _Paired.apply(x, kernel, pairs)


def conv3(x: Tensor, kernel: Tensor, level: Level) -> Tensor:
    """3 x 3 x 3, stride 1, output voxels = input voxels: (V, C) -> (V, C'). By pairs where gradients may be wanted,
    which gather what exists instead of 27 rows each; an exported graph has the padded form."""
    if torch.compiler.is_compiling():
        return conv3_padded(x, kernel, level.neighbours)
    return conv3_paired(x, kernel, level.pairs)


def down2(x: Tensor, kernel: Tensor, level: Level) -> Tensor:
    """2 x 2 x 2 with stride 2, from level to the next: (V, C) -> (V of the next level, C')."""
    children = rearrange(x, level.child.reshape(-1), level.place)
    return children.reshape(len(level.child), -1) @ kernel.flatten(0, 1)


def up2(x: Tensor, kernel: Tensor, level: Level) -> Tensor:
    """Transpose of `down2` onto level's voxels: (V of the next level, C) -> (V, C')."""
    children = (x @ kernel.transpose(0, 1).flatten(1)).reshape(-1, kernel.shape[-1])
    return rearrange(children, level.place, level.child.reshape(-1))


def voxel_mean(features: Tensor, at: Rows) -> Tensor:
    """(P, C) -> (V, C): unweighted mean of the points of every voxel."""
    return sum_rows(features, at) / (at.start[1:] - at.start[:-1])[:, None]


def kernel(places: int, inputs: int, outputs: int) -> nn.Parameter:
    """A kernel as He et al. draw it (arXiv 1502.01852), as if all its places were occupied."""
    return nn.Parameter(torch.randn(places, inputs, outputs) * (2 / (inputs * places)) ** 0.5)
