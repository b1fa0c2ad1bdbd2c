"""The mixture-trained network on the human Push-T demonstrations (TUTELAGE_DATA, or data/pusht/...)."""

from mmengine.config import read_base

with read_base():
    from .streaming_metaworld_state import *

task = "PushT-v0"
demonstrations = "data/pusht/pusht_cchi_v7_replay.zarr.zip"
iterations = 20_000
train_dataloader["dataset"].update(path=demonstrations)
model["net"].update(widths=(64, 128), level_width=64)
model.update(action_dim=2, encoders=dict(state=dict(type=StateEncoder, width=18)))
val_cfg.update(task=task, score="score")
val_cfg["plans"].update(streaming2=dict(type=ladder_plan, execute=2, evaluations=1))
test_cfg = val_cfg
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1].update(end=iterations)
