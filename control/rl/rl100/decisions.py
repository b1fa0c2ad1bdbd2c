"""Decisions of episodes: what a policy of chunks saw, did and was paid, for imitation, critics and models alike.

Letters: R decisions, O observed steps, T actions of a chunk, A action width.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from control.demonstrations.store import Episode


@dataclass(frozen=True)
class Decisions:
    """observation, following: name -> (R, O, ...), before a chunk and after it; action (R, T, A), in the robot's units;
    reward (R,), discounted within the chunk; discount (R,): gamma to the power of the steps taken, 0 where the episode
    terminated; episode (R,): number of each."""

    observation: dict[str, Tensor]
    following: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    discount: Tensor
    episode: Tensor

    def __len__(self) -> int:
        return len(self.action)

    def rows(self, index: Tensor) -> "Decisions":
        """Some of them."""
        return Decisions(
            {name: values[index] for name, values in self.observation.items()},
            {name: values[index] for name, values in self.following.items()},
            self.action[index], self.reward[index], self.discount[index], self.episode[index],
        )  # fmt: skip

    def with_(self, other: "Decisions") -> "Decisions":
        """Both, the other's episodes numbered on."""
        after = int(self.episode.max()) + 1 if len(self) else 0
        other = replace(other, episode=other.episode + after)

        def joined(name: str):
            a, b = getattr(self, name), getattr(other, name)
            return {key: torch.cat([a[key], b[key]]) for key in a} if isinstance(a, dict) else torch.cat([a, b])

        return Decisions(*(joined(name) for name in self.__dataclass_fields__))


def decisions_of(
    episodes: list[Episode], chunk: int, observed: int, gamma: float, stride: int | None = None, names=("state",)
) -> Decisions:
    """Decisions of episodes that end with their first success, or with the time limit.

    stride: steps between decisions; default chunk, as the policy decides; 1 makes a decision of every step. A chunk
    that an episode's end cuts short keeps its last action for the rest; what is paid and discounted is the steps that
    were taken.
    Raises: ConfigError for a discount outside (0, 1] or empty chunks; DataError for no episode, or one whose rewards
    are not finite.
    """
    if not 0 < gamma <= 1 or chunk < 1 or observed < 1:
        raise ConfigError(f"gamma={gamma}, chunk={chunk}, observed={observed}: wanted 0 < gamma <= 1 and at least 1")
    if not episodes:
        raise DataError("no episodes to make decisions of: collect demonstrations first")
    parts: dict[str, list] = {"action": [], "reward": [], "discount": [], "episode": []}
    seen: dict[str, list] = {name: [] for name in names}
    after: dict[str, list] = {name: [] for name in names}
    for number, one in enumerate(episodes):
        source = f"episode {number}" + (f" (seed {one.seed})" if one.seed is not None else "")
        one.check(source)
        length = len(one)
        begin = np.arange(0, length, stride or chunk)
        end = np.minimum(begin + chunk, length)
        offsets = np.arange(chunk)
        steps = np.minimum(begin[:, None] + offsets, length - 1)
        taken = begin[:, None] + offsets < length
        weights = gamma**offsets
        window = np.arange(1 - observed, 1)
        for name in names:
            values = one.observations[name]
            seen[name].append(values[(begin[:, None] + window).clip(0)])
            after[name].append(values[(end[:, None] + window).clip(0)])
        parts["action"].append(one.actions[steps])
        parts["reward"].append((one.rewards[steps] * taken * weights).sum(1))
        decided = one.success if one.terminated is None else one.terminated
        alive = ~((end == length) & bool(decided))
        parts["discount"].append(gamma ** (end - begin) * alive)
        parts["episode"].append(np.full(len(begin), number))

    def tensor(arrays: list) -> Tensor:
        joined = np.concatenate(arrays)
        return torch.as_tensor(joined.astype(np.float32) if joined.dtype.kind == "f" else joined)

    return Decisions(
        {name: tensor(values) for name, values in seen.items()},
        {name: tensor(values) for name, values in after.items()},
        *(tensor(parts[name]) for name in ("action", "reward", "discount", "episode")),
    )  # fmt: skip
