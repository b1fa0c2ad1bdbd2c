"""`tutelage train` and `test` of a warehouse config: RNDPPO in a work directory, resumable, curves and pictures."""

import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat
from tqdm import tqdm

from common.engine.checkpoint import CorruptCheckpointError, NewestCheckpoints, checkpoints_of
from common.errors import CheckpointError, ConfigError
from control.envs.warehouse.measures import Coverage, summary
from control.rl.cloning import clone, demonstrate
from control.rl.rnd import checkpoint
from control.rl.rnd.policy import RelativeEntropyPolicy
from control.rl.rnd.ppo import RNDPPO
from control.rl.rnd.warehouses import EVALUATION_SEED, arena, episodes, warehouses
from control.rl.rnd.wrapper import RNDRewardWrapper

PPO = dict(n_steps=128, batch_size=512, n_epochs=4, learning_rate=3e-4, gamma=0.995, gae_lambda=0.95, clip_range=0.2,
           ent_coef=0.003, vf_coef=0.5, max_grad_norm=0.5, stats_window_size=200)  # fmt: skip


def build(cfg: Config | dict, seed: int) -> RNDPPO:
    """The algorithm of a config: `environment` as `warehouses`, `algorithm` as `RNDPPO`, the rest of it as PPO's;
    `paper` as `RNDRewardWrapper`, whose bonus then is the model's.

    Raises: ConfigError, also for a bonus in both places.
    """
    given, paper = dict(cfg["algorithm"]), cfg.get("paper")
    envs = warehouses(seed=seed, **cfg["environment"])
    widths, extent = list(given.pop("widths", (64, 64))), max(arena(envs))
    if paper is not None:
        if given.get("int_coef", 1.0):
            raise ConfigError("paper and algorithm.int_coef are two bonuses: set algorithm.int_coef=0")
        torch.manual_seed(seed)
        try:
            envs = RNDRewardWrapper(envs, extent, features=given.get("features", "fourier"), **paper)
        except TypeError as error:
            raise ConfigError(f"paper: {error}") from error
    try:
        model = RNDPPO(envs, extent=extent, seed=seed, device=given.pop("device", "cpu"),
                       policy_kwargs={"net_arch": widths}, **{**PPO, **given})  # fmt: skip
    except TypeError as error:
        raise ConfigError(f"algorithm: {error}") from error
    if paper is not None:
        if model.n_steps % envs.every:
            raise ConfigError(f"paper.every={envs.every}: wanted a divisor of algorithm.n_steps={model.n_steps}")
        model.bonus = envs.bonus
    return model


