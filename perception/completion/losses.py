"""Training losses of completion: noise prediction (LiDiff, CVPR 2024) and squared Chamfer distance."""

import torch
from scipy.spatial import cKDTree
from torch import Tensor

CHUNK = 4096  # rows of a distance matrix on a GPU


def noise_loss(eps_hat: Tensor, eps: Tensor, regulariser: float = 0.0) -> Tensor:
    """mean((eps_hat - eps)^2) + regulariser (mean(eps_hat)^2 + (std(eps_hat) - 1)^2), both statistics over all entries.

    The released teacher uses 5. On densely sampled surfaces only the noise along the normal can be told, so the best
    possible error is about 2/3, and the regulariser inflates the prediction to about 1.6 times the conditional mean: no
    score to distil from. Hence 0.

    Args: eps_hat, eps (B, N, 3).
    """
    error = (eps_hat - eps).square().mean()
    if not regulariser:
        return error
    return error + regulariser * (eps_hat.mean().square() + (eps_hat.std(unbiased=False) - 1).square())


@torch.no_grad()
def nearest(query: Tensor, reference: Tensor) -> Tensor:
    """(N,) indices into reference (M, 3) of the point nearest to each of query (N, 3): a k-d tree on the CPU, distances
    in chunks elsewhere."""
    if query.device.type == "cpu":
        return torch.from_numpy(cKDTree(reference.detach().numpy()).query(query.detach().numpy())[1])
    return torch.cat([torch.cdist(part, reference).argmin(1) for part in query.split(CHUNK)])


def squared_chamfer(points: Tensor, truth: Tensor) -> Tensor:
    """(B,) square metres: mean squared distance of the points to the truth's nearest plus that of the truth to the
    points' nearest; gradients flow to `points` through both halves (pytorch3d's loss, which LiDiff's refinement uses).

    Args: points (B, N, 3), truth (B, M, 3) or a sequence of (M_b, 3).
    """
    halves = []
    for cloud, scene in zip(points, truth, strict=True):
        there, back = scene[nearest(cloud, scene)], cloud[nearest(scene, cloud)]
        halves.append((cloud - there).square().sum(-1).mean() + (scene - back).square().sum(-1).mean())
    return torch.stack(halves)
