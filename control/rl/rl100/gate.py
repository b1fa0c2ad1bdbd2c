"""Off-policy evaluation in a learned model (AM-Q, Uni-O4, arXiv 2311.03351) and the gate that keeps an update or not.

Two policies are compared with common random numbers: the same starts, the same noise of their chains, the same members
of the ensemble. Identical policies then differ by exactly nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import ConfigError

Policy = Callable[[Tensor, Tensor, Tensor], Tensor]  # (condition (B, C), start (B, T, A), noise (K, B, T, A)) -> action
Value = Callable[[Tensor, Tensor], Tensor]  # (condition, action) -> (B,)
Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (condition, action, choice (B,), noise (B, C)) -> condition


@dataclass(frozen=True)
class Draws:
    """Random numbers of an evaluation over H model steps: starts (H, B, T, A); chains (H, K, B, T, A); choices (H, B):
    ensemble members; noises (H, B, C)."""

    starts: Tensor
    chains: Tensor
    choices: Tensor
    noises: Tensor

    @classmethod
    def of(
        cls, horizon: int, batch: int, action: tuple[int, int], condition: int, steps: int, elites: int,
        generator: torch.Generator | None = None,
    ) -> "Draws":  # fmt: skip
        """Draw them. action (T, A); condition C; steps K."""

        def normal(*shape):
            return torch.randn(shape, generator=generator)

        return cls(
            normal(horizon, batch, *action), normal(horizon, steps, batch, *action),
            torch.randint(elites, (horizon, batch), generator=generator), normal(horizon, batch, condition),
        )  # fmt: skip


@torch.no_grad()
def estimate(
    policy: Policy, step: Step, value: Callable[[Tensor, Tensor], Tensor], begin: Tensor, draws: Draws
) -> Tensor:
    """J (B,): the sum of min(Q1, Q2) over H decisions of a policy from conditions begin (B, C), in the model."""
    total, condition = torch.zeros(len(begin)), begin
    for start, chain, choice, noise in zip(draws.starts, draws.chains, draws.choices, draws.noises, strict=True):
        action = policy(condition, start, chain)
        total = total + value(condition, action)
        condition = step(condition, action, choice, noise)
    return total


@dataclass(frozen=True)
class Decision:
    """accepted, and why: gain (mean of the paired difference), error (its standard error), relative (gain over |J|),
    and the reason in words."""

    accepted: bool
    gain: float
    error: float
    relative: float
    reason: str


@dataclass(frozen=True)
class Gate:
    """Accept a candidate when its paired gain is at least z standard errors, and at least `relative` of |J| (the
    paper's rule: relative = 0.05, z = 0).

    most_kl, most_disagreement: vetoes, of the divergence from the round's first policy and of the ensemble on the
    candidate's actions; None for none.
    Raises: ConfigError where neither part would ever refuse anything.
    """

    z: float = 1.0
    relative: float = 0.0
    most_kl: float | None = None
    most_disagreement: float | None = None

    def __post_init__(self):
        if self.z < 0 or self.relative < 0 or self.z == self.relative == 0:
            raise ConfigError(f"gate: z={self.z}, relative={self.relative}; wanted 0 or more, one of them above 0")

    def __call__(
        self, before: Tensor, after: Tensor, kl: float | None = None, disagreement: float | None = None
    ) -> Decision:
        """before, after (B,): estimates of the kept policy and of the candidate under the same draws."""
        difference = after - before
        gain, error = float(difference.mean()), float(difference.std() / len(difference) ** 0.5)
        relative = gain / max(float(before.mean().abs()), 1e-8)

        def decided(accepted: bool, reason: str) -> Decision:
            return Decision(accepted, gain, error, relative, reason)

        if not torch.isfinite(difference).all():
            return decided(False, "an estimate is not finite")
        if self.most_kl is not None and kl is not None and not kl <= self.most_kl:
            return decided(False, f"KL {kl:.3g} to the round's start above {self.most_kl:g}")
        if (
            self.most_disagreement is not None
            and disagreement is not None
            and not disagreement <= self.most_disagreement
        ):
            return decided(False, f"the ensemble's disagreement {disagreement:.3g} above {self.most_disagreement:g}")
        if not (gain > 0 and gain >= self.z * error):
            return decided(False, f"gain {gain:.3g} below {self.z:g} standard errors of {error:.3g}")
        if not relative >= self.relative:
            return decided(False, f"gain of {100 * relative:.2g} % below {100 * self.relative:g} %")
        return decided(True, f"gain {gain:.3g}, standard error {error:.3g}")
