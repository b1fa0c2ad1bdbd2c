"""Trajectory Diffuser on Hopper: plans of 16 steps from up to 5 states of history, return-to-go as released.

Data: `tutelage collect Hopper-v5 data/planner/hopper-medium-expert-like --mix medium-expert --steps 100000 --agents
data/agents/hopper`, or D4RL's own file: `demonstrations=hopper_medium_expert-v2.hdf5`."""

from mmengine.config import read_base

with read_base():
    from .maze_umaze import *

task = "Hopper-v5"
demonstrations = "data/planner/hopper-medium-expert-like"
state_dim, action_dim = 11, 3
horizon, observed, stride = 16, 5, 1
within = None
iterations = 9000
model.update(state_dim=state_dim, action_dim=action_dim, horizon=horizon, observed=observed, stride=stride)
model["generator"] = dict(width=128, depth=3, heads=4, hidden=256)
model["net"].update(horizon=horizon, width=128)
train_dataloader["dataset"].update(
    path=demonstrations, task=task, length=observed + horizon - 1, stride=stride, within=within
)
asks = dict(target=None, floor=0.33)
val_cfg["task"] = task
val_cfg["plans"] = {
    "generator": dict(level=0, **asks),
    "refined": dict(**asks),
    "refined5": dict(level=5, **asks),
    "refined5x4": dict(level=5, execute=4, **asks),
    "generatorx4": dict(level=0, execute=4, **asks),
    "chosen": dict(level=5, candidates=8, jitter=0.03, **asks),
    "decision_diffuser": dict(start="noise", steps=20, eta=0.0, guidance=1.2, **asks),
    "warm": dict(start="previous", level=20, guidance=1.2, **asks),
    "cloning": dict(kind="cloning", **asks),
}
test_cfg = val_cfg
val_dataloader.update(dataset=dict(type=HeldOutLayouts, count=16))
test_dataloader = val_dataloader
val_evaluator["task"] = task
test_evaluator = val_evaluator
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1]["end"] = iterations
