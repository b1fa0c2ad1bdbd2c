"""A planner distilled: what a driver that knows the map does, cloned into a policy that sees rays alone.

Cloning gives reinforcement learning a policy and a critic to begin with (`RelativeEntropyPolicy` then stays near it).
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3.common.policies import ActorCriticPolicy
from tqdm import tqdm

from common.errors import ConfigError
from control.envs.warehouse.env import WarehouseVecEnv
from control.planning.drivers import DRIVERS

DEMONSTRATION_SEED = 2_000_000  # first seed of the drivers' episodes


@dataclass(frozen=True)
class Demonstrations:
    """Steps of the episodes that reached their goal. observations (K, O), the driver's actions (K, A), returns (K,)
    discounted to the episode's end; tried: episodes, reached: of them."""

    observations: np.ndarray
    actions: np.ndarray
    returns: np.ndarray
    tried: int
    reached: int


def demonstrate(driver: str, episodes: int, noise: float = 0.3, gamma: float = 0.995, seed: int = DEMONSTRATION_SEED,
                rows: int = 16, progress: bool = False, **environment) -> Demonstrations:  # fmt: skip
    """Episodes of a driver in the kinematic twin, `rows` side by side.

    noise: deviation of what is added to the driven action, not to the one that is kept, so that the driver shows how to
    come back (DART, Laskey et al. 2017). environment: as `AGVWarehouse`, without backend.
    Raises: ConfigError for an unknown driver, and where no episode reached its goal.
    """
    if driver not in DRIVERS:
        raise ConfigError(f"driver={driver!r}: choose one of {', '.join(DRIVERS)}")
    envs = WarehouseVecEnv(min(rows, episodes), **environment)
    envs.seed(seed)
    random, drivers = np.random.default_rng(seed), [DRIVERS[driver]() for _ in range(envs.num_envs)]
    seen = envs.reset()
    for row, one in enumerate(drivers):
        one.begin(envs.warehouse, row)
    begun: list[list[tuple]] = [[] for _ in drivers]
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    tried, bar = 0, tqdm(total=episodes, desc=driver, unit="episode", disable=not progress, dynamic_ncols=True)
    while tried < episodes:
        actions = np.stack([one.act(envs.warehouse, row) for row, one in enumerate(drivers)])
        driven = (actions + noise * random.standard_normal(actions.shape)).clip(-1, 1)
        before = seen
        seen, rewards, dones, infos = envs.step(driven)
        for row, one in enumerate(drivers):
            begun[row].append((before[row], actions[row], rewards[row]))
            if not dones[row]:
                continue
            tried += 1
            bar.update()
            if infos[row]["is_success"]:
                kept.append(_with_returns(begun[row], gamma))
            begun[row] = []
            one.begin(envs.warehouse, row)
    bar.close()
    if not kept:
        raise ConfigError(f"driver {driver!r} reached no goal in {tried} episodes: less noise, or another driver")
    observations, actions, returns = (np.concatenate(part).astype(np.float32) for part in zip(*kept, strict=True))
    return Demonstrations(observations, actions, returns, tried, len(kept))


def _with_returns(steps: list[tuple], gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    observations, actions, rewards = (np.array(part) for part in zip(*steps, strict=True))
    returns, following = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        returns[t] = following = rewards[t] + gamma * following
    return observations, actions, returns


def clone(
    policy: ActorCriticPolicy,
    shown: Demonstrations,
    epochs: int = 40,
    batch: int = 256,
    learning_rate: float = 1e-3,
    least_std: float = 0.1,
    held_out: float = 0.1,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, float]:
    """The mean on the actions and the critic on the returns, by squared error and an optimiser of its own; then the
    deviation of largest likelihood, that of the steps held out.

    least_std: the deviation stays above it, so that reinforcement learning has something to explore with.
    Returns nll, action_error (mean absolute) and value_error (root mean square) of the steps held out.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(shown.actions))
    cut = max(1, round(held_out * len(order)))
    tensors = [
        torch.as_tensor(part, device=policy.device) for part in (shown.observations, shown.actions, shown.returns)
    ]
    adam = torch.optim.Adam([one for one in policy.parameters() if one.requires_grad], lr=learning_rate)
    policy.set_training_mode(True)
    for _ in tqdm(range(epochs), desc="cloning", unit="epoch", disable=not progress, dynamic_ncols=True):
        left = random.permutation(order[cut:])
        for begin in range(0, len(left), batch):
            seen, actions, returns = (part[left[begin : begin + batch]] for part in tensors)
            mean, value = policy.get_distribution(seen).distribution.mean, policy.predict_values(seen)
            loss = F.mse_loss(mean, actions) + F.mse_loss(value.flatten(), returns)
            adam.zero_grad()
            loss.backward()
            adam.step()
    policy.set_training_mode(False)
    with torch.no_grad():
        seen, actions, returns = (part[order[:cut]] for part in tensors)
        error = (policy.get_distribution(seen).distribution.mean - actions).square().mean(0).sqrt()
        policy.log_std.copy_(error.clamp_min(least_std).log())
        distribution = policy.get_distribution(seen)
        return {
            "nll": -distribution.log_prob(actions).mean().item(),
            "action_error": (distribution.mode().clamp(-1, 1) - actions).abs().mean().item(),
            "value_error": F.mse_loss(policy.predict_values(seen).flatten(), returns).sqrt().item(),
        }
