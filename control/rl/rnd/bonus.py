"""Novelty of states: random network distillation, its distributional kind, and counts, behind one small protocol."""

from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from control.rl.rnd.statistics import RunningMoments

CLIP = 5.0  # standard deviations


class Bonus(Protocol):
    """A module with its optimiser, or None, as `optimiser`."""

    optimiser: torch.optim.Optimizer | None

    def raw(self, inputs: Tensor) -> Tensor:
        """Novelty (...) >= 0 of inputs (..., d), by what has been learnt so far."""

    def observe(self, inputs: Tensor) -> None:
        """Take a rollout's inputs (K, d) into the statistics; after `raw` of the same."""

    def learn(self, inputs: Tensor) -> dict[str, float]:
        """One update on a minibatch (K, d); what to log."""


def _mlp(*widths: int) -> nn.Sequential:
    """Leaky ReLU between linear layers; orthogonal weights of gain sqrt(2), zero biases."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        linear = nn.Linear(a, b)
        nn.init.orthogonal_(linear.weight, 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers[:-1])


class RND(nn.Module):
    """Mean squared error of a predictor against a fixed random network (Burda et al. 2019).

    Args: width d of the inputs; embedding k; hidden width; lr of the predictor; proportion p of a minibatch that the
        predictor learns from: with p = 1 the bonus dies before the policy has followed it.
    The predictor is a layer deeper than the target, so that it can represent it.
    """

    def __init__(self, width: int, embedding: int = 64, hidden: int = 128, lr: float = 3e-4, proportion: float = 0.25):
        super().__init__()
        if not 0 < proportion <= 1:
            raise ConfigError(f"proportion={proportion!r}: wanted 0 < proportion <= 1")
        self.proportion = proportion
        self.moments = RunningMoments(width)
        self.target = self._targets(width, hidden, embedding).requires_grad_(False).eval()
        self.predictor = _mlp(width, hidden, hidden, hidden, embedding)
        self.optimiser = torch.optim.Adam(self.predictor.parameters(), lr)

    def _targets(self, width: int, hidden: int, embedding: int) -> nn.Module:
        return _mlp(width, hidden, hidden, embedding)

    def whiten(self, inputs: Tensor) -> Tensor:
        """Inputs by their running mean and deviation, clipped to 5."""
        scaled = (inputs - self.moments.mean) / (self.moments.var + 1e-8).sqrt()
        return scaled.clamp(-CLIP, CLIP).to(torch.float32)

    def clipped(self, inputs: Tensor) -> float:
        """Share of whitened numbers at the clip; above 0.2 novelty is flat where it should guide."""
        return float((self.whiten(inputs).abs() >= CLIP).float().mean())

    def error(self, whitened: Tensor) -> Tensor:
        """(...): mean over the embedding of the squared difference."""
        return ((self.predictor(whitened) - self.target(whitened)) ** 2).mean(-1)

    @torch.no_grad()
    def raw(self, inputs: Tensor) -> Tensor:
        return self.error(self.whiten(inputs))

    def observe(self, inputs: Tensor) -> None:
        self.moments.update(inputs)

    def learn(self, inputs: Tensor) -> dict[str, float]:
        chosen = inputs[torch.rand(len(inputs), device=inputs.device) < self.proportion]
        if not len(chosen):
            return {}
        loss = self.fit(self.whiten(chosen)).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"predictor_loss": loss.item()}

    def fit(self, whitened: Tensor) -> Tensor:
        """(K,): what the predictor minimises."""
        return self.error(whitened)

    @torch.no_grad()
    def target_variance(self, inputs: Tensor) -> float:
        """Of the target's outputs over inputs; near 0 the target says nothing."""
        return float(self.target(self.whiten(inputs)).flatten(1).var(0).mean())


class _Ensemble(nn.ModuleList):
    """Outputs of several networks, (..., targets, k)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([one(x) for one in self], -2)


class DRND(RND):
    """Distributional RND (Yang et al. 2024): the predictor regresses a target drawn anew for every sample.

    bonus = alpha |f - mu|^2 + (1 - alpha) sqrt((f^2 - mu^2) / (B2 - mu^2)), mu and B2 the first two moments over the
    targets: the second part estimates 1 / sqrt(visits), so that the bonus neither starts uneven nor fades too early.
    Args: as RND; targets; alpha.
    """

    def __init__(self, width: int, targets: int = 10, alpha: float = 0.9, **kwargs):
        self.targets, self.alpha = targets, alpha
        super().__init__(width, **kwargs)

    def _targets(self, width: int, hidden: int, embedding: int) -> nn.Module:
        return _Ensemble(_mlp(width, hidden, hidden, embedding) for _ in range(self.targets))

    def error(self, whitened: Tensor) -> Tensor:
        f, all_targets = self.predictor(whitened), self.target(whitened)
        mean, square = all_targets.mean(-2), (all_targets**2).mean(-2)
        visits = ((f**2 - mean**2).abs() / (square - mean**2).clamp(min=1e-6)).clamp(1e-6, 1).sqrt()
        return self.alpha * ((f - mean) ** 2).mean(-1) + (1 - self.alpha) * visits.mean(-1)

    def fit(self, whitened: Tensor) -> Tensor:
        chosen = torch.randint(self.targets, (len(whitened), 1, 1), device=whitened.device)
        target = self.target(whitened).take_along_dim(chosen, -2).squeeze(-2)
        return ((self.predictor(whitened) - target) ** 2).mean(-1)


class Counts(nn.Module):
    """1 / sqrt(visits) of the cell of x, y: the strongest simple rival where the map is known.

    Inputs: "raw" features, whose first two numbers are x, y in [-1, 1]. Args: width d; cells a side.
    """

    optimiser = None

    def __init__(self, width: int, cells: int = 24):
        super().__init__()
        self.register_buffer("visits", torch.zeros(cells, cells, dtype=torch.float64))

    def _cells(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        cells = len(self.visits)
        index = ((inputs[..., :2] + 1) / 2 * cells).long().clamp(0, cells - 1)
        return index[..., 0], index[..., 1]

    def raw(self, inputs: Tensor) -> Tensor:
        return self.visits[self._cells(inputs)].clamp(min=1).rsqrt().float()

    def observe(self, inputs: Tensor) -> None:
        i, j = self._cells(inputs)
        self.visits.index_put_((i, j), torch.ones_like(i, dtype=torch.float64), accumulate=True)

    def learn(self, inputs: Tensor) -> dict[str, float]:
        return {}


BONUSES = {"rnd": RND, "drnd": DRND, "count": Counts}


def build_bonus(kind: str, width: int, **kwargs) -> Bonus:
    """A bonus by its name. Raises ConfigError."""
    if kind not in BONUSES:
        raise ConfigError(f"bonus={kind!r}: choose one of {', '.join(BONUSES)}")
    return BONUSES[kind](width, **kwargs)
