"""Trainings of state policies on a task's demonstrations, as the demo and the benchmarks start them."""

from pathlib import Path

from common.engine.experiments import Job
from control.demonstrations.collect import Settings, collect
from control.envs import make


def demonstrations(work_dir: Path, task: str, count: int) -> Path:
    """The folder of `count` demonstrations of a task, collected once."""
    folder = work_dir / "demonstrations" / f"{task}-{count}"
    if not folder.exists():
        print(collect(Settings(task), folder, count), flush=True)
    return folder


def state_options(task: str, data: Path) -> dict:
    """What a config of state policies has to be told about a task."""
    env = make(task)
    widths = env.action_space.shape[0], env.observation_space["state"].shape[0]
    return {
        "task": task,
        "demonstrations": str(data),
        "model.action_dim": widths[0],
        "model.encoders.state.width": widths[1],
    }


def evaluation_options(work_dir: Path, layouts: int) -> dict:
    """The options that make a training keep its episodes, of so many held-out layouts."""
    return {"val_evaluator.out_dir": str(work_dir / "evaluation"), "val_dataloader.dataset.count": layouts}


def trained(job: Job):
    """The config of a finished training and its model with the averaged weights."""
    from common.engine.checkpoint import load_weights
    from common.engine.config import load_config
    from control.policies.model import build

    config = load_config(job.config, job.options)
    model = build(config.model)
    load_weights(model, str(job.checkpoint))
    return config, model.eval()


def cost(policy) -> tuple[int, int]:
    """Network evaluations per call and actions executed per call of what `actor` made; cloning has one of each."""
    plan = getattr(policy, "plan", None)
    return (plan.evaluations, plan.execute) if plan else (1, 1)
