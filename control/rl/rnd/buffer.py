"""A rollout with two streams of reward: the extrinsic one ends with its episodes, the intrinsic one never does."""

from typing import NamedTuple

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from control.rl.advantages import discounted_sums


class TwoStreamSamples(NamedTuple):
    """A minibatch: stable-baselines3's fields, and those of the intrinsic stream."""

    observations: Tensor
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    int_returns: Tensor
    inputs: Tensor


def gae(rewards: np.ndarray, values: np.ndarray, last: np.ndarray, gamma: float, lam: float, ends=None) -> np.ndarray:
    """Generalised advantages (T, N), backwards over time.

    rewards, values (T, N); last (N,): value of the state after the rollout. ends (T, N): 1 where the episode ended with
    the step and nothing flows back over it; None: the stream never ends, and the state after an episode's end is the
    first of the next one.
    """
    alive = np.ones_like(rewards) if ends is None else 1 - ends
    following = np.concatenate([values[1:], last[None]])
    delta = rewards + gamma * alive * following - values
    return discounted_sums(delta, gamma * lam * alive)


class TwoStreamRolloutBuffer(RolloutBuffer):
    """Args: as RolloutBuffer; input_width d of the bonus; int_gamma; int_episodic: cut the intrinsic stream as well
    where an episode ends (a variant to compare with)."""

    def __init__(self, *args, input_width: int = 1, int_gamma: float = 0.99, int_episodic: bool = False, **kwargs):
        self.input_width, self.int_gamma, self.int_episodic = input_width, int_gamma, int_episodic
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        super().reset()
        shape = (self.buffer_size, self.n_envs)
        self.inputs = np.zeros((*shape, self.input_width), np.float32)
        self.int_values, self.int_rewards = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.int_returns, self.int_advantages = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def add_intrinsic(self, int_value: Tensor, inputs: np.ndarray) -> None:
        """Of the step that `add` takes next: value (N, 1) of its state, bonus inputs (N, d) of the state it reached."""
        self.int_values[self.pos] = int_value.cpu().numpy().flatten()
        self.inputs[self.pos] = inputs

    def mix(
        self, bonus: np.ndarray, last_int_values: Tensor, dones: np.ndarray, ext_coef: float, int_coef: float
    ) -> None:
        """After `compute_returns_and_advantage`: the intrinsic pass with the scaled bonus (T, N), and the sum of both
        advantages in `advantages`. dones (N,): of the last step."""
        self.int_rewards[:] = bonus
        last = last_int_values.cpu().numpy().flatten()
        ends = np.concatenate([self.episode_starts[1:], dones[None]]) if self.int_episodic else None
        self.int_advantages = gae(self.int_rewards, self.int_values, last, self.int_gamma, self.gae_lambda, ends)
        self.int_returns = self.int_advantages + self.int_values
        self.ext_advantages = self.advantages
        self.advantages = ext_coef * self.advantages + int_coef * self.int_advantages

    def get(self, batch_size: int | None = None):
        if not self.generator_ready:
            for name in ("int_returns", "inputs"):
                setattr(self, name, self.swap_and_flatten(getattr(self, name)))
        yield from super().get(batch_size)

    def _get_samples(self, batch_inds: np.ndarray, env=None) -> TwoStreamSamples:
        plain = super()._get_samples(batch_inds, env)
        own = (self.int_returns[batch_inds].flatten(), self.inputs[batch_inds])
        return TwoStreamSamples(*plain, *(torch.as_tensor(one, device=self.device) for one in own))
