"""LiDAR as a depth prior: depth maps to bins, the expert's fused distribution, the depth loss.

VCD (arXiv 2310.15670): the expert is the camera network whose depth distribution is replaced by the measured bin
wherever a LiDAR point falls into the feature pixel. A depth of 0 means "no point" throughout. The maps are made in the
pipeline (perception/datasets/transforms/lidar.py).
"""

import torch
from torch import Tensor

from common.errors import ConfigError
from perception.detection.grid import DepthBins


def _in_range(depth: Tensor, bins: DepthBins) -> Tensor:
    return (depth >= bins.low) & (depth < bins.high)


def block_minimum(depth: Tensor, stride: int) -> Tensor:
    """Smallest positive depth of every stride x stride block: (..., H, W) -> (..., H / stride, W / stride), 0 if none.

    Raises ConfigError if the image is not a whole number of blocks.
    """
    *batch, height, width = depth.shape
    if height % stride or width % stride:
        raise ConfigError(
            f"image {height}x{width}: not a multiple of the feature stride {stride}; use "
            f"{height // stride * stride}x{width // stride * stride}"
        )
    blocks = depth.reshape(*batch, height // stride, stride, width // stride, stride)
    nearest = torch.where(blocks > 0, blocks, torch.inf).amin(dim=(-3, -1))
    return torch.where(torch.isfinite(nearest), nearest, 0)


def depth_bin(depth: Tensor, bins: DepthBins) -> tuple[Tensor, Tensor]:
    """Bin of a depth and whether there is one: (...) metres -> (...) int64 in [0, D), (...) bool.

    Bin k covers [low + k*step, low + (k+1)*step); everything outside [low, high), zero and NaN included, is "no point"
    (bin 0, False). The edges are rounded to the depth's own dtype and compared, so no division can push a depth over an
    edge.
    """
    if depth.dtype != torch.float64:
        depth = depth.float()
    valid = _in_range(depth, bins)
    edges = bins.edges(depth.device, torch.float64).to(depth.dtype)
    index = torch.bucketize(depth.contiguous(), edges, right=True) - 1
    return torch.where(valid, index, 0), valid


def _one_hot(index: Tensor, count: int) -> Tensor:
    """(..., h, w) int64 -> (..., D, h, w) bool."""
    return index.unsqueeze(-3) == torch.arange(count, device=index.device)[:, None, None]


def _check_depth(name: str, tensor: Tensor, depth: Tensor, bins: DepthBins) -> None:
    wanted = (*depth.shape[:-2], bins.count, *depth.shape[-2:])
    if tensor.shape != wanted:
        raise ValueError(
            f"{name} is {tuple(tensor.shape)}, wanted {wanted} (..., D, h, w) for depth {tuple(depth.shape)} "
            f"and {bins.count} depth bins: check depth_bins and the feature stride"
        )


def fuse_prior(probability: Tensor, depth: Tensor, bins: DepthBins, weight: float = 1.0) -> Tensor:
    """P~ = m onehot(b) + (1 - m) P, with m = `weight` where the feature pixel has a LiDAR depth and 0 elsewhere.

    Args: probability (B, N, D, h, w), softmax over D; depth (B, N, h, w) metres, 0 = no point; weight in (0, 1], 1 is
        the paper's hard replacement (no gradient reaches P there).
    Returns: (B, N, D, h, w), bitwise equal to `probability` where there is no point.
    """
    if not 0 < weight <= 1:
        raise ConfigError(f"prior weight={weight}: must lie in (0, 1]")
    _check_depth("probability", probability, depth, bins)
    index, valid = depth_bin(depth, bins)
    prior = _one_hot(index, bins.count).to(probability.dtype)
    if weight < 1:
        prior = weight * prior + (1 - weight) * probability
    return torch.where(valid.unsqueeze(-3), prior, probability)


def depth_loss(logits: Tensor, depth: Tensor, bins: DepthBins, weight: float = 3.0) -> Tensor:
    """weight * sum over pixels with a depth and over all bins of BCE(softmax(logits), onehot) / max(1, those pixels).

    Args: logits (B, N, D, h, w) of the camera's distribution, before the prior is fused in; depth (B, N, h, w) metres.
    Returns: float32 scalar, 0 without points. It is computed in float32 from log-probabilities (also under autocast):
    nothing can leave [0, 1], and the gradient of a pixel stays bounded however sure the network is.
    """
    _check_depth("logits", logits, depth, bins)
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        index, valid = depth_bin(depth, bins)
        index = index.unsqueeze(-3)
        total = logits.logsumexp(-3, keepdim=True)
        log_p = logits - total
        # log(1 - p): of the likeliest bin by summing the others, so that 1 - p does not cancel; the rest have p <= 1/2
        top = logits.argmax(-3, keepdim=True)
        is_top = _one_hot(top.squeeze(-3), bins.count)
        log_rest = logits.masked_fill(is_top, -torch.inf).logsumexp(-3, keepdim=True) - total
        log_q = torch.log1p(-log_p.masked_fill(is_top, -torch.inf).exp())
        others = log_q.sum(-3, keepdim=True) - log_q.gather(-3, index) + torch.where(index == top, 0, log_rest)
        pixel = -(log_p.gather(-3, index) + others).squeeze(-3)
        return weight * torch.where(valid, pixel, 0).sum() / valid.sum().clamp_min(1)
