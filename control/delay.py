"""A policy whose answers come late: what inference time does to a closed loop, without a slow computer."""

from collections import deque

import numpy as np


class DelayedActor:
    """Calls `policy.predict_action_chunk` every `every` control steps; the answer arrives `delay` steps later.

    drop: leading actions of an answer that are thrown away as out of date: `delay` for a chunk whose first action was
    for the time of its observation (Diffusion Policy), 0 for one that begins after the delay (a delayed plan) or that
    is played late. idle (A,): sent until the first answer is there. The last action is held where answers run out.
    """

    def __init__(self, policy, delay: int, every: int, drop: int, idle: np.ndarray):
        if delay < 0 or every < 1 or drop < 0:
            raise ValueError(f"delay {delay}, every {every}, drop {drop}: none may be negative, every at least 1")
        self.policy, self.delay, self.every, self.drop, self.idle = policy, delay, every, drop, np.asarray(idle)

    def reset(self, seeds: list[int] | None = None, mask=None) -> None:
        if mask is not None:
            raise NotImplementedError("a delayed actor restarts all environments together")
        self.policy.reset(seeds)
        self._step, self._arriving = 0, deque()
        self._plan: np.ndarray | None = None  # (n, B, A) actions from now on
        self._last = np.repeat(self.idle[None], len(seeds), 0)

    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, A) for this step."""
        if self._step % self.every == 0:
            chunk = self.policy.predict_action_chunk(observation, active)[:, self.drop :]
            self._arriving.append((self._step + self.delay, chunk.swapaxes(0, 1)))
        else:
            self.policy.observe(observation)
        while self._arriving and self._arriving[0][0] <= self._step:
            self._plan = self._arriving.popleft()[1]
        if self._plan is not None and len(self._plan):
            self._last, self._plan = self._plan[0], self._plan[1:]
        self._step += 1
        return self._last
