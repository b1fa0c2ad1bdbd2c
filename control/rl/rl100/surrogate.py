"""PPO's clipped surrogate over denoising steps, and advantages of decisions.

Every denoising step is credited with the advantage of the decision that its chain makes: the inner steps have no reward
and no discount of their own. Letters as in `chain`; N environments, S decisions of a rollout.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from control.rl.advantages import discounted_sums


@dataclass(frozen=True)
class Shown:
    """What is logged of an update, as numbers: largest |ratio - 1|, share of ratios beyond the clip, KL per step."""

    ratio_gap: float
    clip_fraction: float
    kl: float


def surrogate(new: Tensor, old: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Shown]:
    """Loss: minus the mean over decisions of the sum over denoising steps of min(r A, clip(r) A).

    new, old: log-probabilities (K, B); advantage (B,), no gradient flows into it. A chunk has one ratio per step.
    """
    log_ratio = new - old.detach()
    ratio, advantage = log_ratio.exp(), advantage.detach()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    with torch.no_grad():
        shown = Shown(
            float((ratio - 1).abs().max()),
            float(((ratio - 1).abs() > clip).float().mean()),
            float(((ratio - 1) - log_ratio).mean()),
        )
    return -gain.sum(0).mean(), shown


def normalised(advantage: Tensor, least: float = 1e-4) -> Tensor | None:
    """Zero mean and unit deviation over the batch; None where the deviation is below `least`: what is left is noise."""
    deviation = advantage.std()
    return None if deviation < least else (advantage - advantage.mean()) / deviation


def decision_advantages(
    rewards: np.ndarray,
    values: np.ndarray,
    following: np.ndarray,
    terminated: np.ndarray,
    done: np.ndarray,
    discount: np.ndarray | float,
    lam: float = 0.95,
) -> np.ndarray:
    """Generalised advantages (S, N) over decisions.

    delta = R + discount (1 - terminated) V(next) - V, A = delta + discount lam (1 - done) A(next decision).
    following (S, N): value of the state a decision ended in, before any reset; done: terminated, or cut by the time
    limit. discount: gamma to the power of the steps that a decision took.
    """
    discount = np.broadcast_to(discount, rewards.shape)
    delta = rewards + discount * (1 - terminated) * following - values
    return discounted_sums(delta, discount * lam * (1 - done))


def value_loss(value: Tensor, old: Tensor, target: Tensor, clip: float = 0.2) -> Tensor:
    """Mean over decisions of the larger of the squared errors of the value and of the value kept within `clip` of the
    old one."""
    near = old + (value - old).clamp(-clip, clip)
    return torch.maximum((value - target) ** 2, (near - target) ** 2).mean()
