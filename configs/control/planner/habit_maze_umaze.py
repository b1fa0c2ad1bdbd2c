"""The planner of `maze_umaze` as a habit, one small network: give the planner's checkpoint, `--cfg-options
train_dataloader.dataset.checkpoint=CKPT`."""

from mmengine.config import read_base

with read_base():
    from .maze_umaze import *

from control.planning.diffuser.habit import Decisions, HabitModel

teacher = {key: value for key, value in model.items() if key != "type"}
model = dict(type=HabitModel, state_dim=state_dim, action_dim=action_dim, latent=8, widths=(256, 256))
iterations, batch_size = 5000, 256
train_dataloader.update(batch_size=batch_size, sampler=dict(type=EndlessShuffle, batch_size=batch_size))
train_dataloader["dataset"] = dict(
    type=Decisions,
    path=demonstrations,
    teacher=teacher,
    checkpoint=None,
    plan=dict(level=10, candidates=8, jitter=0.03, **asks),
    count=10000,
)
val_cfg["plans"] = dict(habit=dict(), habit_best_of_8=dict(candidates=8))
test_cfg = val_cfg
linked["task"] = [key for key in linked["task"] if not key.startswith("train_dataloader")]
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1]["end"] = iterations
