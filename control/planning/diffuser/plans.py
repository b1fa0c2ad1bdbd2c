"""One decision: write a plan, or draw one, or carry the last one over; improve it; choose one of several.

Letters: B environments, C candidates of each, H horizon, n states of history, S state. All states are normalised.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.errors import ConfigError
from control.planning.diffuser.model import TrajectoryDiffuserModel
from control.planning.diffuser.refine import clean_start, entry_level, noise_level, refine, shifted

STARTS = ("generator", "noise", "previous")
CHOICES = ("best", "softmax")
FROM_NOISE = 20  # evaluations of a plan from noise, unless the settings say how many

Draw = Callable[..., Tensor]  # (*shape, leading=False) -> standard normals (B, *shape), or (shape[0], B, *shape[1:])


@dataclass(frozen=True)
class PlanSettings:
    """How a planner runs.

    start: what the optimiser begins from: "generator", a written plan; "noise" (Decision Diffuser); "previous", the
        last plan, shifted by what was executed (its warm start), where there is one, else noise.
    level: k at which it enters; None: `noise_level` for noise, else the level of the generator's error (`entry_level`).
    steps: network evaluations, by default k, and 20 from noise. eta, temperature: as `refine`'s. forward_noise: noise
    the plan to level k first. guidance: weight of classifier-free guidance.
    candidates: plans per decision, of which `choose` takes the "best" by the plan's value, or draws by the "softmax" of
        the values (as released). jitter: deviation of the noise on every state that the generator writes.
    execute: environment steps per plan, at most (H - 1) stride.
    target: return that is asked for, in the environment's units; None: `share` of the data's largest; "value": at every
        state what the expectile value says can be had there. update: "decrement" by what came in, or "hold". floor:
        share of a positive target below which no decrement goes.
    """

    start: str = "generator"
    level: int | None = None
    steps: int | None = None
    eta: float = 1.0
    temperature: float = 0.5
    forward_noise: bool = False
    guidance: float = 1.0
    candidates: int = 1
    choose: str = "best"
    jitter: float = 0.0
    execute: int = 1
    target: float | str | None = None
    share: float = 1.0
    update: str = "decrement"
    floor: float = 0.0

    def checked(self, model: TrajectoryDiffuserModel) -> "PlanSettings":
        """These settings, the level filled in. Raises: ConfigError naming the key that does not fit."""
        most, N = (model.horizon - 1) * model.stride, model.process.steps
        level = self.level
        if level is None and self.start != "noise" and not model.generator_error > 0:
            raise ConfigError("plan.level=None follows the generator's error, which training measures: give a level")
        if level is None:
            level = (
                noise_level(model.process)
                if self.start == "noise"
                else entry_level(model.process, float(model.generator_error))
            )
        if self.start == "noise" and self.steps is None:
            self = replace(self, steps=min(FROM_NOISE, level))
        wrong = {
            "start": self.start not in STARTS,
            "choose": self.choose not in CHOICES,
            "update": self.update not in ("decrement", "hold"),
            "execute": not 1 <= self.execute <= most,
            "candidates": self.candidates < 1,
            "target": isinstance(self.target, str) and self.target != "value",
            "level": not 0 <= level <= N or (level == 0 and self.start == "noise"),
            "steps": self.steps is not None and not 1 <= self.steps <= max(level, 1),
        }
        for key, bad in wrong.items():
            if bad:
                raise ConfigError(
                    f"plan.{key}={getattr(self, key)!r}: start is one of {', '.join(STARTS)}; choose of "
                    f"{', '.join(CHOICES)}; update decrement or hold; execute 1 to {most}; level 0 to {N}, steps 1 to "
                    "the level; target a number, 'value' or None"
                )
        return replace(self, level=level)

    def wanted(self, model: TrajectoryDiffuserModel) -> float:
        """What an episode begins by asking for, in the environment's units."""
        if self.target is None:
            return self.share * float(model.return_high)
        return float(model.return_high if isinstance(self.target, str) else self.target)

    def asked(self, model: TrajectoryDiffuserModel, now: Tensor, left) -> Tensor:
        """(B,) normalised returns to ask for in normalised states now (B, S); left: of what is wanted, a number or (B,)
        in the environment's units."""
        if self.target == "value":
            return model.value(now)[:, 0]
        return (torch.as_tensor(left, dtype=torch.float32).to(now) / model.return_scale).expand(len(now))

    @property
    def cold(self) -> "PlanSettings":
        """Of the first plan of an episode, where the next ones begin from the one before."""
        return replace(self, start="noise", level=None, steps=None, eta=0.0)


