"""Chunk policies in their tasks: whole episodes for data rounds and evaluations, lanes of decisions for online RL.

An episode is paid 1 at its first success and ends there. Each is a pure function of the policy, its way of acting and
the seed; lanes and episodes may therefore be spread over processes.
"""

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError
from control.demonstrations.collect import EVALUATION_SEEDS
from control.demonstrations.store import Episode
from control.envs import make
from control.envs.task import TaskEnv
from control.policies.history import ObservationHistory
from control.policies.noise import NoiseSource
from control.rl.rl100.chain import Path
from control.rl.rl100.critics import Critics
from control.rl.rl100.policy import Policy
from control.workers import Pool, in_order

WAYS = ("explore", "mean", "one_step", "best_of_n")
CANDIDATES = 32  # chains of "best_of_n"


@dataclass(frozen=True)
class TaskSpec:
    """task by name; observe; max_steps of an episode; workers' environments are made of it."""

    task: str
    observe: tuple[str, ...] = ("state",)
    max_steps: int = 120

    def make(self):
        return make(self.task, self.max_steps, observe=self.observe)


@contextmanager
def one_thread():
    """PyTorch on one thread, here as in a worker: sums of several may differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def history_of(policy: Policy, count: int) -> ObservationHistory:
    """What the policy sees of `count` environments."""
    return ObservationHistory.of(policy.encoder.encoders, policy.encoder.steps, count)


@dataclass
class Choice:
    """Of B decisions: robot actions (B, T, A); the chain, where the policy explores; noise (B, C) of the bottleneck."""

    actions: np.ndarray
    path: Path | None
    noise: Tensor | None


class Actor:
    """A policy and the random numbers of B environments, each from its own seed.

    way: "explore" (the stochastic chain), "mean" (without its noise), "one_step" (the head, in `steps`), or "best_of_n"
    (of 32 stochastic chains the one that the critics value most, as IDQL acts, arXiv 2304.10573).
    """

    def __init__(self, policy: Policy, way: str, seeds: list[int], steps: int = 1, critics: Critics | None = None):
        if way not in WAYS:
            raise ConfigError(f"way={way!r}: choose one of {', '.join(WAYS)}")
        if way == "best_of_n" and critics is None:
            raise ConfigError("way='best_of_n' needs critics that have been trained")
        self.policy, self.way, self.steps, self.critics = policy.eval(), way, steps, critics
        self.source = NoiseSource(seeds)

    @torch.no_grad()
    def decide(self, observation: dict[str, Tensor], rows: list[int]) -> Choice:
        """For the environments `rows`, whose observations (B, O, ...) these are; the others' numbers do not move."""
        source = NoiseSource([])
        source.generators = [self.source.generators[row] for row in rows]
        policy, explores = self.policy, self.way == "explore"
        if self.way == "best_of_n":
            return Choice(self._best(observation, source), None, None)
        start = source.draw(*policy.shape)
        noise = source.draw(policy.width) if explores and policy.bottleneck is not None else None
        condition, path = policy.condition(observation, noise), None
        if explores:
            draws = source.draw(policy.chain.steps, *policy.shape, leading=True)
            path = policy.explore(condition, start, draws)
            action = path.action
        elif self.way == "mean":
            action = policy.mean(condition, start)
        else:
            more = source.draw(self.steps - 1, *policy.shape, leading=True) if self.steps > 1 else None
            action = policy.one_step(condition, start, self.steps, more)
        return Choice(policy.to_robot(action).numpy(), path, noise)

    def _best(self, observation: dict[str, Tensor], source: NoiseSource) -> np.ndarray:
        policy = self.policy
        condition = policy.condition(observation).repeat_interleave(CANDIDATES, 0)
        start = source.draw(CANDIDATES, *policy.shape).flatten(0, 1)
        noise = source.draw(policy.chain.steps, CANDIDATES, *policy.shape, leading=True).flatten(1, 2)
        action = policy.executed(policy.explore(condition, start, noise).action)
        best = self.critics.least(condition, action).view(-1, CANDIDATES).argmax(1)
        chosen = action.view(-1, CANDIDATES, *policy.shape)[torch.arange(len(best)), best]
        return policy.to_robot(chosen).numpy()


