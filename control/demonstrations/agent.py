"""A trained agent as arrays: a normaliser, a small network and how its output is drawn from; numpy alone acts.

Read from a file of `control.demonstrations.agents`, or from stable-baselines3's .zip: weights alone, no pickle.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import CheckpointError, ConfigError

ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}
KIND = "agent of tutelage"
LOG_STD = (-20.0, 2.0)  # stable-baselines3's bounds for SAC


@dataclass(frozen=True)
class Agent:
    """layers: (W (out, in), b (out,)) of the hidden layers; mean: the same of the output; log_std: (A,), or a layer
    whose output it is. squashed: actions are tanh of the draw (SAC), else the draw clipped (PPO). obs_mean, obs_var:
    (O,), or None; low, high: (A,) of the action space."""

    layers: tuple
    mean: tuple
    log_std: np.ndarray | tuple
    activation: str
    squashed: bool
    low: np.ndarray
    high: np.ndarray
    obs_mean: np.ndarray | None = None
    obs_var: np.ndarray | None = None

    def distribution(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation (B, A) of the draw, before the tanh or the clipping, from states (B, O)."""
        x = np.asarray(state, np.float64)
        if self.obs_mean is not None:  # as VecNormalize, whose epsilon is 1e-8 and clip 10
            x = ((x - self.obs_mean) / np.sqrt(self.obs_var + 1e-8)).clip(-10, 10)
        x = x.astype(np.float32)[:, None]  # a product per row: rounding does not depend on the other rows
        for weight, bias in self.layers:
            x = ACTIVATIONS[self.activation](x @ weight.T + bias)
        mean = (x @ self.mean[0].T + self.mean[1])[:, 0]
        log_std = self.log_std
        if isinstance(log_std, tuple):
            log_std = (x @ log_std[0].T + log_std[1])[:, 0].clip(*LOG_STD)
        return mean, np.broadcast_to(np.exp(log_std), mean.shape)

    def act(self, state: np.ndarray, noise: np.ndarray | float = 0.0) -> np.ndarray:
        """(B, A) float32 in the action space; noise (B, A): standard normal draws, 0 for the mean action."""
        mean, std = self.distribution(state)
        drawn = mean + std * noise
        if self.squashed:
            drawn = self.low + (np.tanh(drawn) + 1) / 2 * (self.high - self.low)
        return drawn.clip(self.low, self.high).astype(np.float32)


class AgentPolicy:
    """An agent in `control.rollout`: every episode draws its noise from its own seed, so episodes do not depend on what
    runs beside them. deterministic: mean actions."""

    def __init__(self, agent: Agent, deterministic: bool = False):
        self.agent, self.deterministic = agent, deterministic

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None:
        self._draws = [noise_of(seed) for seed in seeds]

    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        state, width = observation["state"], len(self.agent.low)
        if self.deterministic:
            return self.agent.act(state)
        alive = np.ones(len(state), bool) if active is None else active
        noise = [draws.standard_normal(width) if on else np.zeros(width)
                 for draws, on in zip(self._draws, alive, strict=True)]  # fmt: skip
        return self.agent.act(state, np.stack(noise))


def noise_of(seed: int) -> np.random.Generator:
    """The generator of an episode's action noise."""
    return np.random.default_rng((seed, 0xAC7))


