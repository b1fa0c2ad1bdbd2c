"""Agents of stable-baselines3 for recorded data: trained here, judged as they will be recorded, resumed exactly.

A training runs in stretches of `every` steps. Each stretch begins with fresh episodes and draws from a seed of its own,
so that a killed training, started again, repeats the stretch that it was in and then is the same, bit for bit, as one
that was never killed (on the same machine). The price is that the episode at a stretch's end is cut there.

Folder: training.json (what is trained), iter_N.pth (the newest two whole states), step_N.pth (the agent at every
evaluation, up to the medium one), medium.pth, expert.pth, evaluations.json.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tqdm import tqdm

from common.engine.checkpoint import CorruptCheckpointError, NewestCheckpoints, checkpoints_of, load_checkpoint
from common.engine.checkpoint import save_atomic as save
from common.errors import CheckpointError, ConfigError, DataError
from control.demonstrations.agent import KIND, AgentPolicy, agent_of
from control.demonstrations.collect import EVALUATION_SEEDS
from control.envs.registry import task as find_task
from control.rollout import rollout

ALGORITHMS = {"ppo": PPO, "sac": SAC}
TRIALS = range(EVALUATION_SEEDS - 1000, EVALUATION_SEEDS)  # seeds of evaluations in training: no data, no evaluation
# Mean returns of D4RL's medium sets: 44, 41 and 62 of its points
MEDIUM = {"Hopper": 1400.0, "HalfCheetah": 4700.0, "Walker2d": 2800.0}

# rl-baselines3-zoo's hyperparameters for the v3 runners (hyperparams/ppo.yml, sac.yml): one environment each.
_WIDE = dict(policy_kwargs=dict(net_arch=[256, 256], activation_fn="relu", log_std_init=-2.0, ortho_init=False))
PPO_OF = {
    "Hopper": dict(n_steps=512, batch_size=32, gamma=0.999, learning_rate=9.80828e-05, ent_coef=0.00229519,
                   clip_range=0.2, n_epochs=5, gae_lambda=0.99, max_grad_norm=0.7, vf_coef=0.835671, **_WIDE),
    "HalfCheetah": dict(n_steps=512, batch_size=64, gamma=0.98, learning_rate=2.0633e-05, ent_coef=0.000401762,
                        clip_range=0.1, n_epochs=20, gae_lambda=0.92, max_grad_norm=0.8, vf_coef=0.58096, **_WIDE),
    "Walker2d": dict(n_steps=512, batch_size=32, gamma=0.99, learning_rate=5.05041e-05, ent_coef=0.000585045,
                     clip_range=0.1, n_epochs=20, gae_lambda=0.95, max_grad_norm=1.0, vf_coef=0.871923),
}  # fmt: skip
SAC_OF = dict(learning_starts=10_000, policy_kwargs=dict(activation_fn="relu"))


@dataclass(frozen=True)
class Training:
    """What an agent's training depends on besides its length.

    every: steps from one evaluation and checkpoint to the next; trials: episodes of an evaluation, with drawn actions,
    as data are recorded; medium: mean return at which the agent counts as medium, by default D4RL's; options: of the
    algorithm, in place of rl-zoo's.
    """

    task: str
    algorithm: str = "ppo"
    seed: int = 0
    every: int = 20_480
    trials: int = 10
    medium: float | None = None
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        found = find_task(self.task)
        if not found.world.endswith(":Locomotion"):
            raise ConfigError(f"{found.name}: agents are trained for Hopper, HalfCheetah and Walker2d")
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"algorithm={self.algorithm!r}: choose one of {', '.join(ALGORITHMS)}")
        if self.every < 1 or not 1 <= self.trials <= len(TRIALS):
            raise ConfigError(f"every={self.every}, trials={self.trials}: wanted 1 or more, trials up to {len(TRIALS)}")
        step = self.settings.get("n_steps", 1)
        if self.every % step:
            raise ConfigError(f"every={self.every}: wanted a multiple of n_steps={step}")

    @property
    def robot(self) -> str:
        return find_task(self.task).name.split("-")[0]

    @property
    def target(self) -> float:
        return MEDIUM[self.robot] if self.medium is None else float(self.medium)

    @property
    def settings(self) -> dict:
        """Options of the algorithm; the activation is still a name."""
        given = PPO_OF[self.robot] if self.algorithm == "ppo" else SAC_OF
        policies = [one.get("policy_kwargs", {}) for one in (given, self.options)]
        return {**given, **self.options, "policy_kwargs": {"activation_fn": "tanh", **policies[0], **policies[1]}}

    def identity(self) -> dict:
        return {**asdict(self), "task": find_task(self.task).name, "medium": self.target}


class _Bar(BaseCallback):
    def __init__(self, bar: tqdm):
        super().__init__()
        self.bar = bar

    def _on_step(self) -> bool:
        self.bar.update(self.model.n_envs)
        return True


def train_agent(
    training: Training, folder: str | Path, steps: int, until_medium: bool = False, progress: bool = True
) -> dict:
    """Train to `steps` (rounded up to whole stretches), from the folder's newest whole state where there is one; with
    until_medium only until the medium agent is there.

    Returns {steps, evaluations: [[step, mean return, deviation], ..], medium: step or None, expert: step of the best}.
    Raises: ConfigError when the folder holds another training; DataError when its record is damaged; CheckpointError.
    """
    folder = Path(folder)
    _claim(folder, training)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small networks; and sums in the same order everywhere
    try:
        return _train(training, folder, steps, until_medium, progress)
    finally:
        torch.set_num_threads(threads)


def _train(training: Training, folder: Path, steps: int, until_medium: bool, progress: bool) -> dict:
    steps = -(-steps // training.every) * training.every
    model, found = _build(training), {"evaluations": [], "medium": None, "expert": None}
    saved = NewestCheckpoints(checkpoints_of(folder))
    begin = _resume(model, folder, found)
    if begin is None:
        _judge(training, model, folder, found, 0)
    bar = tqdm(total=steps, initial=min(begin or 0, steps), desc=f"{training.robot} agent", unit="step",
               disable=not progress, dynamic_ncols=True)  # fmt: skip
    while (done := model.num_timesteps) < steps and not (until_medium and found["medium"] is not None):
        mean = found["evaluations"][-1][1]
        bar.set_postfix(**{"return": f"{mean:.0f}", "best": f"{max(one[1] for one in found['evaluations']):.0f}"})
        _fresh(model, training.seed, done)
        model.learn(training.every, _Bar(bar), reset_num_timesteps=done == 0)
        _judge(training, model, folder, found, model.num_timesteps)
        path = folder / f"iter_{model.num_timesteps}.pth"
        save({"model": _state(model), "found": found}, path)
        saved.add(path)
    bar.close()
    model.env.close()
    return {"steps": model.num_timesteps, **found}


def _build(training: Training):
    import gymnasium as gym

    from control.envs import make

    settings = training.settings
    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[settings["policy_kwargs"]["activation_fn"]]
    settings["policy_kwargs"] = {**settings["policy_kwargs"], "activation_fn": activation}

    class State(gym.ObservationWrapper):
        def __init__(self, env):
            super().__init__(env)
            self.observation_space = env.observation_space["state"]

        def observation(self, observation):
            return observation["state"]

    envs = DummyVecEnv([lambda: State(make(training.task))])
    if training.algorithm == "ppo":
        envs = VecNormalize(envs, gamma=settings["gamma"])
    try:
        return ALGORITHMS[training.algorithm]("MlpPolicy", envs, device="cpu", seed=training.seed, **settings)
    except TypeError as error:
        raise ConfigError(f"options of {training.algorithm}: {error}") from error


def _fresh(model, seed: int, done: int) -> None:
    """New episodes, and every generator at a seed that the stretch's beginning decides."""
    drawn = int(np.random.SeedSequence((seed, done)).generate_state(1)[0]) % 2**31
    set_random_seed(drawn)
    model.env.seed(drawn)
    model.action_space.seed(drawn)
    model._last_obs = None  # `learn` then resets the environments