class ChunkPolicy:
    """A policy and a way of acting behind the interface of `control.rollout`."""

    def __init__(self, policy: Policy, way: str = "mean", steps: int = 1, critics: Critics | None = None):
        self.policy, self.way, self.steps, self.critics = policy, way, steps, critics

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None:
        """Begin episodes: of all environments, or of those in mask (B,)."""
        seeds = [0] if seeds is None else list(seeds)
        if mask is None or not hasattr(self, "actor"):
            self.actor = Actor(self.policy, self.way, seeds, self.steps, self.critics)
            self.history = history_of(self.policy, len(seeds))
            self.queues: list[deque] = [deque() for _ in seeds]
            return
        for row in np.flatnonzero(mask):
            self.actor.source.restart(int(row), int(seeds[row]))
            self.history.restart(row)
            self.queues[row].clear()

    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, A); zeros for those outside active (B,)."""
        rows = list(range(len(self.queues))) if active is None else np.flatnonzero(active).tolist()
        self.history.append(observation)
        due = [row for row in rows if not self.queues[row]]
        if due:
            for row, chunk in zip(due, self.actor.decide(self.history.stacked(due), due).actions, strict=True):
                self.queues[row].extend(chunk)
        actions = np.zeros((len(self.queues), self.policy.shape[1]), np.float32)
        for row in rows:
            actions[row] = self.queues[row].popleft()
        return actions


@dataclass
class Seen:
    """After a step: the observation, None where nobody looked; whether the task is won, the episode over (won, or
    decided otherwise), and cut by the time limit."""

    observation: dict[str, np.ndarray] | None
    won: bool
    over: bool
    cut: bool


def take_step(env, action: np.ndarray, look: bool) -> Seen:
    """A step of a task; without a look its sensors stay off, unless the episode ends with it."""
    task = env.unwrapped
    look = look or not isinstance(task, TaskEnv)
    task.looking = look
    observation, _, ended, cut, info = env.step(action)
    won = bool(info["success"])
    over = won or bool(ended)
    if not look:
        observation = task.look() if over or cut else None
    return Seen(observation, won, over, bool(cut))


def play(
    policy: Policy, spec: TaskSpec, seeds: list[int], way: str = "mean", steps: int = 1, critics: Critics | None = None,
    kept: bool = True,
) -> list[Episode]:  # fmt: skip
    """One episode per seed, all side by side, in the order of the seeds. way, steps, critics: as `Actor`; kept: with
    their observations, which costs a look at every step."""
    with one_thread():
        return _play(policy, spec, seeds, Actor(policy, way, seeds, steps, critics), kept)


def _looks(policy: Policy) -> list[bool]:
    """For every step of a chunk whether to look: at the last alone, behind which the next decision is made, where a
    decision sees one observation; always where it sees more."""
    last = policy.shape[0] - 1
    return [policy.encoder.steps > 1 or t == last for t in range(last + 1)]


def _play(policy: Policy, spec: TaskSpec, seeds: list[int], actor: Actor, kept: bool) -> list[Episode]:
    envs = [spec.make() for _ in seeds]
    begun = [env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)]
    history = history_of(policy, len(seeds))
    for row, one in enumerate(begun):
        history.take(row, one)
    frames = [[one] for one in begun]
    actions: list[list] = [[] for _ in seeds]
    won, over, alive = [False] * len(seeds), [False] * len(seeds), list(range(len(seeds)))
    looks = _looks(policy)
    while alive:
        choice = actor.decide(history.stacked(alive), alive)
        acting = dict(zip(alive, choice.actions, strict=True))
        for t in range(policy.shape[0]):
            for row in list(acting):
                seen = take_step(envs[row], acting[row][t], kept or looks[t])
                actions[row].append(acting[row][t])
                if seen.observation is not None:
                    frames[row].append(seen.observation)
                    history.take(row, seen.observation)
                won[row], over[row] = seen.won, seen.over
                if seen.over or seen.cut:
                    del acting[row]
        alive = list(acting)
    for env in envs:
        env.close()
    if not kept:
        frames = [[] for _ in seeds]
    return [finished_episode(spec, *one) for one in zip(frames, actions, won, over, seeds, strict=True)]


def finished_episode(spec: TaskSpec, frames: list, actions: list, won: bool, over: bool, seed: int) -> Episode:
    """Of one observation more than actions, or of none at all; paid 1 at its end if it was won; over: whether the task
    ended it."""
    rewards = np.zeros(len(actions), np.float32)
    rewards[-1] = float(won)
    observations = {name: np.stack([one[name] for one in frames]) for name in spec.observe} if frames else {}
    return Episode(observations, np.stack(actions), rewards, won, int(seed), terminated=over)


def play_spread(
    policy: Policy, spec: TaskSpec, seeds: list[int], pool: Pool, way: str = "mean", steps: int = 1, part: int = 25,
    critics: Critics | None = None, kept: bool = True,
) -> list[Episode]:  # fmt: skip
    """`play` in parts of fixed size over a pool that has been entered, in the order of the seeds: the same episodes
    whatever the pool."""
    parts = [(policy, spec, seeds[i : i + part], way, steps, critics, kept) for i in range(0, len(seeds), part)]
    return [one for found in in_order(pool, play, parts) for one in found]


@dataclass
class Lanes:
    """S decisions of N lanes. observation, following: name -> (S, N, O, ...); noise (S, N, C) of the bottleneck or
    None; states (K + 1, S, N, T, A); log_prob (K, S, N); reward (S, N), discounted within the chunk; discount (S, N);
    terminated, done (S, N); steps: of the environments; wins, ends: episodes that reached the goal, and all that
    ended."""

    observation: dict[str, Tensor]
    following: dict[str, Tensor]
    noise: Tensor | None
    states: Tensor
    log_prob: Tensor
    reward: np.ndarray
    discount: np.ndarray
    terminated: np.ndarray
    done: np.ndarray
    steps: int
    wins: int
    ends: int

    @classmethod
    def joined(cls, parts: list["Lanes"]) -> "Lanes":
        """Side by side."""

        def both(name: str, axis: int):
            values = [getattr(one, name) for one in parts]
            if values[0] is None:
                return None
            if isinstance(values[0], dict):
                return {key: torch.cat([one[key] for one in values], axis) for key in values[0]}
            return torch.cat(values, axis) if isinstance(values[0], Tensor) else np.concatenate(values, axis)

        return cls(*(both(name, 1) for name in ("observation", "following", "noise")), both("states", 2),
                   both("log_prob", 2), *(both(name, 1) for name in ("reward", "discount", "terminated", "done")),
                   *(sum(getattr(one, name) for one in parts) for name in ("steps", "wins", "ends")))  # fmt: skip


def drive_lanes(policy: Policy, spec: TaskSpec, seeds: list[int], decisions: int, gamma: float) -> Lanes:
    """`decisions` decisions of one lane per seed under the stochastic chain, episode after episode; the last one is cut
    where the lane ends. A lane's episodes are drawn from its seed, below those kept for evaluation."""
    with one_thread():
        return _drive(policy, spec, seeds, decisions, gamma)


