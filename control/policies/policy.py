"""The surface that users know: reset, select_action, predict_action_chunk, and stable-baselines3's predict."""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from control.policies.history import ObservationHistory
from control.policies.model import DiffusionPolicyModel
from control.policies.noise import NoiseSource
from control.policies.streaming import Plan, StreamState, chunk_plan, reset_where, start_state, stream

PRIMERS = ("zero", "constant", "denoise")


class NotReset(RuntimeError):
    """The policy was asked for an action before `reset`."""


class DiffusionPolicy:
    """Runs a trained model with a plan, for B environments at once.

    Args: model; plan; primer: how an episode begins: "zero", "constant" (around `anchor`, normalised actions) or
        "denoise" (a full chunk first, then noised to the resting levels). anchor: (A,), or (T, A) for each position.
    Observations are dictionaries {name: (B, ...)} of the current step; the policy keeps the last O of them and repeats
    the first at an episode's start.
    """

    def __init__(self, model: DiffusionPolicyModel, plan: Plan, primer: str = "zero", anchor: Tensor | None = None):
        if plan.horizon != model.horizon:
            raise ValueError(f"the plan's horizon is {plan.horizon}, the model's {model.horizon}: make them the same")
        if primer not in PRIMERS or (primer == "constant") != (anchor is not None):
            raise ValueError(f"primer={primer!r}: choose one of {', '.join(PRIMERS)}; 'constant' needs an anchor")
        model.check()
        self.model, self.plan, self.primer, self.anchor = model.eval(), plan, primer, anchor
        self.width = len(model.actions.low)
        self.state: StreamState | None = None
        self.evaluations = 0  # network evaluations so far, of the whole batch

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None:
        """Begin episodes: of all environments, one per seed of the noise, or of those in `mask` (B,) with `seeds` (B,).
        The others keep buffer, observations and noise, bit for bit."""
        seeds = [0] if seeds is None else list(seeds)
        if mask is None or self.state is None:
            self.noise = NoiseSource(seeds)
            self._history = self._new_history(len(seeds))
            self._queue = [deque() for _ in seeds]
            self._begin = torch.ones(len(seeds), dtype=torch.bool)
            shape = (len(seeds), self.plan.horizon)
            self.state = StreamState(torch.zeros(*shape, self.width), torch.ones(shape))
            return
        for index in np.flatnonzero(mask):
            self.noise.restart(int(index), seeds[index])
            self._history.restart(index)
            self._begin[index] = True
            self._queue[index].clear()

    def _new_history(self, batch: int) -> ObservationHistory:
        return ObservationHistory(self.model.encoder.encoders, self.model.observed, batch)

    @property
    def device(self) -> torch.device:
        """Of the model; what is carried from call to call stays on the CPU, where the environments are."""
        return self.model.actions.low.device

    @property
    def batch(self) -> int:
        return len(self._history)

    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, A) actions for this step: from the running chunks, or from new calls where a chunk is used up. No call is
        made for environments outside `active` (B,) bool; their actions are 0."""
        self.observe(observation)
        active = np.ones(self.batch, bool) if active is None else np.asarray(active, bool)
        due = active & np.array([not queue for queue in self._queue])
        if due.any():
            chunk = self._call(due)
            for index in np.flatnonzero(due):
                self._queue[index].extend(chunk[index])
        actions = np.zeros((self.batch, self.width), np.float32)
        for index in np.flatnonzero(active):
            actions[index] = self._queue[index].popleft()
        return actions

    def predict_action_chunk(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, execute, A): one call for all environments (or those in `active`, the others get 0), whatever is left of
        earlier chunks is dropped."""
        self.observe(observation)
        for queue in self._queue:
            queue.clear()
        return self._call(np.ones(self.batch, bool) if active is None else np.asarray(active, bool))

    def predict(self, observation, state=None, episode_start=None, deterministic: bool = True):
        """stable-baselines3's recurrent signature: (actions (B, A), state). The state is opaque; pass it back.

        episode_start (B,) bool begins episodes; the noise of an episode follows the count of episodes.
        """
        count = len(next(iter(observation.values())))
        if state is None:
            self.reset(list(range(count)))
            self._episodes = count
        elif episode_start is not None and np.any(episode_start):
            seeds = [self._episodes + i for i in range(count)]
            self._episodes += int(np.sum(episode_start))
            self.reset(seeds, np.asarray(episode_start, bool))
        return self.select_action(observation), (self.state,)

    def observe(self, observation: dict[str, np.ndarray]) -> None:
        """Take the current step into the history without asking for an action."""
        if self.state is None:
            raise NotReset("the policy has no episode: call reset(seeds) before asking for actions")
        self._history.append(observation)

    @torch.no_grad()
    def _call(self, due: np.ndarray) -> np.ndarray:
        """One call for the environments that are due; the others' streams do not move. (B, execute, A)."""
        mask = torch.from_numpy(due)
        rows = np.flatnonzero(due)
        seen = {name: value.to(self.device) for name, value in self._history.stacked(rows).items()}
        condition = self.model.condition(seen)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            self.evaluations += 1
            return self.model.denoiser(x, t, condition)

        source = NoiseSource([])
        source.generators = [self.noise.generators[i] for i in rows]
        state = StreamState(*(part[mask].to(self.device) for part in self.state))
        begin = self._begin[mask]
        if begin.any():
            state = reset_where(begin.to(self.device), self._prime(denoise, source, begin, rows), state)
        fresh = source.draw(self.plan.fresh + self.plan.first, self.width).to(self.device)
        noise = None
        if self.plan.eta:
            noise = source.draw(self.plan.evaluations, self.plan.horizon, self.width, leading=True).to(self.device)
        chunk, state = stream(denoise, self.model.process, self.plan, state, fresh, noise)
        for kept, part in zip(self.state, state, strict=True):
            kept[mask] = part.cpu()
        self._begin[mask] = False
        actions = np.zeros((self.batch, self.plan.execute, self.width), np.float32)
        actions[rows] = self.model.actions.inverse(chunk).cpu().numpy()
        return actions

    def _prime(self, denoise, source: NoiseSource, begin: Tensor, rows: np.ndarray) -> StreamState:
        """Start states for the rows that begin; noise is drawn for these alone."""
        T, A = self.plan.horizon, self.width
        noise = torch.zeros(len(rows), T, A)
        own = NoiseSource([])
        own.generators = [source.generators[i] for i in begin.nonzero()[:, 0].tolist()]
        noise[begin] = own.draw(T, A)
        if self.primer != "denoise":
            anchor = None if self.anchor is None else self.anchor.to(self.device)
            return start_state(self.model.process, self.plan, noise.to(self.device), anchor)
        steps = self.model.process.steps or 100
        full = chunk_plan(T, T, steps)
        first = StreamState(noise.to(self.device), torch.ones(len(rows), T, device=self.device))
        clean, _ = stream(denoise, self.model.process, full, first, torch.zeros_like(first.buffer))
        again = torch.zeros_like(noise)
        again[begin] = own.draw(T, A)
        return start_state(self.model.process, self.plan, again.to(self.device), clean)


def snapshot(policy: DiffusionPolicy) -> dict:
    """Everything a policy carries in mid-episode; `restore` continues exactly from it."""
    return {
        "state": StreamState(*(part.clone() for part in policy.state)),
        "history": [None if one is None else list(one) for one in policy._history.steps],
        "queue": [list(queue) for queue in policy._queue],
        "begin": policy._begin.clone(),
        "noise": [g.bit_generator.state for g in policy.noise.generators],
    }


def restore(policy: DiffusionPolicy, stored: dict) -> None:
    """Inverse of `snapshot`, for a policy of the same model and plan."""
    count = len(stored["queue"])
    policy.reset(list(range(count)))
    policy.state = StreamState(*(part.clone() for part in stored["state"]))
    observed = policy.model.observed
    policy._history.steps = [None if one is None else deque(one, maxlen=observed) for one in stored["history"]]
    policy._queue = [deque(queue) for queue in stored["queue"]]
    policy._begin = stored["begin"].clone()
    for generator, state in zip(policy.noise.generators, stored["noise"], strict=True):
        generator.bit_generator.state = state