def _judge(training: Training, model, folder: Path, found: dict, step: int) -> None:
    """Evaluate the agent of now, and keep it where it is wanted."""
    stored = _agent(training, model, step)
    moments = {key: None if stored[key] is None else stored[key].numpy() for key in ("obs_mean", "obs_var")}
    agent = agent_of(stored["policy"], training.task, "the agent in training", activation=stored["activation"],
                     **moments)  # fmt: skip
    outcomes = rollout(AgentPolicy(agent), training.task, TRIALS[: training.trials])
    returns = np.array([one.info["return"] for one in outcomes])
    best = max((one[1] for one in found["evaluations"]), default=-np.inf)
    found["evaluations"].append([step, float(returns.mean()), float(returns.std())])
    stored["return"] = float(returns.mean())
    if found["medium"] is None:
        save(stored, folder / f"step_{step}.pth")
        if returns.mean() >= training.target:
            save(stored, folder / "medium.pth")
            found["medium"] = step
    if returns.mean() > best:
        save(stored, folder / "expert.pth")
        found["expert"] = step
    beside = folder / "evaluations.partial"
    beside.write_text(json.dumps({"target_of_medium": training.target, **found}, indent=1) + "\n")
    beside.rename(folder / "evaluations.json")


def _agent(training: Training, model, step: int) -> dict:
    """What acts: the weights of the actor and the statistics of its observations."""
    prefix = ("actor.",) if training.algorithm == "sac" else ("mlp_extractor.policy_net.", "action_net.", "log_std")
    policy = {key: value.clone() for key, value in model.policy.state_dict().items() if key.startswith(prefix)}
    rms = model.env.obs_rms if isinstance(model.env, VecNormalize) else None
    moments = {"obs_mean": None, "obs_var": None}
    if rms is not None:
        moments = {"obs_mean": torch.from_numpy(rms.mean.copy()), "obs_var": torch.from_numpy(rms.var.copy())}
    about = {"task": find_task(training.task).name, "algorithm": training.algorithm, "steps": step}
    return {"kind": KIND, **about, "activation": training.settings["policy_kwargs"]["activation_fn"],
            "policy": policy, **moments}  # fmt: skip


COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")


def _state(model) -> dict:
    """All that the next stretch depends on, without running episodes."""
    modules, tensors = model._get_torch_save_params()
    found = {
        "modules": {name: _of(model, name).state_dict() for name in modules},
        "tensors": {name: getattr(model, name).detach().clone() for name in tensors or ()},
        "counters": {name: getattr(model, name) for name in COUNTERS},
    }
    if isinstance(model.env, VecNormalize):
        found["moments"] = {
            name: [torch.as_tensor(np.array(value)) for value in (rms.mean, rms.var, rms.count)]
            for name, rms in (("obs_rms", model.env.obs_rms), ("ret_rms", model.env.ret_rms))
        }
    if (buffer := getattr(model, "replay_buffer", None)) is not None:
        size = buffer.size()
        found["replay"] = {name: torch.from_numpy(getattr(buffer, name)[:size].copy()) for name in REPLAY}
        found["replay"]["pos"], found["replay"]["full"] = buffer.pos, buffer.full
    return found


REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _load(model, state: dict) -> None:
    for name, one in state["modules"].items():
        _of(model, name).load_state_dict(one)
    for name, one in state["tensors"].items():
        getattr(model, name).data.copy_(one)
    for name, one in state["counters"].items():
        setattr(model, name, one)
    for name, (mean, var, count) in state.get("moments", {}).items():
        rms = getattr(model.env, name)
        rms.mean, rms.var, rms.count = mean.numpy().copy(), var.numpy().copy(), count.item()
    if "replay" in state:
        buffer, stored = model.replay_buffer, state["replay"]
        for name in REPLAY:
            getattr(buffer, name)[: len(stored[name])] = stored[name].numpy()
        buffer.pos, buffer.full = stored["pos"], stored["full"]


def _of(model, name: str):
    for part in name.split("."):
        model = getattr(model, part)
    return model


def _resume(model, folder: Path, found: dict) -> int | None:
    """Load the newest whole state; None where there is none. Raises CheckpointError where none is whole."""
    paths = checkpoints_of(folder)
    for path in paths:
        try:
            stored = load_checkpoint(path)
        except CorruptCheckpointError as error:
            logging.getLogger("tutelage.agents").warning(f"{error}; trying the one before")
            continue
        try:
            _load(model, stored["model"])
            found.update(stored["found"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} does not fit the training ({str(error).splitlines()[0]}): it is of another "
                                  "version; remove the folder, or give another") from error  # fmt: skip
        return model.num_timesteps
    if paths:
        raise CheckpointError(f"{folder}: none of {', '.join(path.name for path in paths)} is whole; remove them to "
                              "train from the start")  # fmt: skip
    return None


def _claim(folder: Path, training: Training) -> None:
    """Record once which training the folder is of, and refuse another."""
    record, mine = folder / "training.json", json.loads(json.dumps(training.identity()))
    if not record.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / "training.partial"
        beside.write_text(json.dumps(mine) + "\n")
        beside.rename(record)
        return
    held = recorded(folder)
    differs = {key: (held.get(key), value) for key, value in mine.items() if held.get(key) != value}
    if differs:
        told = ", ".join(f"{key} {before!r}, wanted {now!r}" for key, (before, now) in differs.items())
        raise ConfigError(f"{folder} holds agents of another training: {told}; give its options, or another folder")


def recorded(folder: Path) -> dict:
    """The training that a folder is of. Raises DataError where the record is damaged."""
    record = folder / "training.json"
    try:
        found = json.loads(record.read_text())
        return dict(found)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{record} is damaged ({error}): remove that one file and start again with the options of the "
                        "training; its states beside it are fine") from error  # fmt: skip
