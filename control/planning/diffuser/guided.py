"""Diffuser (arXiv 2205.09991), the baseline: plans of states and actions from noise, bent by a value's gradient.

Letters: B batch, C plans per decision, H horizon, D = A + S of a step (action first). The state of now is clean at all
levels, its action is not.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor, nn

from common.diffusion.denoiser import Denoiser
from common.diffusion.process import Process
from common.errors import ConfigError
from common.nn.embeddings import LevelEmbedding
from control.planning.diffuser.networks import mlp
from control.policies.history import ObservationHistory, episode_rows
from control.policies.model import build
from control.policies.noise import NoiseSource
from control.policies.normaliser import MeanStdNormaliser, MinMaxNormaliser


@dataclass(frozen=True)
class GuidedSettings:
    """plans per decision, of which the best by the value is taken; guide_steps of the gradient of the value, in the
    environment's units, before each level, scaled by `scale` and the posterior's variance, down to level `stop`;
    execute: environment steps per plan, whose actions are the plan's own."""

    plans: int = 64
    guide_steps: int = 2
    scale: float = 0.1
    stop: int = 2
    execute: int = 1


class NoisyValue(nn.Module):
    """Return of a plan that is noised to level t: (B, H, D), (B, 1, 1) -> (B,)."""

    def __init__(self, horizon: int, width: int, level_scale: float, widths: tuple[int, ...] = (256, 256)):
        super().__init__()
        self.level = LevelEmbedding(32, level_scale)
        self.mlp = mlp(horizon * width + 32, 1, widths)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        level = self.level(t.expand(len(x), 1, 1))[:, 0]
        return self.mlp(torch.cat([x.flatten(1), level], 1))[:, 0]


@MODELS.register_module()
class GuidedDiffuserModel(BaseModel):
    """Args: state_dim S; action_dim A; horizon H; net: config of a network like `ConditionalUNet1D`; process, of few
    levels (20); first_action: weight of the first action in the loss."""

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        horizon: int,
        net: dict,
        process: dict | Process,
        first_action: float = 10.0,
        data_preprocessor: dict | None = None,
    ):
        super().__init__(data_preprocessor)
        self.state_dim, self.action_dim, self.horizon = state_dim, action_dim, horizon
        self.states, self.actions = MeanStdNormaliser(state_dim), MinMaxNormaliser(action_dim)
        self.register_buffer("return_scale", torch.tensor(torch.nan))
        self.process = build(process)
        width = state_dim + action_dim
        self.denoiser = Denoiser(build(net, action_dim=width, condition_dim=1), self.process, "x0", clip=None)
        self.value = NoisyValue(horizon, width, float(self.process.steps))
        weight = torch.ones(horizon, width)
        weight[0, :action_dim] = first_action
        weight[0, action_dim:] = 0  # given, not learnt
        self.register_buffer("weight", weight, persistent=False)

    def fit(self, windows) -> None:
        """Take statistics from the training windows."""
        self.states.fit(windows.states)
        self.actions.fit(windows.actions)
        self.return_scale.copy_(windows.returns.abs().max().clamp_min(1e-6))

    @property
    def observes(self) -> tuple[str, ...]:
        return ("state",)

    def actor(self, plan: dict) -> "GuidedPlanner":
        """What rolls it out, with the settings of `plan`."""
        try:
            return GuidedPlanner(self, GuidedSettings(**plan))
        except TypeError as error:
            raise ConfigError(f"plan: {error}") from error

    def levels(self, t: Tensor) -> Tensor:
        """(..., H, D) of levels t (...,): 0 where the state of now stands."""
        return t[..., None, None] * (self.weight > 0).to(t)

    def forward(self, states: Tensor, returns: Tensor, actions: Tensor, mode: str = "tensor") -> dict[str, Tensor]:
        """mode "loss": of the plans, states (B, H, S) and actions (B, H, A), and of their values at the same noise."""
        if mode != "loss":
            raise ConfigError(f"forward(mode={mode!r}): a planner is evaluated by rollouts")
        x0 = torch.cat([self.actions(actions), self.states(states)], -1)
        eps = torch.randn_like(x0)
        level, judged = self._drawn(1, len(x0)), self._drawn(0, len(x0))  # finished plans are judged, too
        found = self.value(self.process.noise(x0, self.levels(judged), eps), judged[:, None, None])
        noisy = self.process.noise(x0, self.levels(level), eps)
        error = (self.estimate(noisy, level[:, None, None]) - x0).square()
        return {
            "loss_diffusion": (self.weight * error).sum() / (len(x0) * self.weight.sum()),
            "loss_value": (found - returns[:, 0] / self.return_scale).square().mean(),
        }

    def _drawn(self, least: int, batch: int) -> Tensor:
        """(B,) levels, evenly of the process' from `least` on."""
        N, like = self.process.steps, self.weight
        return (torch.randint(least, N + 1, (batch,), device=like.device) / N).to(like)

    def estimate(self, x: Tensor, level: Tensor) -> Tensor:
        """x0 of plans (B, H, D) at a level (B, 1, 1) or (1, 1, 1). The network is told the plan's level alone, and has
        no condition: all its positions share one embedding."""
        none = self.denoiser.net.project(self.weight.new_zeros(1, 1))
        return self.denoiser(x, level, none)

    def plan(self, now: Tensor, noise: Tensor, settings: GuidedSettings) -> tuple[Tensor, Tensor]:
        """Plans (B, H, D) from normalised states of now (B, S), and their values (B,). noise (N + 1, B, H, D)."""
        process, N = self.process, self.process.steps
        x = noise[0].clone()
        x[:, 0, self.action_dim :] = now
        levels = process.levels(N).to(x)
        for i, (t, s) in enumerate(pairwise(levels)):
            if N - i >= settings.stop:
                x = self._guided(x, t, s, settings)
            x0 = self.estimate(x, t.view(1, 1, 1))
            t, s = self.levels(t), self.levels(s)
            x = process.step(x, t, s, x0, process.ancestral_gamma(t, s), noise[i + 1])
        return x, self.value(x, levels[-1].expand(1, 1, 1))

    def _guided(self, x: Tensor, t: Tensor, s: Tensor, settings: GuidedSettings) -> Tensor:
        """x + scale * variance * dV/dx, some steps of it, V in the environment's units as in the release; the state of
        now stays."""
        variance = (self.process.ancestral_gamma(t, s) * self.process.sigma(s)) ** 2
        for _ in range(settings.guide_steps):
            with torch.enable_grad():
                at = x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.value(at, t.expand(1, 1, 1)).sum(), at)
            x = x + settings.scale * variance * self.return_scale * slope * (self.weight > 0)
        return x


