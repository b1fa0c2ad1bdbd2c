"""`tutelage train` and `test` of an RL-100 config: the pipeline in a work directory, stage by stage, resumable."""

import json
import logging
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS

from common.diffusion.process import vp_cosine
from common.engine.checkpoint import (
    CorruptCheckpointError,
    NewestCheckpoints,
    checkpoints_of,
    load_checkpoint,
    replace_file,
    save_atomic,
)
from common.errors import CheckpointError, ConfigError
from common.statistics import wilson
from control.demonstrations.collect import EVALUATION_SEEDS
from control.policies.model import build
from control.rl.rl100.collect import WAYS, TaskSpec, one_thread, play_spread
from control.rl.rl100.gate import Gate
from control.rl.rl100.offline import OfflineSettings
from control.rl.rl100.online import OnlineSettings
from control.rl.rl100.pipeline import Pipeline, Settings
from control.rl.rl100.policy import Policy
from control.rl.rl100.stages import CriticSettings, ImitationSettings
from control.workers import local_pool, ray_pool

PARTS = {"imitation": ImitationSettings, "critic": CriticSettings, "gate": Gate, "offline": OfflineSettings,
         "online": OnlineSettings}  # fmt: skip
EVALUATED = ("imitation", "improve", "retrain", "online")
CLOCK = "seconds.json"  # of a work directory: stage -> seconds spent on what was kept of it


def typed(kind: type, name: str, given: dict):
    """A settings object of a config's dictionary. Raises: ConfigError for a key that it does not have."""
    known = [one.name for one in fields(kind)]
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"{name}.{unknown[0]}: unknown; choose of {', '.join(known)}")
    return kind(**given)


def settings_of(given: dict) -> Settings:
    """`Settings` of a config's dictionary, its parts as dictionaries."""
    given = {key: dict(value) if isinstance(value, dict) else value for key, value in given.items()}
    parts = {key: typed(kind, f"pipeline.{key}", given[key]) for key, kind in PARTS.items() if key in given}
    return typed(Settings, "pipeline", {**given, **parts})


def spec_of(given: dict) -> TaskSpec:
    """The task of a config's dictionary."""
    return TaskSpec(given["task"], tuple(given.get("observe", ("state",))), int(given.get("max_steps", 120)))


def policy_of(given: dict, spec: TaskSpec, seed: int) -> Policy:
    """The policy of a config: encoders, observed, chunk, net, chain, bottleneck, levels of the process."""
    given, env = dict(given), spec.make()
    action_dim = env.action_space.shape[0]
    state = env.observation_space["state"].shape[0] if "state" in spec.observe else None
    env.close()
    torch.manual_seed(1000 * (seed + 1) - 1)
    widths = {"state": {"width": state}}
    encoders = {name: build(dict(one), **widths.get(name, {})) for name, one in given.pop("encoders").items()}
    net, chunk = dict(given.pop("net")), given.pop("chunk")

    def network(actions: int, condition: int):
        wants = {"horizon": chunk} if "horizon" in _arguments(net["type"]) else {}
        return build(net, action_dim=actions, condition_dim=condition, **wants)

    process = vp_cosine(given.pop("levels", 100))
    try:
        return Policy(encoders, given.pop("observed"), action_dim, chunk, network, process, dict(given.pop("chain")),
                      **given)  # fmt: skip
    except (TypeError, KeyError) as error:
        raise ConfigError(f"policy: {error}") from error


def _arguments(kind) -> tuple[str, ...]:
    from mmengine.registry import MODELS

    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return kind.__init__.__code__.co_varnames


