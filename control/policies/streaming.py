"""One call of a diffusion policy as a pure function of tensors, whatever the pattern of noise levels.

Letters: B batch (environments), T positions of the buffer, A action width, m network evaluations per call. A `Plan`
says where the levels rest before a call, where they end, and how far the buffer moves on. Diffusion Policy is the plan
that rests at pure noise and throws everything away; Streaming Diffusion Policy (arXiv 2406.04806) rests on a ladder of
chunks; one evaluation per call is a ladder with as many rungs as denoising steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from common.diffusion.levels import Ladder, delayed, shifted
from common.diffusion.process import Process
from common.errors import ConfigError

PREFIXES = ("clean", "renoise", "released")


class StreamState(NamedTuple):
    """What a policy carries from call to call: buffer (B, T, A) normalised actions, level (B, T)."""

    buffer: Tensor
    level: Tensor


@dataclass(frozen=True)
class Plan:
    """resting, after: levels (T,) before and after a call's evaluations. evaluations: m. execute: positions executed
    per call, from `first` on; the buffer moves on by `shift`, and drops its last `excess` positions. prefix: kind of
    the positions before `first`: "clean", "renoise", or "released" (values stay clean, the level says they are not).
    delay: control steps between a call's observation and its first action; the first `delay` positions of the buffer
    are then the actions already on their way, and `first` counts them.
    """

    resting: Tensor
    after: Tensor
    evaluations: int
    execute: int
    first: int = 0
    shift: int = 0
    excess: int = 0
    prefix: str = "clean"
    eta: float = 0.0
    delay: int = 0

    @property
    def horizon(self) -> int:
        return len(self.resting)

    @property
    def fresh(self) -> int:
        """Positions of new noise at the end of the buffer after every call."""
        return self.shift + self.excess

    def check_alignment(self, offset: int) -> None:
        """Raises ConfigError unless the first action of a call without delay is position `offset`, where the model has
        the action of now."""
        now = self.first - self.delay
        if now != offset:
            raise ConfigError(
                f"the plan takes position {now} for the action of now (first={self.first}, delay={self.delay}), the "
                f"model has it at offset={offset}: make them the same"
            )

    def check(self, process: Process) -> None:
        """Raises ConfigError if its smallest denoising step is finer than a discrete process's: evaluations that change
        nothing, and below half a step a noise of 0 that no network can divide by."""
        moved = (self.resting - self.after) / self.evaluations
        finest = moved[moved > 0].min().item()
        if process.steps and finest * process.steps < 1 - 1e-6:
            raise ConfigError(
                f"plan: an action gets {round(1 / finest)} denoising steps, {self.evaluations} in each call, and the "
                f"process has {process.steps} levels: choose fewer evaluations or chunks, or a process of more steps"
            )


def chunk_plan(horizon: int, execute: int, evaluations: int, first: int = 0, eta: float = 0.0) -> Plan:
    """Diffusion Policy: all positions from noise to clean in every call. eta 1: DDPM, 0: DDIM."""
    if first + execute > horizon:
        raise ConfigError(f"execute {execute} from position {first} of a horizon of {horizon}: lengthen the horizon")
    resting = torch.ones(horizon, dtype=torch.float64)
    return Plan(resting, torch.zeros_like(resting), evaluations, execute, first, horizon, eta=eta)


def ladder_plan(
    horizon: int,
    execute: int,
    evaluations: int = 1,
    first: int = 0,
    prefix: str = "released",
    eta: float = 0.0,
    steps: int | None = None,
) -> Plan:
    """Streaming: h = (horizon - first) // execute chunks on a ladder, m evaluations per call, h m denoising steps per
    action. The levels are fractions of 1 and come back exactly, whatever h m. `steps`: N of the process, to insist that
    they are also levels of its table, k / N; others lie up to 1 / 2N from one."""
    if prefix not in PREFIXES:
        raise ConfigError(f"prefix={prefix!r}: choose one of {', '.join(PREFIXES)}")
    ladder = Ladder(horizon=horizon, execute=execute, prefix=first)
    if steps is not None:
        ladder.needs(steps, "the process's steps", evaluations)
    resting = ladder.resting()
    after = (resting - 1 / ladder.chunks).clamp_min(0)
    after[: first + execute] = 0
    if prefix == "clean":
        resting = resting.clone()
        resting[:first] = 0
    return Plan(resting, after, evaluations, execute, first, execute, ladder.excess, prefix, eta)


def delayed_plan(horizon: int, execute: int, delay: int, evaluations: int = 1) -> Plan:
    """A ladder behind `delay` clean positions: the actions that run while the network computes (training-time real-time
    chunking, arXiv 2512.05964, on a ladder). What a call returns begins `delay` steps after its observation."""
    resting = delayed(horizon, execute, delay)
    excess = (horizon - delay) % execute
    after = shifted(resting, execute)
    return Plan(resting, after, evaluations, execute, delay, execute, excess, delay=delay)


def start_state(process: Process, plan: Plan, noise: Tensor, anchor: Tensor | None = None) -> StreamState:
    """The state before an episode's first call without any network call: noise (B, T, A) at the resting levels around 0
    ("zero" primer) or around `anchor`, which broadcasts against it ("constant" primer)."""
    level = plan.resting.to(noise).expand(noise.shape[:2])
    anchor = torch.zeros_like(noise) if anchor is None else anchor.expand_as(noise)
    return StreamState(process.noise(anchor, level[..., None], noise), level.contiguous())


def stream(
    denoise: Callable[[Tensor, Tensor], Tensor],
    process: Process,
    plan: Plan,
    state: StreamState,
    fresh: Tensor,
    noise: Tensor | None = None,
) -> tuple[Tensor, StreamState]:
    """One call: m evaluations, the executed chunk, the buffer moved on.

    Args: denoise (x, t) -> x0, with the observation bound; state before the call; fresh (B, plan.fresh + first, A)
        standard normal for the new end of the buffer and a re-noised prefix; noise (m, B, T, A) for eta > 0.
    Returns: actions (B, execute, A), normalised, and the next state. No randomness, no hidden state, a fixed number of
    evaluations.
    """
    x, level = state
    target = torch.minimum(level, plan.after.to(level))
    for i in range(plan.evaluations):
        t, s = (level + (target - level) * (j / plan.evaluations) for j in (i, i + 1))
        s = target if i + 1 == plan.evaluations else s
        t, s = t[..., None], s[..., None]
        gamma = plan.eta * process.ancestral_gamma(t, s) if plan.eta else 0.0
        x = process.step(x, t, s, denoise(x, t), gamma, noise[i] if plan.eta else None)
    actions = x[:, plan.first : plan.first + plan.execute]
    return actions, advance(process, plan, x, target, fresh)


def advance(process: Process, plan: Plan, x: Tensor, level: Tensor, fresh: Tensor) -> StreamState:
    """The buffer one call later: the first `shift` positions leave, noise enters behind."""
    B, T, _ = x.shape
    tail, spare = fresh[:, : plan.fresh], fresh[:, plan.fresh :]
    if plan.shift == T:  # nothing is kept
        return StreamState(tail[:, :T] * process.sigma(torch.ones_like(level))[..., None], torch.ones_like(level))
    kept = slice(plan.shift, T - plan.excess)
    pure = process.sigma(torch.ones((), dtype=x.dtype, device=x.device))
    x = torch.cat([x[:, kept], pure * tail], 1)
    level = torch.cat([level[:, kept], torch.ones_like(level[:, : plan.fresh])], 1)
    if plan.first and plan.prefix != "clean":  # the last executed actions share the first chunk's level
        at = plan.resting[: plan.first].to(level).expand(B, -1)
        front = x[:, : plan.first]
        if plan.prefix == "renoise":
            front = process.noise(front, at[..., None], spare)
        x = torch.cat([front, x[:, plan.first :]], 1)
        level = torch.cat([at, level[:, plan.first :]], 1)
    return StreamState(x, level)


def reset_where(mask: Tensor, start: StreamState, state: StreamState) -> StreamState:
    """`start` for the environments of mask (B,), `state` for the others, bit for bit."""
    return StreamState(
        torch.where(mask[:, None, None], start.buffer, state.buffer),
        torch.where(mask[:, None], start.level, state.level),
    )
