"""Time of every control step of policies in PyTorch, all of them side by side on one machine."""

import gc
import time

import numpy as np

from control.demonstrations.collect import EVALUATION_SEEDS
from control.envs import make


def observed_states(task: str, steps: int) -> list[np.ndarray]:
    """States (O,) of so many control steps under actions that wander through the action space."""
    env, draws = make(task), np.random.default_rng(0)
    space, found, over = env.action_space, [], True
    for _ in range(steps):
        if over:
            seen, over = env.reset(seed=EVALUATION_SEEDS)[0], False
            action = (space.low + space.high) / 2
        found.append(seen["state"])
        action = (action + 0.1 * (space.high - space.low) * draws.standard_normal(space.shape)).clip(
            space.low, space.high
        )
        seen, _, ended, cut, _ = env.step(action)
        over = ended or cut
    return found


def step_times(policies: dict, task: str, steps: int, repeats: int = 3, warm_up: int = 16) -> dict[str, np.ndarray]:
    """Milliseconds of every control step of one environment, (repeats, steps) per policy.

    All policies see the same observations and take turns, so that what disturbs the machine disturbs all; in every
    repeat a policy calls its network at the same steps. One thread, no garbage collection meanwhile, as in a control
    loop; simulation is not in it.
    """
    import torch

    seen = [{"state": one[None]} for one in observed_states(task, steps)]
    found = {name: np.zeros((repeats, steps)) for name in policies}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.disable()
    try:
        for policy in policies.values():
            policy.reset([0])
            for one in (seen * warm_up)[:warm_up]:
                policy.select_action(one)
        for repeat in range(repeats):
            for name, policy in policies.items():
                policy.reset([0])
                for step, one in enumerate(seen):
                    begin = time.perf_counter()
                    policy.select_action(one)
                    found[name][repeat, step] = 1e3 * (time.perf_counter() - begin)
    finally:
        gc.enable()
        torch.set_num_threads(threads)
    return found


def undisturbed_worst(times: np.ndarray) -> float:
    """The slowest step of (repeats, steps), each step at its quickest repeat: what the policy itself costs in its worst
    step, without what else the machine did in one repeat."""
    return float(times.min(0).max())