def agent_of(policy: dict, task: str, source: str, **about) -> Agent:
    """Agent from the state_dict of stable-baselines3's MlpPolicy: of PPO, A2C, TRPO, or of SAC, TQC.

    about: activation (by default stable-baselines3's: tanh, for SAC relu), obs_mean, obs_var.
    Raises: CheckpointError naming `source` and the shape that is missing or does not fit the task; ConfigError.
    """
    from control.envs.registry import task as find_task

    world = find_task(task).build().world
    weights = {key: np.asarray(one.detach().cpu().numpy(), np.float32) for key, one in policy.items()}
    squashed = "actor.mu.weight" in weights
    trunk, head = ("actor.latent_pi", "actor.mu") if squashed else ("mlp_extractor.policy_net", "action_net")
    numbers = sorted(int(key.split(".")[-2]) for key in weights if key.startswith(trunk) and key.endswith("weight"))
    names = [f"{trunk}.{number}" for number in numbers]
    spread = ["actor.log_std.weight", "actor.log_std.bias"] if squashed else ["log_std"]
    wanted = [*(f"{name}.{part}" for name in [*names, head] for part in ("weight", "bias")), *spread]
    missing = [key for key in wanted if key not in weights]
    if missing or not names:
        raise CheckpointError(
            f"{source}: no {', '.join(missing or [trunk])} in its policy; wanted an MlpPolicy of stable-baselines3 "
            "with hidden layers (PPO, A2C, TRPO, SAC or TQC, without state-dependent exploration)"
        )
    width, actions = weights[f"{names[0]}.weight"].shape[1], weights[f"{head}.weight"].shape[0]
    if (width, actions) != (*world.state_space.shape, *world.action_space.shape):
        raise CheckpointError(
            f"{source}: its policy takes {width} numbers and gives {actions}; {task} has {world.state_space.shape[0]} "
            f"and {world.action_space.shape[0]}: it is an agent of another task"
        )
    if not squashed and weights["log_std"].shape != (actions,):
        raise CheckpointError(f"{source}: log_std is {weights['log_std'].shape}, wanted {(actions,)}: an agent with "
                              "state-dependent exploration (use_sde) cannot be read")  # fmt: skip
    activation = about.get("activation") or ("relu" if squashed else "tanh")
    if activation not in ACTIVATIONS:
        raise ConfigError(f"{source}: activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}")
    statistics = {key: about.get(key) for key in ("obs_mean", "obs_var")}
    for key, value in statistics.items():
        if value is not None and np.shape(value) != (width,):
            raise CheckpointError(f"{source}: {key} is {np.shape(value)}, wanted {(width,)}, as the observations")
    if (statistics["obs_mean"] is None) != (statistics["obs_var"] is None):
        raise CheckpointError(f"{source}: mean or variance of the observations is missing: give both or none")

    def layer(name: str) -> tuple:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    return Agent(
        tuple(layer(name) for name in names),
        layer(head),
        layer("actor.log_std") if squashed else weights["log_std"],
        activation,
        squashed,
        world.action_space.low,
        world.action_space.high,
        *(None if one is None else np.asarray(one, np.float64) for one in statistics.values()),
    )


def load_agent(path: str | Path, task: str) -> Agent:
    """An agent's file: .pth of `control.demonstrations.agents`, or stable-baselines3's .zip.

    A .zip does not hold VecNormalize's statistics, and the activation only as a pickle, which is not read. A file of
    the same name ending in .npz beside it gives what differs from the defaults: `mean`, `var` (O,) of the observations
    and `activation`, "tanh" or "relu". Where the statistics are trusted, that is
    `np.savez("expert.npz", mean=venv.obs_rms.mean, var=venv.obs_rms.var, activation="relu")`.
    Raises: FileNotFoundError; CheckpointError naming what is missing, damaged or of another shape.
    """
    from common.engine.checkpoint import load_checkpoint

    path = Path(path)
    if path.suffix == ".zip":
        return agent_of(_zip_policy(path), task, str(path), **_beside(path.with_suffix(".npz")))
    stored = load_checkpoint(path)
    if not isinstance(stored, dict) or stored.get("kind") != KIND:
        raise CheckpointError(f"{path} is no agent: wanted a .pth of tutelage collect, or stable-baselines3's .zip")
    if stored["task"] != task.removeprefix("tutelage/"):
        raise CheckpointError(f"{path} is an agent of {stored['task']}, wanted {task}: give another folder of agents")
    moments = {key: None if stored[key] is None else stored[key].numpy() for key in ("obs_mean", "obs_var")}
    return agent_of(stored["policy"], task, str(path), activation=stored["activation"], **moments)


def _zip_policy(path: Path) -> dict:
    """The policy's state_dict in stable-baselines3's archive, loaded by weights alone."""
    from stable_baselines3.common.save_util import load_from_zip_file

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such agent")
    try:
        _, found, _ = load_from_zip_file(path, load_data=False, device="cpu")
    except Exception as error:  # zipfile, torch and pickle each raise their own
        first = (str(error).splitlines() or [""])[0][:160]
        raise CheckpointError(
            f"{path} cannot be read as an agent of stable-baselines3 ({type(error).__name__}: {first})"
        ) from error
    if "policy" not in found:
        raise CheckpointError(f"{path} holds no policy.pth but {', '.join(found) or 'nothing'}: no agent of "
                              "stable-baselines3")  # fmt: skip
    return found["policy"]


def _beside(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): wanted arrays mean, var, activation") from error
    unknown = sorted(set(found) - {"mean", "var", "activation"})
    if unknown:
        raise CheckpointError(f"{path} holds {', '.join(unknown)}; wanted mean, var, activation and nothing else")
    activation = str(found["activation"]) if "activation" in found else None
    return {"obs_mean": found.get("mean"), "obs_var": found.get("var"), "activation": activation}
