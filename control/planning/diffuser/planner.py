"""Planning in closed loop: a plan is made, followed for a while, and made anew.

Letters: B environments, H horizon, S state, A action.
"""

import logging
from collections import deque

import numpy as np
import torch
from torch import Tensor

from control.planning.diffuser.model import TrajectoryDiffuserModel
from control.planning.diffuser.plans import PlanMaker, PlanSettings
from control.planning.diffuser.returns import asked_next
from control.policies.history import ObservationHistory, episode_rows
from control.policies.noise import NoiseSource

logger = logging.getLogger(__name__)


class Asked:
    """What is left to ask for, of B environments, in the environment's units. floored: how often the floor held."""

    def __init__(self, model: TrajectoryDiffuserModel, settings: PlanSettings):
        low, high, target = float(model.return_low), float(model.return_high), settings.target
        if isinstance(target, int | float) and not low <= target <= high:
            logger.warning(f"target={target:g} is outside the data's returns, {low:g} to {high:g}: unlearnt ground")
        self.model, self.settings = model, settings
        self.target = settings.wanted(model)
        self.left, self.floored = np.zeros(0), 0

    def restart(self, rows: slice | np.ndarray | int = slice(None), batch: int | None = None) -> None:
        """All of a batch, or some rows, begin with the target."""
        if batch is not None:
            self.left = np.zeros(batch)
        self.left[rows] = self.target

    def rewarded(self, rewards: np.ndarray) -> None:
        """What the last actions earned, (B,): lowers what is left, where the settings say so."""
        if self.settings.update == "decrement":
            floor = self.settings.floor * self.target if self.target > 0 else -np.inf
            left = asked_next(self.left, np.asarray(rewards, float), self.model.discount, -np.inf)
            self.floored += int((left < floor).sum())
            self.left = np.maximum(left, floor)

    def normalised(self, now: Tensor) -> Tensor:
        """(B,) of what is asked for now, in normalised states now (B, S)."""
        return self.settings.asked(self.model, now, self.left)


class Cloned:
    """The return-conditioned cloned policy, an `Actor` of `control.rollout`."""

    def __init__(self, model: TrajectoryDiffuserModel, settings: PlanSettings):
        model.check()
        self.model, self.asked = model.eval(), Asked(model, settings)
        self.rewarded = self.asked.rewarded

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None:
        """Begin episodes."""
        if mask is None:
            self.asked.restart(batch=1 if seeds is None else len(seeds))
        else:
            self.asked.restart(np.flatnonzero(mask))

    @torch.no_grad()
    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, A)."""
        now = self.model.states(torch.from_numpy(np.asarray(observation["state"], np.float32)))
        acts = self.model.cloning(torch.cat([now, self.asked.normalised(now)[:, None]], -1)).clamp(-1, 1)
        return self.model.actions.inverse(acts).numpy()


class Planner:
    """An `Actor` of `control.rollout`: a trained model run with settings, for B environments at once.

    Rewards are not part of an observation: `rewarded` tells them after a step; untold, the target holds.
    plans: decisions so far; calls: network evaluations of all environments; first_plan (C, H, S): of the
    last environment that planned, before the optimiser, in the environment's units.
    """

    def __init__(self, model: TrajectoryDiffuserModel, settings: PlanSettings):
        self.model, self.make = model.eval(), PlanMaker(model, settings)
        self.settings = self.make.settings
        self.cold = PlanMaker(model, settings.cold) if settings.start == "previous" else self.make
        self.asked = Asked(model, self.settings)
        self.rewarded = self.asked.rewarded
        self.plans = 0
        self.first_plan: np.ndarray | None = None

    @property
    def current(self) -> np.ndarray:
        """(B, H, S) the plans that are followed, in the environment's units."""
        return self.model.states.inverse(self._plan).numpy()

    @property
    def calls(self) -> dict[str, int]:
        makers = {id(one): one for one in (self.make, self.cold)}.values()
        return {name: sum(one.calls[name] for one in makers) for name in self.make.calls}

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None:
        """Begin episodes, as `DiffusionPolicy.reset`; the seeds are of the noise."""
        if mask is None:
            seeds = [0] if seeds is None else [int(seed) for seed in seeds]
            B, (H, S) = len(seeds), (self.model.horizon, self.model.state_dim)
            self.noise = NoiseSource(seeds)
            self._past: list[deque] = [deque(maxlen=(self.model.observed - 1) * self.model.stride + 1) for _ in seeds]
            self._history = ObservationHistory({"state": (S,)}, 1, B)
            self._plan, self._age = torch.zeros(B, H, S), np.full(B, -1)
            self.asked.restart(batch=B)
        else:
            for row in episode_rows(len(self._past), seeds, mask):
                if seeds is not None:
                    self.noise.restart(int(row), int(seeds[row]))
                self._past[row].clear()
                self._history.restart(row)
                self._age[row] = -1
                self.asked.restart(int(row))

    @torch.no_grad()
    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, A): plans anew where a plan has been executed, and follows the plan by the inverse dynamics."""
        self._history.append(observation)
        active = np.ones(len(self._past), bool) if active is None else np.asarray(active, bool)
        now = self.model.states(torch.from_numpy(np.asarray(observation["state"], np.float32)))
        asked, rows = self.asked.normalised(now), np.flatnonzero(active)
        for row in rows:
            self._past[row].append((now[row], asked[row]))
        self._plan_anew(rows[(self._age[rows] < 0) | (self._age[rows] >= self.settings.execute)])
        age, stride = torch.from_numpy(self._age[rows]), self.model.stride
        goal = self._plan[torch.from_numpy(rows), age // stride + 1]
        actions = np.zeros((len(self._past), self.model.action_dim), np.float32)
        actions[rows] = self.model.act(now[rows], goal, (stride - age % stride).float()).numpy()
        self._age[rows] += 1
        return actions

    def _plan_anew(self, due: np.ndarray) -> None:
        """Plans of the environments `due`: together those with a history of the same length, and as new or as old."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for row in due:
            steps = -(-len(self._past[row]) // self.model.stride)
            groups.setdefault((bool(self._age[row] < 0), steps), []).append(int(row))
        for (new, _), rows in groups.items():
            make = self.cold if new else self.make
            histories = [list(self._past[row])[:: -self.model.stride][::-1] for row in rows]
            states, asked = (torch.stack([torch.stack([step[i] for step in one]) for one in histories]) for i in (0, 1))
            self._plan[rows] = make(states, asked, self.noise.rows(rows).draw, self._plan[rows])
            self.first_plan = self.model.states.inverse(make.written[-1]).numpy()
        self._age[due] = 0
        self.plans += len(due)
