"""Noise levels per position: which states of a sequence a denoiser is trained on, and which it meets at run time.

Letters: B batch, T positions (horizon). Levels are those of `process.py`: 0 clean, 1 noise. On a discrete process of N
steps all patterns are drawn on its grid k / N. Sources: Diffusion Policy (all equal, arXiv 2303.04137), Streaming
Diffusion Policy (a ladder of chunks, arXiv 2406.04806), RNR-DP (a ladder of positions, arXiv 2502.12724), diffusion
forcing (iid, arXiv 2407.01392), training-time real-time chunking (a clean prefix, arXiv 2512.05964).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Geometry of a buffer whose noise grows chunk by chunk.

    horizon: T. execute: positions per chunk, the actions executed per call. prefix: positions before the action of
        "now"; they share the first chunk's level (To - 1 in Streaming Diffusion Policy's alignment, else 0).
    """

    horizon: int
    execute: int
    prefix: int = 0

    def __post_init__(self):
        if self.execute < 1 or self.prefix < 0 or self.prefix + self.execute > self.horizon:
            raise ConfigError(
                f"ladder: prefix {self.prefix} + execute {self.execute} must fit into the horizon {self.horizon}, with "
                "execute at least 1: lengthen the horizon"
            )

    @property
    def chunks(self) -> int:
        """h, whole chunks in the buffer."""
        return (self.horizon - self.prefix) // self.execute

    @property
    def excess(self) -> int:
        """r, positions behind the last whole chunk; they share its level."""
        return (self.horizon - self.prefix) % self.execute

    def chunk(self) -> Tensor:
        """(T,) int64: chunk of every position."""
        position = (torch.arange(self.horizon) - self.prefix).clamp_min(0)
        return (position // self.execute).clamp_max(self.chunks - 1)

    def resting(self) -> Tensor:
        """(T,) float64: the levels just before a call, (chunk + 1) / h."""
        return (self.chunk() + 1).double() / self.chunks

    def needs(self, steps: int, name: str = "steps", evaluations: int = 1) -> None:
        """Raises ConfigError unless h * evaluations divides `steps`: otherwise levels fall between the k / steps."""
        multiple = self.chunks * evaluations
        if steps % multiple:
            raise ConfigError(
                f"ladder of {self.chunks} chunks (horizon {self.horizon}, prefix {self.prefix}, execute "
                f"{self.execute}) and {name}={steps}: {name} must be a multiple of {multiple}, or levels fall between "
                "those of the process"
            )


def delayed(horizon: int, execute: int, delay: int) -> Tensor:
    """(T,) float64: resting levels when the first `delay` positions are already on their way to the robot: clean
    there, and a ladder of (T - delay) // execute chunks behind."""
    if not 0 <= delay < horizon:
        raise ConfigError(f"delay {delay} of a horizon of {horizon}: choose 0 to {horizon - 1}")
    levels = torch.zeros(horizon, dtype=torch.float64)
    levels[delay:] = Ladder(horizon=horizon - delay, execute=execute).resting()
    return levels


def shifted(resting: Tensor, execute: int) -> Tensor:
    """(T,): the levels a call ends at before the buffer moves on by `execute`: position p has reached the resting level
    of p - execute, and the first `execute` behind the clean prefix are clean."""
    return torch.cat([resting.new_zeros(execute), resting[:-execute]])


# --- training patterns: (batch, horizon, generator) -> (B, T) float64 on the grid of N steps ------------------------

Pattern = Callable[[int, int, torch.Generator | None], Tensor]


def _uniform(size: tuple[int, ...], low: int, high: int, generator) -> Tensor:
    """Integers low..high, both included."""
    return torch.randint(low, high + 1, size, generator=generator)


def equal(steps: int) -> Pattern:
    """One level 1/N..1 for all positions of a sample."""
    return lambda batch, horizon, g: (_uniform((batch, 1), 1, steps, g).double() / steps).expand(-1, horizon)


def iid(steps: int) -> Pattern:
    """An own level 1/N..1 for every position."""
    return lambda batch, horizon, g: _uniform((batch, horizon), 1, steps, g).double() / steps


def linear(steps: int) -> Pattern:
    """The deterministic ramp from 1/N to 1, cut to the grid."""

    def draw(batch: int, horizon: int, g) -> Tensor:
        ramp = torch.linspace(0, steps - 1, horizon, dtype=torch.float64).floor() + 1
        return (ramp / steps).expand(batch, -1)

    return draw


def chunk_ladder(steps: int, execute: int, prefix: int = 0) -> Pattern:
    """Exactly the states that a streaming sampler of N steps meets: the resting ladder less j / N, j uniform in
    0..N/h - 1."""

    def draw(batch: int, horizon: int, g) -> Tensor:
        ladder = Ladder(horizon=horizon, execute=execute, prefix=prefix)
        ladder.needs(steps, "the process's steps")
        done = _uniform((batch, 1), 0, steps // ladder.chunks - 1, g).double()
        return ladder.resting() - done / steps

    return draw


def delayed_ladder(steps: int, execute: int | tuple[int, ...], max_delay: int, jitter: float = 0.0) -> Pattern:
    """Ladders behind a clean prefix of 0..max_delay positions, any phase: resting ladder less a uniform part of a rung.

    execute: actions per chunk; of several, one is drawn per sample. jitter: half width, in levels, of uniform noise
    that every noisy position gets on top.
    """
    kinds = (execute,) if isinstance(execute, int) else tuple(execute)

    def draw(batch: int, horizon: int, g) -> Tensor:
        ladders = [(delayed(horizon, e, d), 1 / ((horizon - d) // e)) for e in kinds for d in range(max_delay + 1)]
        mine = _uniform((batch,), 0, len(ladders) - 1, g)
        resting = torch.stack([levels for levels, _ in ladders])[mine]
        rung = torch.tensor([height for _, height in ladders], dtype=torch.float64)[mine]
        noisy = resting > 0
        levels = resting - torch.rand((batch, 1), generator=g, dtype=torch.float64) * rung[:, None]
        levels = levels + jitter * (2 * torch.rand((batch, horizon), generator=g, dtype=torch.float64) - 1)
        levels = (levels * steps).ceil().clamp(1, steps) / steps
        return torch.where(noisy, levels, 0.0)

    return draw


class LevelMixture:
    """Draws a pattern per sample.

    Args: patterns: name -> (weight, pattern). per_batch: one pattern for the whole batch, as Streaming Diffusion
        Policy's release.
    """

    def __init__(self, patterns: dict[str, tuple[float, Pattern]], per_batch: bool = False):
        weights = {name: weight for name, (weight, _) in patterns.items()}
        if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ConfigError(f"level mixture with weights {weights}: give non-negative weights, one above 0")
        self.names = [name for name, weight in weights.items() if weight > 0]
        self.weights = torch.tensor([weights[name] for name in self.names], dtype=torch.float64)
        self.patterns = [patterns[name][1] for name in self.names]
        self.per_batch = per_batch

    def draw(self, batch: int, horizon: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Levels (B, T) float64 and the number of each sample's pattern in `names`, (B,) int64."""
        count = 1 if self.per_batch else batch
        choice = torch.multinomial(self.weights, count, replacement=True, generator=generator).expand(batch)
        levels = torch.empty(batch, horizon, dtype=torch.float64)
        for number, pattern in enumerate(self.patterns):
            mine = choice == number
            if mine.any():
                levels[mine] = pattern(int(mine.sum()), horizon, generator)
        return levels, choice