@RUNNERS.register_module()
class RL100Runner:
    """Args: cfg with task (as `TaskSpec`), policy (as `policy_of`), pipeline (as `Settings`), evaluation (episodes,
    ways, after: stages whose end is evaluated), workers, ray, work_dir, randomness.seed; load_from and resume as
    `tutelage train` sets them."""

    def __init__(self, cfg: Config):
        self.cfg, self.work_dir, self.seed = cfg, Path(cfg.work_dir), int(cfg.randomness["seed"])
        self._saved = NewestCheckpoints(checkpoints_of(self.work_dir) if cfg.get("resume") else ())
        self.logger = logging.getLogger("tutelage.rl100")
        self.logger.setLevel(logging.INFO)
        self.spec = spec_of(cfg.task)
        self.settings = settings_of(dict(cfg.pipeline))
        self.policy = policy_of(dict(cfg.policy), self.spec, self.seed)

    @classmethod
    def from_cfg(cls, cfg: Config) -> "RL100Runner":
        return cls(cfg)

    def _pool(self):
        ray = self.cfg.get("ray")
        return ray_pool(ray, self.cfg.get("workers")) if ray else local_pool(self.cfg.get("workers"))

    def train(self) -> Pipeline:
        """All stages that are left; after each a checkpoint, and an evaluation where the config wants one. On one
        thread, as its workers: sums of several may differ in their last bits, and a resumed run with them."""
        with one_thread(), self._pool() as pool:
            pipeline = Pipeline(self.policy, self.spec, self.settings, pool, self.seed)
            if self.cfg.get("resume") or self.cfg.get("load_from"):
                self._load(pipeline)
            self._folder = self.work_dir / time.strftime("%Y%m%d_%H%M%S") / "vis_data"
            self._folder.mkdir(parents=True, exist_ok=True)
            name = Path(self.cfg.filename).name if self.cfg.filename else "config.py"
            self.cfg.dump(str(self.work_dir / name))
            clock = self._clock(pipeline)
            for stage in set(self.settings.stages()) - set(pipeline.done):  # of another run of this folder
                self._evaluation_of(stage).unlink(missing_ok=True)
            self._evaluate_stage(pipeline, pool)  # the one behind which a run was killed
            while (stage := pipeline.next) is not None:
                self.logger.info(f"stage {stage}")
                begun, before = time.perf_counter(), clock.get(stage, 0.0)

                def keep(stage=stage, begun=begun, before=before) -> None:
                    clock[stage] = round(before + time.perf_counter() - begun, 2)
                    _write(self.work_dir / CLOCK, clock)
                    self.save(pipeline)

                row = pipeline.advance(progress=True, keep=keep)
                spent = round(before + time.perf_counter() - begun, 2)
                self._log({"iter": len(pipeline.done), **row, "seconds": spent}, len(pipeline.done))
                keep()  # behind the log: a stage that a kill leaves unlogged is made again
                self._evaluate_stage(pipeline, pool)
        return pipeline

    def _clock(self, pipeline: Pipeline) -> dict[str, float]:
        """Seconds of the stages so far; those of a run that begins anew are none."""
        path = self.work_dir / CLOCK
        known = json.loads(path.read_text()) if path.is_file() else {}
        begun = {*pipeline.done, *([pipeline.next] if pipeline.online is not None else [])}
        return {stage: spent for stage, spent in known.items() if stage in begun}

    def _evaluation_of(self, stage: str) -> Path:
        return self.work_dir / "evaluation" / f"{stage.replace('/', '_')}.json"

    def _evaluate_stage(self, pipeline: Pipeline, pool) -> None:
        """Evaluate the stage that ended last, where the config wants it and no evaluation is there yet."""
        after = set(dict(self.cfg.get("evaluation") or {}).get("after", EVALUATED))
        stage = pipeline.done[-1] if pipeline.done else ""
        if stage.split("/")[0] in after and not self._evaluation_of(stage).is_file():
            found, kept = self.evaluate(pipeline, pool)
            self._log(found, len(pipeline.done))
            _write(self._evaluation_of(stage), kept)

    def stop_workers(self) -> None:
        """Nothing is left running: the pool ends with `train`."""

    def _log(self, row: dict, step: int) -> None:
        with (self._folder / "scalars.json").open("a") as file:
            file.write(json.dumps({"step": step, **row}, default=_plain) + "\n")
        shown = {key: value for key, value in row.items() if isinstance(value, int | float | str)}
        self.logger.info(", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                                   for key, value in shown.items()))  # fmt: skip

    def save(self, pipeline: Pipeline) -> Path:
        """Checkpoint of now; the newest two are kept. Online iterations count behind the stages that are done."""
        iterations = 0 if pipeline.online is None else pipeline.online.done
        path = self.work_dir / f"iter_{len(pipeline.done) + iterations}.pth"
        save_atomic({"rl100": pipeline.state_dict()}, path)
        self._saved.add(path)
        return path

    def _load(self, pipeline: Pipeline) -> None:
        given = self.cfg.get("load_from")
        for path in [given] if given else checkpoints_of(self.work_dir):
            try:
                pipeline.load_state_dict(read(path))
                return
            except CorruptCheckpointError as error:
                if given:
                    raise
                self.logger.warning(f"{error}; trying the one before")
            except (RuntimeError, KeyError) as error:
                raise CheckpointError(f"{path} does not fit the config: {str(error).splitlines()[0]}") from error
        raise CheckpointError(f"{self.work_dir}: no whole checkpoint to resume from")

    def evaluate(self, pipeline: Pipeline, pool) -> tuple[dict, dict]:
        """Success on held-out layouts, with Wilson intervals, and every episode by way of acting. All ways have the
        same starts and the same first noise; "mean" and "one_step" the same throughout."""
        given = dict(self.cfg.get("evaluation") or {})
        seeds = list(range(EVALUATION_SEEDS, EVALUATION_SEEDS + int(given.get("episodes", 100))))
        ways, found, kept = tuple(given.get("ways", WAYS)), {}, {}
        for way in ways:
            if (way == "one_step" and "head" not in pipeline.done) or (way == "best_of_n" and not pipeline.judged):
                continue
            critics = pipeline.critics if way == "best_of_n" else None
            episodes = play_spread(self.policy, self.spec, seeds, pool, way, critics=critics, kept=False)
            wins = [bool(one.success) for one in episodes]
            low, high = wilson(sum(wins), len(wins))
            found |= {f"{way}/success": float(np.mean(wins)), f"{way}/success_low": low, f"{way}/success_high": high,
                      f"{way}/steps": float(np.mean([len(one) for one in episodes]))}  # fmt: skip
            kept[way] = [{"seed": one.seed, "success": won, "steps": len(one)}
                         for one, won in zip(episodes, wins, strict=True)]  # fmt: skip
        return {"after": pipeline.done[-1] if pipeline.done else "start", **found}, kept

    def test(self) -> dict[str, float]:
        """Success of a checkpoint (`load_from`) on held-out layouts."""
        with one_thread(), self._pool() as pool:
            pipeline = Pipeline(self.policy, self.spec, self.settings, pool, self.seed)
            self._load(pipeline)
            found, kept = self.evaluate(pipeline, pool)
        _write(self._evaluation_of(found["after"]), kept)
        return {key: value for key, value in found.items() if isinstance(value, float)}


def read(path: str | Path) -> dict:
    """The pipeline's state in a checkpoint. Raises: FileNotFoundError, CheckpointError."""
    state = load_checkpoint(path)
    if not isinstance(state, dict) or "rl100" not in state:
        raise CheckpointError(f"{path}: no checkpoint of an RL-100 pipeline")
    return state["rl100"]


def _write(path: Path, value: dict) -> None:
    """As JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.tmp")
    part.write_text(json.dumps(value) + "\n")
    replace_file(part, path)


def _plain(value):
    return value.item() if hasattr(value, "item") else str(value)
