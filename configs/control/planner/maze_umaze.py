"""Trajectory Diffuser in a maze: a generator that writes plans of 16 states, 8 steps apart, a diffusion that improves
them, and the planners it is compared with, from the same networks.

Data: `tutelage collect Maze2D-UMaze-v0 data/planner/Maze2D-UMaze-v0 --steps 100000`. Returns are those of the next 120
steps, what a plan reaches; asked for is always the best that the data hold: the data never stay at the goal, and what
an expectile value promises there (target="value") is to leave it."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from torch.optim import AdamW

with read_base():
    from .._base_.policy import *

from common.diffusion.process import vp_cosine
from common.nn.transformer import ConditionalTransformer
from control.planning.diffuser.evaluation import ReturnMetric
from control.planning.diffuser.model import TrajectoryDiffuserModel
from control.planning.diffuser.windows import plan_windows

task = "Maze2D-UMaze-v0"
demonstrations = "data/planner/Maze2D-UMaze-v0"
state_dim, action_dim = 4, 2
horizon, observed, stride = 16, 1, 8
discount, within = 1.0, 120
steps = 100
iterations, batch_size = 6000, 64

model = dict(
    type=TrajectoryDiffuserModel,
    state_dim=state_dim,
    action_dim=action_dim,
    horizon=horizon,
    observed=observed,
    stride=stride,
    discount=discount,
    generator=dict(width=64, depth=3, heads=4, hidden=128),
    net=dict(type=ConditionalTransformer, horizon=horizon, width=96, depth=2, level_scale=float(steps)),
    process=dict(type=vp_cosine, steps=steps),
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type=EndlessShuffle, batch_size=batch_size),
    collate_fn=dict(type=whole_batch),
    dataset=dict(
        type=plan_windows,
        path=demonstrations,
        task=task,
        length=observed + horizon - 1,
        stride=stride,
        discount=discount,
        within=within,
    ),
)
plans = dict(
    generator=dict(level=0),
    refined=dict(),
    refined10=dict(level=10),
    chosen=dict(level=10, candidates=8, jitter=0.03),
    decision_diffuser=dict(start="noise", steps=20, eta=0.0, guidance=1.2),
    warm=dict(start="previous", level=20, guidance=1.2),
    cloning=dict(kind="cloning"),
)
asks = dict(target=None, update="hold", execute=4)  # always the best that was seen; half of a plan's first step
val_cfg.update(task=task, plans={name: {**asks, **plan} for name, plan in plans.items()})
test_cfg = val_cfg
val_dataloader.update(dataset=dict(type=HeldOutLayouts, count=20))
test_dataloader = val_dataloader
val_evaluator = dict(type=ReturnMetric, task=task, out_dir=None)
test_evaluator = val_evaluator
train_cfg.update(max_iters=iterations, val_interval=iterations)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3, weight_decay=1e-4, fused=True))
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-2, by_epoch=False, begin=0, end=100),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=100, end=iterations, eta_min_ratio=0.01),
]
linked.update(
    task=[
        "val_cfg.task",
        "test_cfg.task",
        "val_evaluator.task",
        "test_evaluator.task",
        "train_dataloader.dataset.task",
    ],
    iterations=["train_cfg.max_iters", "train_cfg.val_interval", "param_scheduler.1.end"],
)
