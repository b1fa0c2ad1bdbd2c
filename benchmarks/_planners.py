"""What a planner is worth: returns, plans' feasibility, network calls and time per decision; kept by what decides them.

Letters: B plans, H states of a plan, S numbers of a state.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _records import keep, load, rounded

from common.engine.checkpoint import load_weights
from common.engine.config import load_config
from common.engine.experiments import Job
from control.demonstrations.collect import EVALUATION_SEEDS
from control.envs import make
from control.envs.return_tasks import RADIUS
from control.planning.diffuser import feasibility
from control.planning.diffuser.windows import plan_windows
from control.policies.model import build
from control.rollout import rollout

VERSION = 2  # of all that trainings and cells find: a change of the code that changes it shall raise this
PLANS = 200  # whose feasibility is measured, and of the data
TIMED, WARM = 20, 3  # decisions, one environment
CHECKED = 40  # of the PLANS, step by step in the simulator


@dataclass(frozen=True)
class Cell:
    """One way of planning with one training's networks. plan: its settings, as a config writes them; planner: the
    training whose stride plans of single steps are measured at; held_out: data that no training saw, from whose states
    plans are asked for."""

    title: str
    job: Job
    plan: dict
    starts: int
    planner: Job
    held_out: Path


def data_plans(job: Job, held_out: Path) -> np.ndarray:
    """(PLANS, H, S) windows of held-out data as a planner's, spread evenly over them: plans are asked for from their
    beginnings."""
    config = load_config(job.config, job.options)
    model = config.model
    windows = plan_windows(str(held_out), config.task, length=model.horizon, stride=model.stride)
    begin = windows.starts[torch.linspace(0, len(windows) - 1, PLANS).long()]
    return windows.states[begin[:, None] + model.stride * torch.arange(model.horizon)].numpy()


def of_plans(
    plans: np.ndarray, task: str, stride: int, act=None, spread: np.ndarray | None = None,
    actions: np.ndarray | None = None,
) -> dict[str, float]:  # fmt: skip
    """Feasibility of plans (B, H, S), `stride` steps between states, in the environment's units. act, spread: as
    `dynamics_residual`'s, where the task is no maze; actions (B, H, A): the plans' own, where they have any."""
    world = make(task).unwrapped.world
    if task.startswith("Maze2D"):
        reached = np.linalg.norm(plans[:, -1, :2] - world.goal, axis=-1)
        return {
            "walls": feasibility.in_walls(plans, world),
            "residual": feasibility.kinematic_residual(plans, stride),
            "roughness": feasibility.roughness(plans),
            "ends": float((reached <= RADIUS).mean()),
        }
    world.reset(0)
    chosen = np.linspace(0, len(plans) - 1, min(CHECKED, len(plans))).astype(int)
    checked = plans[chosen]
    if actions is not None:
        own = actions[chosen, :-1].reshape(-1, actions.shape[-1])

        def act(before, after):
            return own

    return {
        "residual": feasibility.dynamics_residual(checked, act, world, spread) if act else float("nan"),
        "roughness": feasibility.roughness(plans / spread, plans.shape[-1]),
    }


def milliseconds(actor, states: np.ndarray, execute: int) -> tuple[float, float]:
    """Medians of the CPU time of this thread for a decision and of what it comes to per environment step: one
    environment; a decision is followed for `execute` steps."""
    actor.reset([0])
    decisions, steps = [], []
    for i in range(WARM + TIMED):
        begun = time.thread_time()
        for step in range(execute):
            actor.select_action({"state": states[i % len(states)][None]})
            if step == 0:
                decisions.append(time.thread_time() - begun)
        steps.append((time.thread_time() - begun) / execute)
    return 1e3 * float(np.median(decisions[WARM:])), 1e3 * float(np.median(steps[WARM:]))


def measure(cell: Cell) -> dict:
    """returns: of every start; calls: network evaluations per decision; ms, ms_step; feasibility of plans from states
    of held-out data, without a history (not of the warm start, which has no plan to begin from there)."""
    torch.set_num_threads(1)
    config = load_config(cell.job.config, cell.job.options)
    model, task = build(config.model), config.val_cfg.task
    load_weights(model, str(cell.job.checkpoint))
    actor, execute = model.actor(cell.plan), cell.plan.get("execute", 1)
    seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + cell.starts)
    found = {"returns": [one.info["return"] for one in rollout(actor, task, seeds, parallel=cell.starts)]}
    if getattr(actor, "plans", 0):
        found["calls"] = {name: count / actor.plans for name, count in actor.calls.items()}
    data = data_plans(cell.planner, cell.held_out)
    found["ms"], found["ms_step"] = milliseconds(actor, data[:, 0], execute)
    if hasattr(actor, "current") and cell.plan.get("start") != "previous":
        actor.reset(list(range(PLANS)))
        actor.select_action({"state": data[:, 0]})
        found |= comparable(actor.current, model, cell.planner, task, getattr(actor, "actions", None))
    return found


def comparable(
    plans: np.ndarray, model, planner: Job, task: str, actions: np.ndarray | None = None
) -> dict[str, float]:
    """`of_plans`, with what another stride or another length makes another measure left out; plans of single steps are
    thinned. actions: of plans that have their own."""
    wanted, stride = load_config(planner.config, planner.options).model, getattr(model, "stride", 1)
    if stride == 1:
        plans, stride = plans[:, :: wanted.stride], wanted.stride
    own = actions if wanted.stride == 1 else None
    found = of_plans(plans, task, stride, _one_step(model), model.states.spread.numpy(), own)
    if stride != wanted.stride:
        found = {key: value for key, value in found.items() if key not in ("residual", "roughness", "walls")}
    if len(plans[0]) * stride != wanted.horizon * wanted.stride:
        found = {key: value for key, value in found.items() if key not in ("ends", "walls")}
    return found


def _one_step(model):
    """The inverse dynamics for one step, in the environment's units; None of a model without."""
    if not hasattr(model, "inverse"):
        return None

    @torch.no_grad()
    def act(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        now, goal = (model.states(torch.from_numpy(one)) for one in (before, after))
        return model.act(now, goal, torch.ones(len(now))).numpy()

    return act


def of_data(job: Job, held_out: Path) -> dict[str, float]:
    """The same measures of held-out data's own windows; for a runner with the inverse dynamics of the job."""
    config = load_config(job.config, job.options)
    model = build(config.model)
    load_weights(model, str(job.checkpoint))
    return of_plans(data_plans(job, held_out), config.task, model.stride, _one_step(model), model.states.spread.numpy())


def kept(cell: Cell, folder: Path) -> tuple[str, dict]:
    """(title, what `measure` finds), from the folder where the same weights were run so before."""
    with cell.job.checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    recipe = {"version": VERSION, "weights": weights, "plan": cell.plan, "starts": cell.starts,
              "plans": [PLANS, CHECKED], "timed": [TIMED, WARM]}  # fmt: skip
    path = folder / f"{hashlib.sha256(cell.title.encode()).hexdigest()[:12]}.json"
    found = load(path, recipe)
    if found is None:
        found = {"recipe": recipe, "title": cell.title, **rounded(measure(cell), 6)}
        keep(path, found)
    return cell.title, {key: value for key, value in found.items() if key != "recipe"}