class GuidedPlanner:
    """An `Actor` of `control.rollout`: Diffuser in closed loop, for B environments at once. calls: network evaluations
    per environment so far; plans: decisions."""

    def __init__(self, model: GuidedDiffuserModel, settings: GuidedSettings):
        model.states.check()
        if not 1 <= settings.execute <= model.horizon or settings.plans < 1:
            raise ConfigError(f"plan: execute={settings.execute}, plans={settings.plans}: 1 to {model.horizon}, and 1")
        self.model, self.settings = model.eval(), settings
        self.calls, self.plans = {"optimiser": 0, "value": 0}, 0

    @property
    def current(self) -> np.ndarray:
        """(B, H, S) the plans that are followed, in the environment's units."""
        return self.model.states.inverse(self._plan[..., self.model.action_dim :]).numpy()

    @property
    def actions(self) -> np.ndarray:
        """(B, H, A) of those plans, in the environment's units."""
        return self.model.actions.inverse(self._plan[..., : self.model.action_dim].clamp(-1, 1)).numpy()

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None:
        """Begin episodes; the seeds are of the noise."""
        if mask is None:
            seeds = [0] if seeds is None else [int(seed) for seed in seeds]
            self.noise = NoiseSource(seeds)
            self._history = ObservationHistory({"state": (self.model.state_dim,)}, 1, len(seeds))
            self._plan = torch.zeros(len(seeds), self.model.horizon, self.model.action_dim + self.model.state_dim)
            self._age = np.full(len(seeds), -1)
        else:
            for row in episode_rows(len(self._age), seeds, mask):
                if seeds is not None:
                    self.noise.restart(int(row), int(seeds[row]))
                self._history.restart(row)
                self._age[row] = -1

    @torch.no_grad()
    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, A)."""
        self._history.append(observation)
        model, C = self.model, self.settings.plans
        active = np.ones(len(self._age), bool) if active is None else np.asarray(active, bool)
        due = np.flatnonzero(active & ((self._age < 0) | (self._age >= self.settings.execute)))
        if len(due):
            now = model.states(torch.from_numpy(np.asarray(observation["state"], np.float32)[due]))
            shape = (C, model.horizon, model.state_dim + model.action_dim)
            noise = self.noise.rows(due).draw(model.process.steps + 1, *shape, leading=True).flatten(1, 2)
            plans, worth = model.plan(now.repeat_interleave(C, 0), noise, self.settings)
            best = worth.unflatten(0, (len(due), C)).argmax(1)
            self._plan[due] = plans.unflatten(0, (len(due), C))[torch.arange(len(due)), best]
            self._age[due] = 0
            guided = model.process.steps - max(0, self.settings.stop - 1)
            self.calls["optimiser"] += model.process.steps * len(due)
            self.calls["value"] += (guided * self.settings.guide_steps + 1) * len(due)
            self.plans += len(due)
        rows = np.flatnonzero(active)
        actions = np.zeros((len(self._age), model.action_dim), np.float32)
        acts = self._plan[torch.from_numpy(rows), torch.from_numpy(self._age[rows]), : model.action_dim]
        actions[rows] = model.actions.inverse(acts.clamp(-1, 1)).numpy()
        self._age[rows] += 1
        return actions
