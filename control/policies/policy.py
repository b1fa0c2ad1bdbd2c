"""The surface that users know: reset, select_action, predict_action_chunk, and stable-baselines3's predict."""

from collections import deque

import numpy as np
import torch
from torch import Tensor

from control.policies.history import ObservationHistory, episode_rows
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
    Raises: ValueError if plan and model do not fit (horizon, alignment, levels), or primer and anchor.
    """

    def __init__(self, model: DiffusionPolicyModel, plan: Plan, primer: str = "zero", anchor: Tensor | None = None):
        if plan.horizon != model.horizon:
            raise ValueError(f"the plan's horizon is {plan.horizon}, the model's {model.horizon}: make them the same")
        plan.check_alignment(model.offset)
        plan.check(model.process)
        if primer not in PRIMERS or (primer == "constant") != (anchor is not None):
            raise ValueError(
                f"primer={primer!r}, anchor {'missing' if anchor is None else 'given'}: choose one of "
                f"{', '.join(PRIMERS)}; 'constant' needs an anchor, the others take none"
            )
        self.width = len(model.actions.low)
        shapes = ((self.width,), (plan.horizon, self.width))
        if anchor is not None and (tuple(anchor.shape) not in shapes or not torch.isfinite(anchor).all()):
            raise ValueError(
                f"anchor is {tuple(anchor.shape)}, wanted finite normalised actions {shapes[0]} or {shapes[1]}"
            )
        model.check()
        self.model, self.plan, self.primer, self.anchor = model.eval(), plan, primer, anchor
        self.state: StreamState | None = None
        self._carried: dict | None = None  # the state that `predict` returned, while nothing has moved since
        self.evaluations = 0  # network evaluations so far, of the whole batch

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None:
        """Begin episodes: of all environments, one per seed of the noise, or of those in `mask` (B,) with `seeds` (B,).
        The others keep buffer, observations and noise, bit for bit. Without seeds: one environment with seed 0, or,
        for those of a mask, the numbers behind the largest seed so far."""
        if mask is None or self.state is None:
            batch = len(seeds if seeds is not None else [0] if mask is None else mask)
            seeds = list(range(batch)) if seeds is None else [int(seed) for seed in seeds]
            self.noise = NoiseSource(seeds)
            self._history = ObservationHistory.of(self.model.encoder.encoders, self.model.observed, batch)
            self._queue = [deque() for _ in seeds]
            self._begin = torch.ones(batch, dtype=torch.bool)
            shape = (batch, self.plan.horizon)
            self.state = StreamState(torch.zeros(*shape, self.width), torch.ones(shape))
            self._next_seed = max(seeds, default=-1) + 1
        else:
            for index in episode_rows(self.batch, seeds, mask):
                seed = self._next_seed if seeds is None else int(seeds[index])
                self._next_seed = max(self._next_seed, seed + 1)
                self.noise.restart(int(index), seed)
                self._history.restart(index)
                self._begin[index] = True
                self._queue[index].clear()
        self._carried = None

    @property
    def device(self) -> torch.device:
        """Of the model; what is carried from call to call stays on the CPU, where the environments are."""
        return self.model.actions.low.device

    @property
    def batch(self) -> int:
        return len(self._history)

    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, A) actions for this step: from the running chunks, or from new calls where a chunk is used up. No call is
        made for environments outside `active` (B,) bool; their actions are 0.

        A plan with a delay is called `delay` steps before its actions are due, and an episode begins with the actions
        that the buffer takes to be on their way: with the primer "zero" the middle of the data's range, with "constant"
        the anchor, with "denoise" the first of a whole chunk."""
        self.observe(observation)
        active = np.ones(self.batch, bool) if active is None else np.asarray(active, bool)
        due = active & np.array([len(queue) <= self.plan.delay for queue in self._queue])
        if due.any():
            chunk, on_their_way = self._call(due)
            for index in np.flatnonzero(due):
                if len(self._queue[index]) < self.plan.delay:
                    self._queue[index] = deque(on_their_way[index])
                self._queue[index].extend(chunk[index])
        actions = np.zeros((self.batch, self.width), np.float32)
        for index in np.flatnonzero(active):
            actions[index] = self._queue[index].popleft()
        return actions

    def predict_action_chunk(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, execute, A), the first for `plan.delay` steps from now: one call for all environments (or those in
        `active`, the others get 0), whatever is left of earlier chunks is dropped."""
        self.observe(observation)
        for queue in self._queue:
            queue.clear()
        return self._call(np.ones(self.batch, bool) if active is None else np.asarray(active, bool))[0]

    def predict(self, observation, state=None, episode_start=None, deterministic: bool = True):
        """stable-baselines3's recurrent signature: (actions (B, A), state). The state is opaque and is not changed by
        later calls: the same observation and state give the same actions, whatever happened in between.

        state None begins episodes with the noise seeds 0..B - 1; episode_start (B,) bool begins some with the next
        seeds. `deterministic` changes nothing: all noise follows the seeds.
        """
        if state is None:
            self.reset(list(range(len(next(iter(observation.values()))))))
        else:
            if not (isinstance(state, tuple) and len(state) == 1 and isinstance(state[0], dict)):
                raise ValueError(f"state is a {type(state).__name__}: pass back what `predict` returned, or None")
            if state[0] is not self._carried:
                restore(self, state[0])
            self._history.check(observation)
            if episode_start is not None and np.any(episode_start):
                self.reset(mask=episode_start)
        actions = self.select_action(observation)
        self._carried = snapshot(self)
        return actions, (self._carried,)

    def observe(self, observation: dict[str, np.ndarray]) -> None:
        """Take the current step into the history without asking for an action."""
        if self.state is None:
            raise NotReset("the policy has no episode: call reset(seeds) before asking for actions")
        self._history.append(observation)
        self._carried = None  # what `predict` returned last is behind us

    @torch.no_grad()
    def _call(self, due: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One call for the environments that are due; the others' streams do not move.

        Returns: new actions (B, execute, A) and those on their way (B, delay, A), which come before them.
        """
        mask = torch.from_numpy(due)
        rows = np.flatnonzero(due)
        seen = {name: value.to(self.device) for name, value in self._history.stacked(rows).items()}
        condition = self.model.condition(seen)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            self.evaluations += 1
            return self.model.denoiser(x, t, condition)

        source = self.noise.rows(rows)
        state = StreamState(*(part[mask].to(self.device) for part in self.state))
        begin = self._begin[mask]
        if begin.any():
            state = reset_where(begin.to(self.device), self._prime(denoise, source, begin, rows), state)
        fresh = source.draw(self.plan.fresh + self.plan.first, self.width).to(self.device)
        noise = None
        if self.plan.eta:
            noise = source.draw(self.plan.evaluations, self.plan.horizon, self.width, leading=True).to(self.device)
        before = state.buffer[:, : self.plan.delay]
        chunk, state = stream(denoise, self.model.process, self.plan, state, fresh, noise)
        for kept, part in zip(self.state, state, strict=True):
            kept[mask] = part.cpu()
        self._begin[mask] = False
        actions = np.zeros((self.batch, self.plan.delay + self.plan.execute, self.width), np.float32)
        actions[rows] = self.model.actions.inverse(torch.cat([before, chunk], 1)).cpu().numpy()
        return actions[:, self.plan.delay :], actions[:, : self.plan.delay]

    def _prime(self, denoise, source: NoiseSource, begin: Tensor, rows: np.ndarray) -> StreamState:
        """Start states for the rows that begin; noise is drawn for these alone."""
        T, A = self.plan.horizon, self.width
        noise = torch.zeros(len(rows), T, A)
        own = source.rows(begin.nonzero()[:, 0].tolist())
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
        "shapes": dict(policy._history.shapes),
        "queue": [list(queue) for queue in policy._queue],
        "begin": policy._begin.clone(),
        "noise": [g.bit_generator.state for g in policy.noise.generators],
        "next_seed": policy._next_seed,
    }


def restore(policy: DiffusionPolicy, stored: dict) -> None:
    """Inverse of `snapshot`, for a policy of the same model and plan. Raises ValueError for one of another shape."""
    count, shape = len(stored["queue"]), (policy.plan.horizon, policy.width)
    if tuple(stored["state"].buffer.shape[1:]) != shape:
        raise ValueError(
            f"the stored buffer is {tuple(stored['state'].buffer.shape[1:])}, this policy's {shape}: restore it into a "
            "policy of the same model and plan"
        )
    policy.reset(list(range(count)))
    policy.state = StreamState(*(part.clone() for part in stored["state"]))
    observed = policy.model.observed
    policy._history.steps = [None if one is None else deque(one, maxlen=observed) for one in stored["history"]]
    policy._history.shapes = dict(stored["shapes"])
    policy._next_seed = stored["next_seed"]
    policy._queue = [deque(queue) for queue in stored["queue"]]
    policy._begin = stored["begin"].clone()
    for generator, state in zip(policy.noise.generators, stored["noise"], strict=True):
        generator.bit_generator.state = state
