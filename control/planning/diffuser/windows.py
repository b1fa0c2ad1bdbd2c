"""Training windows of episodes for planners: states `stride` steps apart, returns-to-go, and pairs for the inverse
dynamics."""

import logging

import numpy as np
import torch
from torch.utils.data import Dataset

from common.errors import ConfigError, DataError
from control.demonstrations.load import check_task, read_episodes
from control.demonstrations.store import Episode
from control.planning.diffuser.returns import stream_returns

logger = logging.getLogger(__name__)


class PlanWindows(Dataset):
    """Windows of `length` states, `stride` steps apart, that lie in one episode; an episode of T actions has T + 1
    states, so that the last window ends at its last state: max(0, T + 1 - (length - 1) stride) windows.

    Args: episodes, with the observation `state`; length; stride; discount, within: of `stream_returns`. With `within`
        the windows that begin nearer to a cut behind which nothing is known are left out: nor is their return.
        whole_actions: give the actions of all states of a window (stride 1 alone), for planners of state and action.
    `dataset[i]` and `dataset.__getitems__(indices)` return {"states": (L, S), "returns": (L,), "origin": (S,) a state
    of the same episode, "goal": (S,) the state `gap` steps later, "gap": () 1 .. stride, "action": (A,) taken at
    origin, "asked": () its return}, or with `whole_actions` {"states", "returns", "actions": (L, A)}.
    Raises: DataError when no episode is long enough; shorter ones are left out with a warning.
    """

    def __init__(
        self,
        episodes: list[Episode],
        length: int,
        stride: int = 1,
        discount: float = 1.0,
        within: int | None = None,
        whole_actions: bool = False,
        source: str = "the episodes",
    ):
        if length < 2 or stride < 1 or (whole_actions and stride != 1):
            raise ConfigError(
                f"windows: length {length}, stride {stride}: wanted at least 2 and 1; actions need stride 1"
            )
        if not episodes or "state" not in episodes[0].observations:
            raise DataError(f"{source}: no episodes with an observation `state`: collect a data set first")
        span = (length - 1) * stride
        kept = [one for one in episodes if len(one) >= span + whole_actions]
        if not kept:
            longest = max(len(one) for one in episodes)
            raise DataError(
                f"{source}: no episode is as long as a window of {length} states {stride} steps apart ({span} steps); "
                f"the longest has {longest}: shorten the horizon or the stride"
            )
        if len(kept) < len(episodes):
            left = f"{len(episodes) - len(kept)} of {len(episodes)} episodes are left out"
            logger.warning(f"{source}: {left}: a window needs {span} steps")
        for number, one in enumerate(kept):
            one.check(f"{source}, episode {number}")
        self.length, self.stride, self.whole_actions = length, stride, whole_actions
        self.states = _joined([one.observations["state"] for one in kept])
        returns, following = stream_returns(kept, discount, within)
        self.returns = _joined(returns)
        self.actions = _joined([np.concatenate([one.actions, one.actions[-1:]]) for one in kept])
        counts = np.array([len(one) + 1 for one in kept])
        ends = np.cumsum(counts)
        starts, first, last = [], [], []
        for one, begin, end, known in zip(kept, ends - counts, ends, following, strict=True):
            cut = max(0, within - known) if within and not one.terminated else 0
            until = end - max(span + whole_actions, cut)
            starts.append(np.arange(begin, until))
            first.append(np.full(max(0, until - begin), begin))
            last.append(np.full(max(0, until - begin), end - 1))
        self.starts, self.first, self.last = (torch.as_tensor(np.concatenate(part)) for part in (starts, first, last))
        if not len(self.starts):
            raise DataError(f"{source}: no window is `within`={within} steps before its episode's cut: lower it")
        flat = [i for i in range(self.states.shape[1]) if float(self.states[:, i].std()) < 1e-6]
        if flat:
            logger.warning(f"{source}: the state's dimensions {flat} are constant")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitems__(self, indices: list[int]) -> dict:
        indices = torch.as_tensor(indices)
        begin = self.starts[indices]
        steps = begin[:, None] + self.stride * torch.arange(self.length)
        batch = {"states": self.states[steps], "returns": self.returns[steps]}
        if self.whole_actions:
            return {**batch, "actions": self.actions[steps]}
        # the pair comes from anywhere in the episode, so that its end, where no window begins, is learnt too
        first, last = self.first[indices], self.last[indices]
        gap = torch.randint(1, self.stride + 1, begin.shape)
        origin = first + (torch.rand(begin.shape) * (last - gap + 1 - first)).long()
        return {
            **batch, "origin": self.states[origin], "goal": self.states[origin + gap], "gap": gap.float(),
            "action": self.actions[origin], "asked": self.returns[origin],
        }  # fmt: skip

    def __getitem__(self, index: int) -> dict:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}


def _joined(parts: list[np.ndarray]) -> torch.Tensor:
    return torch.as_tensor(np.concatenate(parts).astype(np.float32))


def plan_windows(path: str, task: str | None = None, **kwargs) -> PlanWindows:
    """Windows of the data set at `path`; kwargs as `PlanWindows`. task: whose data they must be; DataError if not."""
    episodes = read_episodes(path)
    if task:
        check_task(path, task, episodes)
    return PlanWindows(episodes, source=str(path), **kwargs)