def _drive(policy: Policy, spec: TaskSpec, seeds: list[int], decisions: int, gamma: float) -> Lanes:
    count, chunk = len(seeds), policy.shape[0]
    envs = [spec.make() for _ in seeds]
    draws = [np.random.default_rng((int(seed), 0x1A9E)) for seed in seeds]
    actor = Actor(policy, "explore", seeds)
    history, rows = history_of(policy, count), list(range(count))

    def begin(row: int) -> None:
        history.restart(row)
        history.take(row, envs[row].reset(seed=int(draws[row].integers(EVALUATION_SEEDS)))[0])

    for row in rows:
        begin(row)
    kept: dict[str, list] = {name: [] for name in ("observation", "following", "noise", "states", "log_prob", "reward",
                                                   "discount", "terminated", "done")}  # fmt: skip
    steps = wins = ends = 0
    looks = _looks(policy)
    for _ in range(decisions):
        kept["observation"].append(history.stacked())
        choice = actor.decide(kept["observation"][-1], rows)
        reward, taken = np.zeros(count), np.zeros(count, int)
        terminated, done = np.zeros(count), np.zeros(count)
        acting = set(rows)
        for t in range(chunk):
            for row in sorted(acting):
                seen = take_step(envs[row], choice.actions[row, t], looks[t])
                if seen.observation is not None:
                    history.take(row, seen.observation)
                steps += 1
                taken[row] += 1
                if seen.won:
                    reward[row] = gamma**t
                if seen.over or seen.cut:
                    terminated[row], done[row] = float(seen.over), 1.0
                    wins, ends = wins + seen.won, ends + 1
                    acting.discard(row)
        kept["following"].append(history.stacked())
        for row in np.flatnonzero(done):
            begin(row)
        for name, value in (("noise", choice.noise), ("states", choice.path.states), ("log_prob", choice.path.log_prob),
                            ("reward", reward), ("discount", gamma**taken), ("terminated", terminated),
                            ("done", done)):  # fmt: skip
            kept[name].append(value)
    for env in envs:
        env.close()
    stacked = {name: {key: torch.stack([one[key] for one in kept[name]]) for key in history.shapes}
               for name in ("observation", "following")}  # fmt: skip
    noise = None if kept["noise"][0] is None else torch.stack(kept["noise"])
    return Lanes(
        stacked["observation"], stacked["following"], noise, torch.stack(kept["states"], 1),
        torch.stack(kept["log_prob"], 1),
        *(np.stack(kept[name]) for name in ("reward", "discount", "terminated", "done")), steps, wins, ends,
    )  # fmt: skip
