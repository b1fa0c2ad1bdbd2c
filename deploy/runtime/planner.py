"""Runs an exported planner: writes a plan or takes one up, improves it, chooses one, and follows it for a while.

Letters: C candidates, H horizon, S state, A action. Plans are normalised, actions are the robot's.
"""

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from math import erfc
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .bound import BoundGraph
from .errors import InputError
from .planner_manifest import Chain, PlannerManifest
from .policy import ActionError, BusyError, NotResetError
from .policy_manifest import check_observation
from .session import choose_providers


def noised(chain: Chain, plans: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Plans (C, H, S) at the entry of a chain; the state of now stays as it is."""
    out = np.float32(chain.alpha) * plans + np.float32(chain.sigma) * eps
    out[:, 0] = plans[:, 0]
    return out


def shifted(plan: np.ndarray, steps: int, stride: int) -> np.ndarray:
    """(H, S): a plan as it looks `steps` control steps later, linear between its states, its end held."""
    last = len(plan) - 1
    place = np.arange(len(plan), dtype=np.float32) + np.float32(steps / stride)
    low = np.minimum(np.floor(place), last).astype(np.int64)
    part = np.clip(place - low, 0, 1).astype(np.float32)[:, None]
    return (1 - part) * plan[low] + part * plan[np.minimum(low + 1, last)]


def gumbel(normal: np.ndarray) -> np.ndarray:
    """Gumbel noise of standard normals: the largest of logits and it is a draw by their softmax."""
    uniform = np.float32([0.5 * erfc(-x / 2**0.5) for x in normal.tolist()])
    return -np.log(-np.log(np.clip(uniform, np.float32(1e-7), np.float32(1 - 1e-7))))


class Moment(NamedTuple):
    """What a call answers: the control step, its state in the robot's units, and the last states with what was asked
    for at each, oldest first."""

    tick: int
    raw: np.ndarray
    past: tuple[tuple[np.ndarray, float], ...]


class PlannerPolicy:
    """One robot's planner. `reset(seed)` begins an episode, `select_action` is one control step: it plans where a plan
    is due, every `manifest.settings.execute` steps, and follows the plan by the inverse dynamics in every one.
    `rewarded` tells what the last action earned; untold, what is asked for stays as it was.

    One thread at a time, with one exception: while a call from `prepare` runs in another thread, `observe` and
    `rewarded` may be used; steps that were only observed count as followed.
    Args: path OUT.onnx, by which the export is called; threads of onnxruntime; providers as in `Session`; margin: how
        far outside the data's range, as a part of it, an action may lie.
    The noise of an episode is numpy's, seeded: the same seed, observations and rewards give the same actions.
    """

    def __init__(self, path: str | Path, threads: int = 1, providers: list[str] | None = None, margin: float = 1e-3):
        self.manifest = manifest = PlannerManifest.load(path)
        C, H, S = manifest.settings.candidates, manifest.horizon, manifest.state_dim
        written = C if manifest.settings.jitter else 1
        wanted = {
            "optimiser": {"x": (C, H, S), "t": (1,), "s": (1,), "z": (C, H, S), "asked": (1,), "eta": (1,)},
            "generator": {"token": (written, S + 1), "cache": (None, 2, written, None, None, None), "place": (1,)},
            "act": {"state": (1, S), "goal": (1, S), "gap": (1,)},
            "value": {"plans": (C, H, S)},
            "asked": {"state": (1, S)},
        }
        carry = {"optimiser": {"x": "next_x"}, "generator": {"cache": "next_cache"}}
        chosen = choose_providers(providers)
        self._graphs = {
            role: BoundGraph(Path(path).with_name(name), wanted[role], carry.get(role), threads=threads,
                             providers=chosen)
            for role, name in manifest.files.items()
        }  # fmt: skip
        self._mean, self._spread = np.float32(manifest.mean), np.float32(manifest.spread)
        low, high = np.float32(manifest.action_low), np.float32(manifest.action_high)
        reach = margin * np.maximum(high - low, 1e-3)
        self._low, self._high = low - reach, high + reach
        self._past: deque = deque(maxlen=(manifest.observed - 1) * manifest.stride + 1)
        self._random, self._running = None, False

    def reset(self, seed: int = 0) -> None:
        """Begin an episode: forget observations and plan, ask for the target, restart the noise."""
        self._only()
        self._random = np.random.default_rng((int(seed), 0x401))
        self._past.clear()
        self._plan, self._since, self._tick = None, 0, -1
        self._left = 0.0 if self.manifest.target == "value" else float(self.manifest.target)

    def stand_by(self, action: np.ndarray | None = None) -> None:
        """What is sent before a first answer; no plan begins with it."""

    def _only(self) -> None:
        if self._running:
            raise BusyError(
                "a call is running in another thread: wait for its answer, only observe() and rewarded() go beside it"
            )

    def _begun(self) -> None:
        if self._random is None:
            raise NotResetError("the planner has no episode: call reset(seed) before asking for actions")

    def warm_up(self, calls: int = 20) -> None:
        """Run the graphs so that the first real call is not the slow one; the state is untouched."""
        self._only()
        for _ in range(calls):
            for graph in self._graphs.values():
                graph.run()

    def rewarded(self, reward: float) -> None:
        """What the last action earned: lowers what is left to ask for, where the settings say so.

        Raises: InputError for what is no finite number, NotResetError.
        """
        self._begun()
        value = np.asarray(reward)
        if value.size != 1 or value.dtype.kind not in "biuf" or not np.isfinite(value).all():
            raise InputError(f"reward is {reward!r}; wanted one finite number, in the units of the demonstrations")
        settings, target = self.manifest.settings, self.manifest.target
        if settings.update == "decrement" and target != "value":
            left = (self._left - float(value.reshape(()))) / self.manifest.discount
            self._left = max(left, settings.floor * target) if target > 0 else left

    def observe(self, observation: dict[str, np.ndarray]) -> None:
        """Take the current step's observation. Raises InputError naming what is wrong with it, NotResetError."""
        self._begun()
        raw, most = self._taken(observation), np.float32(self.manifest.most)
        self._past.append((np.clip((raw - self._mean) / self._spread, -most, most), self._left))
        self._tick += 1

    def _taken(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """(S,) float32 of its own. Raises: InputError."""
        spec = self.manifest.observations[0]
        check_observation(self.manifest.observations, observation)
        with np.errstate(over="ignore"):
            raw = np.array(observation[spec.name], np.float32)
        if not np.isfinite(raw).all():
            raise InputError(f"observation {spec.name!r} has numbers beyond float32; wanted {spec.shape}, finite")
        return raw

    def prepare(self, observation: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        """Takes the observation, and returns the call to be made once, in whatever thread: () -> (1, A).

        Raises: InputError, NotResetError, BusyError; the call raises ActionError."""
        self._only()
        self.observe(observation)
        moment = Moment(self._tick, self._taken(observation), tuple(self._past))
        return lambda: self._call(moment)

    def step(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """(1, A): one call. Raises: InputError, NotResetError, ActionError; after ActionError the plan and the noise
        are as before the call."""
        return self.prepare(observation)()

    def select_action(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """(A,) action of this control step. Raises as `step`."""
        return self.step(observation)[0]

    @property
    def plan(self) -> np.ndarray | None:
        """(H, S) that is followed, in the robot's units; None before an episode's first."""
        return None if self._plan is None else self._plan * self._spread + self._mean

    def _call(self, moment: Moment) -> np.ndarray:
        self._running = True
        before = self._random.bit_generator.state
        try:
            age = moment.tick - self._since
            due = self._plan is None or age >= self.manifest.settings.execute
            plan, age = (self._planned(moment), 0) if due else (self._plan, age)
            action = self._act(moment.raw, plan, age)
            self._plan, self._since = plan, moment.tick - age
            return action
        except ActionError:
            self._random.bit_generator.state = before
            raise
        finally:
            self._running = False

    def _act(self, raw: np.ndarray, plan: np.ndarray, age: int) -> np.ndarray:
        """(1, A) that leads to the plan's next state. Raises: ActionError."""
        stride = self.manifest.stride
        goal, gap = plan[age // stride + 1], stride - age % stride
        action = self._graphs["act"].run(state=raw, goal=goal, gap=gap)["action"].copy()
        inside = (action >= self._low) & (action <= self._high)  # False for NaN
        if not inside.all():
            column = int(np.argwhere(~inside[0])[0, 0])
            raise ActionError(
                f"action {column} is {action[0, column]}, outside [{self._low[column]:g}, {self._high[column]:g}]: not "
                "sent; check the observation's units, or the export"
            )
        return action

    def _planned(self, moment: Moment) -> np.ndarray:
        """(H, S): write, or draw, or carry over; improve; choose."""
        manifest, settings = self.manifest, self.manifest.settings
        cold = settings.start == "previous" and self._plan is None
        start, chain = ("noise", manifest.cold) if cold else (settings.start, manifest.chain)
        now, left = moment.past[-1]
        x, asked = self._start(moment, start, chain, now), self._asked(now, left)
        return self._chosen(self._refined(x, chain, asked))

    def _asked(self, state: np.ndarray, left: float) -> np.float32:
        """What is asked for at a normalised state, normalised."""
        if self.manifest.target == "value":
            return self._graphs["asked"].run(state=state)["asked"][0]
        return np.float32(left) / np.float32(self.manifest.return_scale)

    def _draw(self, *shape: int) -> np.ndarray:
        return self._random.standard_normal(shape, dtype=np.float32)

    def _start(self, moment: Moment, start: str, chain: Chain, now: np.ndarray) -> np.ndarray:
        """(C, H, S): what the optimiser begins from, at its level."""
        settings, shape = self.manifest.settings, (self.manifest.horizon, self.manifest.state_dim)
        plans = np.zeros((settings.candidates, *shape), np.float32)
        if start == "generator":
            plans[:] = self._written(moment.past)
        elif start == "previous":
            plans[:] = shifted(self._plan, moment.tick - self._since, self.manifest.stride)
        plans[:, 0] = now
        if chain.steps and (start != "generator" or settings.forward_noise):
            return noised(chain, plans, self._draw(*plans.shape))
        return plans

    def _written(self, past: tuple[tuple[np.ndarray, float], ...]) -> np.ndarray:
        """(C or 1, H, S) behind position 0: the generator's plans, one unless noise makes the candidates differ."""
        H, S, jitter = self.manifest.horizon, self.manifest.state_dim, self.manifest.settings.jitter
        C = self.manifest.settings.candidates if jitter else 1
        noise = np.float32(jitter) * self._draw(C, H - 1, S) if jitter else None
        history = [np.append(state, self._asked(state, left)) for state, left in past[:: -self.manifest.stride][::-1]]
        generator, plans = self._graphs["generator"], np.zeros((C, H, S), np.float32)
        generator.inputs["cache"][:] = 0
        token = None
        for place in range(len(history) + H - 2):
            token = generator.run(token=history[place] if place < len(history) else token, place=place)["next_token"]
            written = place - len(history) + 2  # position in the plan
            if written > 0:
                if noise is not None:
                    token[:, :S] += noise[:, written - 1]
                plans[:, written] = token[:, :S]
        return plans

    def _refined(self, x: np.ndarray, chain: Chain, asked: np.float32) -> np.ndarray:
        """Plans at data, from plans (C, H, S) at the entry of a chain."""
        if not chain.steps:
            return x
        graph, temperature = self._graphs["optimiser"], np.float32(self.manifest.settings.temperature)
        noise = temperature * self._draw(chain.steps, *x.shape) if chain.eta else np.zeros(chain.steps, np.float32)
        graph.inputs["x"][...] = x
        for (t, s), z in zip(pairwise(chain.levels), noise, strict=True):
            x = graph.run(t=t, s=s, z=z, asked=asked, eta=chain.eta)["next_x"]
        return x.copy()

    def _chosen(self, plans: np.ndarray) -> np.ndarray:
        """(H, S) of candidates (C, H, S), by their values."""
        if len(plans) == 1:
            return plans[0]
        worth = self._graphs["value"].run(plans=plans)["worth"]
        if self.manifest.settings.choose == "softmax":
            worth = worth + gumbel(self._draw(len(plans)))
        return plans[int(worth.argmax())]