class JsonLines(KVWriter):
    """stable-baselines3's log as JSON lines, beside TensorBoard's."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a")

    def write(self, key_values: dict, key_excluded: dict, step: int = 0) -> None:
        row = {key: value.item() if hasattr(value, "item") else value for key, value in key_values.items()}
        kind = {} if any(key.startswith(("evaluation/", "cloned/")) for key in row) else {"iter": step}
        self.file.write(json.dumps({"step": step, **kind, **row}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class _Watch(BaseCallback):
    """Coverage, first goal, collisions, pictures and the bar."""

    def __init__(self, runner: "RNDRunner", bar: tqdm):
        super().__init__()
        self.runner, self.bar, self.since = runner, bar, (time.perf_counter(), runner.model.num_timesteps)

    def _on_step(self) -> bool:
        self.runner.coverage.add(np.array([info["pose"][:2] for info in self.locals["infos"]]))
        hits = [info["is_collision"] for info in self.locals["infos"] if "is_collision" in info]
        self.runner.collisions = (self.runner.collisions + hits)[-200:]
        self.bar.update(self.model.n_envs)
        return True

    def _on_rollout_end(self) -> None:
        runner, record = self.runner, self.logger.record
        record("rnd/coverage", runner.coverage.share)
        record("rnd/first_goal_step", self.model.first_goal_step or -1)
        record("rollout/collision_rate", float(np.mean(runner.collisions)) if runner.collisions else 0.0)
        now = time.perf_counter(), self.model.num_timesteps
        record("time", (now[0] - self.since[0]) / (now[1] - self.since[1]))  # s per step, as other runners log it
        self.since = now
        every = int(runner.cfg.get("picture_every") or 0)
        if every and self.model.num_timesteps // (self.model.n_envs * self.model.n_steps) % every == 0:
            from control.rl.rnd.pictures import draw_training

            draw_training(runner, Path(runner.work_dir) / "pictures")
        wins = self.model.ep_success_buffer
        self.bar.set_postfix(success=f"{np.mean(wins):.2f}" if wins else "-", coverage=f"{runner.coverage.share:.2f}")


@RUNNERS.register_module()
class RNDRunner:
    """Args: cfg with environment, algorithm, total_steps, checkpoint_every (steps), evaluation (episodes, environment's
    overrides), work_dir, randomness.seed; load_from and resume as `tutelage train` sets them; picture_every: rollouts
    between two maps of bonus and visits in work_dir/pictures, 0 for none; cloning: a driver to begin with (driver,
    episodes, noise as `demonstrate`, the rest as `clone`)."""

    def __init__(self, cfg: Config):
        self.cfg, self.work_dir = cfg, cfg.work_dir
        self.seed = int(cfg.randomness["seed"])
        self.logger = logging.getLogger("tutelage.rnd")
        self.logger.setLevel(logging.INFO)
        self.model = build(cfg, self.seed)
        self.has_bonus = self.model.int_coef > 0 or cfg.get("paper") is not None
        self.coverage = Coverage(arena(self.model.env))
        self.collisions: list[bool] = []
        self._saved = NewestCheckpoints(checkpoints_of(self.work_dir) if cfg.get("resume") else ())

    @classmethod
    def from_cfg(cls, cfg: Config) -> "RNDRunner":
        return cls(cfg)

    def train(self) -> RNDPPO:
        """To total_steps, from the newest whole checkpoint where the config says resume."""
        cfg, model = self.cfg, self.model
        total = int(cfg.total_steps)
        if cfg.get("load_from") or cfg.get("resume"):
            self._load(cfg.get("load_from"), bool(cfg.get("resume")))
        folder = Path(self.work_dir) / time.strftime("%Y%m%d_%H%M%S") / "vis_data"
        model.set_logger(
            Logger(str(folder), [JsonLines(folder / "scalars.json"), TensorBoardOutputFormat(str(folder))])
        )
        cfg.dump(str(Path(self.work_dir) / (Path(cfg.filename).name if cfg.filename else "config.py")))
        if self.cfg.get("cloning") and model.num_timesteps == 0:
            self._clone(dict(self.cfg.cloning))
        bar = tqdm(total=total, initial=model.num_timesteps, unit="step", desc=Path(self.work_dir).name,
                   dynamic_ncols=True)  # fmt: skip
        every = int(cfg.get("checkpoint_every", total))
        while model.num_timesteps < total:
            goal = min(total, (model.num_timesteps // every + 1) * every)
            model.learn_until(goal, total, _Watch(self, bar))
            self.save()
        bar.close()
        self._evaluate_and_log()
        return model

    def _clone(self, given: dict) -> None:
        """Begin with a driver's clone; how it drives is logged as `cloned/..`."""
        kinds = {"driver": "pure_pursuit", "episodes": 200, "noise": 0.3}
        drive = {key: given.pop(key, value) for key, value in kinds.items()}
        environment = {key: one for key, one in self.cfg.environment.items() if key not in ("count", "backend")}
        shown = demonstrate(**drive, gamma=self.model.gamma, progress=True, **environment)
        policy, record = self.model.policy, self.model.logger.record
        for key, value in clone(policy, shown, seed=self.seed, progress=True, **given).items():
            record(f"cloned/{key}", value)
        if isinstance(policy, RelativeEntropyPolicy):
            policy.remember()
        found = {"steps": len(shown.actions), "driver_success": shown.reached / shown.tried, **summary(self.evaluate())}
        for key, value in found.items():
            record(f"cloned/{key}", value)
        self.model.logger.dump(0)

    def save(self) -> Path:
        """checkpoint of now; the newest two are kept."""
        path = Path(self.work_dir) / f"iter_{self.model.num_timesteps}.pth"
        extra = {"visits": torch.from_numpy(self.coverage.visits.copy()), "collisions": list(self.collisions)}
        checkpoint.save(self.model, path, extra)
        self._saved.add(path)
        return path

    def _load(self, path: str | None, resume: bool) -> None:
        """A checkpoint, by default the work directory's newest whole one."""
        for candidate in [path] if path else checkpoints_of(self.work_dir):
            try:
                extra = checkpoint.load(self.model, candidate, resume)
                break
            except CorruptCheckpointError as error:
                if path:
                    raise
                self.logger.warning(f"{error}; trying the one before")
        else:
            raise CheckpointError(f"{self.work_dir}: no whole checkpoint to resume from")
        if resume:
            self.coverage.visits = extra["visits"].numpy().copy()
            self.collisions = list(extra["collisions"])

    def act(self, observation: np.ndarray) -> np.ndarray:
        """(N, 2): the policy's mean."""
        return self.model.predict(observation, deterministic=True)[0]

    def evaluate(self, progress: bool = False, ways: list | None = None) -> list[dict]:
        """Episodes of the mean policy on seeds that no training sees."""
        settings = dict(self.cfg.get("evaluation") or {})
        given = {**self.cfg.environment, **dict(settings.get("environment") or {})}
        given.pop("count", None)
        return episodes(self.act, int(settings.get("episodes", 100)), EVALUATION_SEED, progress=progress, ways=ways,
                        **given)  # fmt: skip

    def test(self) -> dict[str, float]:
        """Success, collisions, SPL, .. of a checkpoint (`load_from`), with Wilson intervals; and pictures."""
        from control.rl.rnd.pictures import draw_run

        extra = checkpoint.load(self.model, self.cfg.load_from, resume=False, modules=("policy", "bonus"))
        self.coverage.visits = extra["visits"].numpy().copy()
        ways: list[np.ndarray] = []
        found = self.evaluate(progress=True, ways=ways)
        folder = Path(self.work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "episodes.json").write_text(json.dumps(found) + "\n")
        draw_run(self, ways, [one["is_success"] for one in found], folder)
        return summary(found)

    def _evaluate_and_log(self) -> None:
        found = summary(self.evaluate())
        for key, value in found.items():
            self.model.logger.record(f"evaluation/{key}", value)
        self.model.logger.dump(self.model.num_timesteps)
        path = Path(self.work_dir) / "evaluation.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
        self.logger.info(f"success {found['success']:.3f} [{found['success_low']:.3f}, {found['success_high']:.3f}], "
                         f"SPL {found['spl']:.3f}: {path}")  # fmt: skip

    def stop_workers(self) -> None:
        self.model.env.close()