class PlanMaker:
    """Plans with settings. calls: network evaluations so far, of all environments, a guided one counted twice,
    candidates of one batch once; written (B, C, H, S): what the optimiser last began from."""

    def __init__(self, model: TrajectoryDiffuserModel, settings: PlanSettings):
        model.check()
        self.model, self.settings = model, settings.checked(model)
        self.denoiser = model.guided(self.settings.guidance)
        self.calls: dict[str, int] = {"generator": 0, "optimiser": 0}
        self.written: Tensor | None = None

    @torch.no_grad()
    def __call__(self, states: Tensor, asked: Tensor, draw: Draw, previous: Tensor | None = None) -> Tensor:
        """(B, H, S) plans from histories (B, n, S), the state of now last, that asked for returns (B, n); previous
        (B, H, S): the plans before these, where the settings begin with them."""
        model, settings, C = self.model, self.settings, self.settings.candidates
        x = self._start(states, asked, draw, previous)
        self.written = x.unflatten(0, (len(states), C))
        condition = model.condition(asked[:, -1]).repeat_interleave(C, 0)
        steps, noise = min(settings.steps or settings.level, settings.level), None
        if steps and settings.eta:
            noise = draw(steps, C, model.horizon, model.state_dim, leading=True).flatten(1, 2)
        x = refine(lambda x, t: self.denoiser(x, t, condition), model.process, x, settings.level, steps, settings.eta,
                   noise, settings.temperature)  # fmt: skip
        self.calls["optimiser"] += steps * len(states) * (1 if settings.guidance == 1 else 2)
        return self._chosen(x.unflatten(0, (len(states), C)), draw)

    def _start(self, states: Tensor, asked: Tensor, draw: Draw, previous: Tensor | None) -> Tensor:
        """(B C, H, S) at the level where the optimiser enters."""
        model, settings, C = self.model, self.settings, self.settings.candidates
        shape = (C, model.horizon, model.state_dim)
        if settings.start == "generator":
            plan = self._write(states, asked, draw)
        elif settings.start == "previous":
            plan = shifted(previous, settings.execute, model.stride)[:, None].clone()
        else:
            plan = states.new_zeros(len(states), 1, *shape[1:])
        plan[:, :, 0] = states[:, -1:]
        plan = plan.expand(-1, C, -1, -1)
        if settings.level and (settings.start != "generator" or settings.forward_noise):
            t = clean_start(torch.tensor(settings.level / model.process.steps), model.horizon).to(plan)
            plan = model.process.noise(plan, t, draw(*shape))
        return plan.flatten(0, 1)

    def _write(self, states: Tensor, asked: Tensor, draw: Draw) -> Tensor:
        """(B, C or 1, H, S) of the generator: one plan for all candidates unless noise makes them differ."""
        model, settings, H = self.model, self.settings, self.model.horizon
        C, noise = 1, None
        if settings.jitter:
            C = settings.candidates
            noise = settings.jitter * draw(C, H - 1, model.state_dim).flatten(0, 1)
        following = model.generator.rollout(states.repeat_interleave(C, 0), asked.repeat_interleave(C, 0), H - 1, noise)
        self.calls["generator"] += (states.shape[1] + H - 2) * len(states)
        return torch.cat([states[:, -1:].repeat_interleave(C, 0), following], 1).unflatten(0, (len(states), C))

    def _chosen(self, plans: Tensor, draw: Draw) -> Tensor:
        """(B, H, S) of candidates (B, C, H, S), by their values."""
        if plans.shape[1] == 1:
            return plans[:, 0]
        worth = self.model.plan_value(plans.flatten(2))[..., 0]
        if self.settings.choose == "softmax":  # the largest of logits and Gumbel noise is a draw by the softmax
            uniform = torch.special.ndtr(draw(plans.shape[1])).clamp(1e-7, 1 - 1e-7)
            worth = worth - torch.log(-torch.log(uniform))
        return plans[torch.arange(len(plans)), worth.argmax(1)]
