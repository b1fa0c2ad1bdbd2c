"""Earth mover's distance between clouds: as Distillation-DPO's released code computes it, and properly."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from perception.completion.cells import occupied

VOXEL = 0.5
MOST = 3000  # voxels of either cloud in the proper form
MOST_RELEASED = 20_000  # voxels of either cloud in the released form: two matrices of 3.2 GB
EXACT = 500  # points up to which the assignment is solved exactly


def voxel_masses(points: np.ndarray, voxel: float = VOXEL) -> tuple[np.ndarray, np.ndarray]:
    """Centres (V, 3) of the occupied voxels and the share of the points in each (V,)."""
    found, _, counts = occupied(points, voxel)
    return (found + 0.5) * voxel, counts / counts.sum()


def emd_released(first: np.ndarray, second: np.ndarray, iterations: int = 3000) -> float:
    """The published "EMD", for parity only: no earth mover's distance.

    Sinkhorn in the plain domain with the kernel exp(-C / 0.001) + 1e-9 on voxels of 0.5 m: exp(-500) underflows, so
    only mass in the very same voxel is matched and the rest is spread over the whole scene. It grows with the scene.
    nan for clouds of more than 20,000 voxels: the released code skips large ones, too.
    """
    (a, p), (b, q) = voxel_masses(first), voxel_masses(second)
    if max(len(a), len(b)) > MOST_RELEASED:
        return float("nan")
    cost = cdist(a, b)
    kernel = np.exp(-cost / 0.001) + 1e-9
    u = np.ones(len(a)) / len(a)
    for _ in range(iterations):
        v = q / (kernel.T @ u)
        new = p / (kernel @ v)
        change = np.abs(new - u).sum()
        u = new
        if change < 1e-4:
            break
    return float((u[:, None] * kernel * v * cost).sum())


def emd(first: np.ndarray, second: np.ndarray, voxel: float = VOXEL, blur: float = 0.02, seed: int = 0) -> float:
    """Metres that mass has to move on average: exact for two small clouds of equal size, else entropic transport in the
    log domain (blur 2 cm) between the means of occupied voxels, of at most 3,000 after random thinning."""
    if len(first) == len(second) <= EXACT:
        cost = cdist(first, second)
        return float(cost[linear_sum_assignment(cost)].mean())
    (a, p), (b, q) = (_thinned(one, voxel, seed) for one in (first, second))
    return sinkhorn(a, p, b, q, blur)


def emd_thinned(first: np.ndarray, second: np.ndarray, count: int = EXACT, seed: int = 0) -> float:
    """The exact distance between `count` random points of each cloud (all of them where there are fewer): a second
    where `emd` takes a minute. Two draws from one scene are not 0 but about half a spacing apart."""
    random = np.random.default_rng(seed)
    count = min(count, len(first), len(second))
    return emd(*(one[random.permutation(len(one))[:count]] for one in (first, second)))


def _thinned(points: np.ndarray, voxel: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean point and mass of occupied voxels (V, 3), (V,)."""
    _, inverse, counts = occupied(points, voxel)
    means = np.stack([np.bincount(inverse, column) for column in points.T], -1) / counts[:, None]
    if len(means) > MOST:
        kept = np.random.default_rng(seed).choice(len(means), MOST, replace=False)
        means, counts = means[kept], counts[kept]
    return means, counts / counts.sum()


def sinkhorn(a: np.ndarray, p: np.ndarray, b: np.ndarray, q: np.ndarray, blur: float, tolerance: float = 1e-3) -> float:
    """Mean distance of the entropic plan between masses p at a and q at b, its blur lowered from the scene's size to
    `blur` by halves. Scaling iterations on a kernel that absorbs its potentials (arXiv 1610.06519): the log domain's
    range at the cost of matrix products."""
    cost = cdist(a, b)
    f, g = np.zeros(len(a)), np.zeros(len(b))
    epsilon = max(cost.max(), blur)
    while True:
        f, g, plan = _scaled(cost, f, g, p, q, epsilon, 1000 if epsilon <= blur else 20, tolerance)
        if epsilon <= blur:
            return float((plan * cost).sum() / plan.sum())
        epsilon = max(epsilon / 2, blur)


def _scaled(cost, f, g, p, q, epsilon: float, iterations: int, tolerance: float):
    """Potentials and plan after so many iterations, or once the rows' masses are right to `tolerance`."""

    def kernel():
        return np.exp((f[:, None] + g - cost) / epsilon) * p[:, None] * q

    # one update in the log domain first, so that no row or column of the kernel vanishes
    f = -epsilon * logsumexp((g - cost) / epsilon, axis=1, b=q)
    g = -epsilon * logsumexp((f[:, None] - cost) / epsilon, axis=0, b=p[:, None])
    k, u, v = kernel(), np.ones(len(p)), np.ones(len(q))
    for _ in range(iterations):
        u = p / (k @ v)
        v = q / (u @ k)
        if max(u.max(), v.max(), 1 / u.min(), 1 / v.min()) > 1e50:
            f, g = f + epsilon * np.log(u), g + epsilon * np.log(v)
            k, u, v = kernel(), np.ones(len(p)), np.ones(len(q))
        if np.abs(u * (k @ v) - p).sum() < tolerance:
            break
    return f + epsilon * np.log(u), g + epsilon * np.log(v), u[:, None] * k * v


def sliced(first: np.ndarray, second: np.ndarray, directions: int = 64, seed: int = 0) -> float:
    """Sliced Wasserstein-1 distance: the mean over directions of that of the projections; a cheap check of `emd`."""
    draws = np.random.default_rng(seed).standard_normal((3, directions))
    draws /= np.linalg.norm(draws, axis=0)
    quantiles = (np.arange(1000) + 0.5) / 1000
    a, b = (np.quantile(one @ draws, quantiles, axis=0) for one in (first, second))
    return float(np.abs(a - b).mean())
