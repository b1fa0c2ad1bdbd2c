"""Noisy demonstrations: a task's scripted expert under action noise, what was executed kept up to the first success."""

import numpy as np
from tqdm import tqdm

from common.errors import DataError
from control.demonstrations.collect import EVALUATION_SEEDS, SLACK
from control.demonstrations.store import Episode
from control.rl.rl100.collect import TaskSpec, finished_episode
from control.workers import Pool, in_order


def attempt(spec: TaskSpec, seed: int, noise: float) -> Episode:
    """One episode of the expert; noise in half action ranges. What is kept is what was executed: critics learn its
    value."""
    from control.demonstrations.experts import expert_for

    env, expert = spec.make(), expert_for(spec.task)(seed)
    draws = np.random.default_rng((seed, 0xDA27))
    low, high = env.action_space.low, env.action_space.high
    seen, _ = env.reset(seed=seed)
    frames, actions, won, over, cut = [seen], [], False, False, False
    while not (over or cut):
        clean = np.clip(expert(env.unwrapped), low, high)
        action = (clean + noise * (high - low) / 2 * draws.standard_normal(clean.shape)).clip(low, high)
        seen, _, over, cut, info = env.step(action)
        frames.append(seen)
        actions.append(action.astype(np.float32))
        won = bool(info["success"])
        over = bool(over) or won
    env.close()
    return finished_episode(spec, frames, actions, won, over, seed)


def noisy_demonstrations(
    spec: TaskSpec, count: int, noise: float, pool: Pool, seed: int = 0, progress: bool = False
) -> list[Episode]:
    """The first `count` successes of the layouts seed, seed + 1, ..; at most four layouts per success are tried.

    Raises: DataError where there are fewer, or for layouts that are kept for evaluation.
    """
    most = SLACK * count
    if seed + most > EVALUATION_SEEDS:
        raise DataError(f"demonstrations from seed {seed}: layouts from {EVALUATION_SEEDS} on are kept for evaluation")
    found: list[Episode] = []
    bar = tqdm(total=count, desc=spec.task, unit="episode", disable=not progress, dynamic_ncols=True)
    for first in range(seed, seed + most, count):
        wave = in_order(pool, attempt, [(spec, number, noise) for number in range(first, first + count)])
        found += [one for one in wave if one.success]
        bar.update(min(count, len(found)) - bar.n)
        if len(found) >= count:
            bar.close()
            return found[:count]
    raise DataError(f"{spec.task}: the expert under noise {noise} succeeded in {len(found)} of {most} layouts, {count} "
                    "were wanted: less noise, or more steps per episode")  # fmt: skip
