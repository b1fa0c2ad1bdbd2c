"""Closed loops of policies in many environments at once: seeded, comparable pair by pair, with intervals.

Episode i of every policy has the same layout and the same noise: differences between policies are paired.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from tqdm import tqdm

from common.statistics import wilson
from control.envs import make


class Actor(Protocol):
    """What a rollout needs of a policy. active (B,) bool: whose actions matter, by default all; a policy may leave out
    the work for the others. One that has `rewarded(rewards (B,))` is told after every step what it earned."""

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None: ...

    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Outcome:
    """One episode. success: the task's criterion held at some step. score: largest `info[score]`, where asked for;
    steps until success or the end; info: the last step's."""

    seed: int
    success: bool
    steps: int
    score: float
    info: dict


def returns(info: dict) -> bool:
    """The task is measured by its return, so that a success does not end an episode."""
    return "return" in info


def decides(info: dict) -> bool:
    """Whether a success of now ends an episode."""
    return bool(info["success"]) and not returns(info)


def rollout(
    policy: Actor,
    task: str,
    seeds: Iterable[int],
    *,
    parallel: int = 25,
    max_steps: int | None = None,
    score: str = "success",
    stop_on_success: bool = True,
    observe: tuple[str, ...] = ("state",),
    record=None,
    progress: bool = False,
    **environment,
) -> list[Outcome]:
    """One episode per seed, `parallel` environments at a time, in the order of the seeds.

    stop_on_success: end an episode there, unless the task is measured by its return. score: key of `info` whose largest
    value is kept. record: called as record(seed, step, observation, action, info) for every step. environment: as
    `make`. The result does not depend on `parallel`.
    """
    seeds = [int(seed) for seed in seeds]
    outcomes: list[Outcome] = []
    bar = tqdm(total=len(seeds), desc=task, unit="episode", disable=not progress, dynamic_ncols=True)
    envs = [make(task, max_steps, observe=observe, **environment) for _ in range(min(parallel, len(seeds)))]
    for begin in range(0, len(seeds), max(1, len(envs))):
        wave = seeds[begin : begin + len(envs)]
        outcomes += _wave(policy, envs[: len(wave)], wave, score, stop_on_success, record, bar)
    for env in envs:
        env.close()
    bar.close()
    return outcomes


def _wave(policy, envs, seeds, score, stop_on_success, record, bar) -> list[Outcome]:
    """All environments from reset to end; those that are done wait with their last observation."""
    count = len(envs)
    started = [env.reset(seed=seed) for env, seed in zip(envs, seeds, strict=True)]
    observations, infos = [one[0] for one in started], [one[1] for one in started]
    policy.reset(seeds)
    best = [float(info.get(score, 0.0)) for info in infos]
    success = [bool(info["success"]) for info in infos]
    steps, alive = [0] * count, [True] * count
    rewarded = getattr(policy, "rewarded", None)
    while any(alive):
        stacked = {name: np.stack([one[name] for one in observations]) for name in observations[0]}
        actions, rewards = policy.select_action(stacked, np.array(alive)), np.zeros(count)
        for i, env in enumerate(envs):
            if not alive[i]:
                continue
            if record is not None:
                record(seeds[i], steps[i], observations[i], actions[i], infos[i])
            observations[i], rewards[i], ended, cut, infos[i] = env.step(actions[i])
            steps[i] += 1
            best[i] = max(best[i], float(infos[i].get(score, 0.0)))
            success[i] |= bool(infos[i]["success"])
            alive[i] = not (ended or cut or (success[i] and stop_on_success and not returns(infos[i])))
            bar.update(not alive[i])
        if rewarded is not None:
            rewarded(rewards)
    return [Outcome(*row) for row in zip(seeds, success, steps, best, infos, strict=True)]


def summary(outcomes: list[Outcome]) -> dict[str, float]:
    """Success rate with its Wilson interval, mean score and mean length of an evaluation."""
    successes = sum(one.success for one in outcomes)
    low, high = wilson(successes, len(outcomes))
    return {
        "success": successes / len(outcomes),
        "success_low": low,
        "success_high": high,
        "score": float(np.mean([one.score for one in outcomes])),
        "steps": float(np.mean([one.steps for one in outcomes])),
    }


def as_records(outcomes: list[Outcome]) -> list[dict]:
    """Outcomes as plain dictionaries, for JSON."""
    return [asdict(one) for one in outcomes]
