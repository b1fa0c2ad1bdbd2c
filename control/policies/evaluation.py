"""mmengine's validation and test of a policy: rollouts on held-out layouts, for several plans of the same weights."""

import json
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, LOOPS, METRICS
from mmengine.runner.base_loop import BaseLoop
from torch.utils.data import Dataset

from common.engine.loops import unwrap
from common.errors import ConfigError
from common.statistics import paired_difference
from control.demonstrations.collect import EVALUATION_SEEDS
from control.pictures import episode_frames, save_png, strip
from control.policies.cloning import CloningModel, CloningPolicy
from control.policies.model import build
from control.policies.policy import DiffusionPolicy
from control.rollout import as_records, rollout, summary

GAIN = ("gain", "gain_low", "gain_high")


@DATASETS.register_module()
class HeldOutLayouts(Dataset):
    """Layout seeds that no demonstration was collected on: first, first + 1, ..."""

    def __init__(self, count: int, first: int = EVALUATION_SEEDS):
        if first < EVALUATION_SEEDS:
            raise ConfigError(
                f"layout seed {first} belongs to collection; those from {EVALUATION_SEEDS} on are held out"
            )
        self.seeds = list(range(first, first + count))

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> int:
        return self.seeds[index]


@METRICS.register_module()
class SuccessMetric(BaseMetric):
    """Per plan: success with Wilson's interval, score, length, and `gain`: its success less the first plan's, paired by
    layout and noise, with a 95 % bootstrap interval. out_dir: keep every episode as JSON there."""

    def __init__(self, out_dir: str | None = None, **kwargs):
        super().__init__(collect_device="cpu", **kwargs)
        self.out_dir = Path(out_dir) if out_dir else None

    def process(self, data_batch, data_samples) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics, kept, first = {}, {}, None
        for name in dict.fromkeys(name for name, _ in results):
            outcomes = [outcome for other, outcome in results if other == name]
            metrics |= {f"{name}/{key}": value for key, value in summary(outcomes).items()}
            kept[name] = as_records(outcomes)
            successes = np.array([one.success for one in outcomes], float)
            if first is None:
                first = successes
            else:
                gain = paired_difference(first, successes)
                metrics |= {f"{name}/{key}": value for key, value in zip(GAIN, gain, strict=True)}
        if self.out_dir:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            (self.out_dir / "episodes.json").write_text(json.dumps(kept, default=_plain) + "\n")
        return metrics


def _plain(value):
    return value.item() if isinstance(value, np.generic) else str(value)


def actor(model, plan: dict):
    """What rolls a model out: what its own `actor` makes of the plan, a cloning model by itself, a diffusion policy
    with the plan that the config describes. Its keys `primer` and `anchor`, a list of A or of T x A normalised actions,
    are the policy's."""
    if hasattr(model, "actor"):
        return model.actor(plan)
    if isinstance(model, CloningModel):
        return CloningPolicy(model)
    plan = dict(plan)
    primer, anchor = plan.pop("primer", "zero"), plan.pop("anchor", None)
    if anchor is not None:
        try:
            anchor = torch.tensor(anchor, dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"plan: anchor={anchor!r} is no list of numbers or of equally long lists") from error
    return DiffusionPolicy(model, build(plan, horizon=model.horizon), primer, anchor)


@LOOPS.register_module()
class RolloutLoop(BaseLoop):
    """Rolls every plan out on every held-out layout.

    Args: task; plans: name -> config of a plan function, `primer`, `anchor`, or None to leave it out; parallel
        environments; strips: of how many layouts a test draws a strip of frames per plan, WORK_DIR/PLAN_SEED.png;
        rollout arguments.
    """

    def __init__(
        self, runner, dataloader, evaluator, task: str, plans: dict, parallel: int = 25, strips: int = 1, **kwargs
    ):
        super().__init__(runner, dataloader)
        self.evaluator = runner.build_evaluator(evaluator) if isinstance(evaluator, dict | list) else evaluator
        self.task, self.parallel, self.strips, self.kwargs = task, parallel, strips, kwargs
        self.plans = {name: plan for name, plan in plans.items() if plan is not None}

    def run(self) -> dict[str, float]:
        phase = "test" if self.runner.val_loop is not self else "val"
        self.runner.call_hook(f"before_{phase}")
        self.runner.call_hook(f"before_{phase}_epoch")
        model = unwrap(self.runner.model)
        model.eval()
        seeds = list(self.dataloader.dataset.seeds)
        observe = getattr(model, "observes", None) or tuple(model.encoder.encoders)
        for name, config in self.plans.items():
            policy = actor(model, config)
            outcomes = rollout(
                policy, self.task, seeds, parallel=self.parallel, observe=observe, progress=True, **self.kwargs
            )
            self.evaluator.process([(name, one) for one in outcomes])
            for seed in seeds[: self.strips if phase == "test" else 0]:
                frames = episode_frames(policy, self.task, seed, observe)
                save_png(strip(frames), Path(self.runner.work_dir) / f"{name}_{seed}.png")
        metrics = self.evaluator.evaluate(len(seeds) * len(self.plans))
        self.runner.call_hook(f"after_{phase}_epoch", metrics=metrics)
        self.runner.call_hook(f"after_{phase}")
        return metrics
