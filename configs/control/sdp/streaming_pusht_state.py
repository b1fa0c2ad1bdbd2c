"""The mixture-trained network on the human Push-T demonstrations (TUTELAGE_DATA, or data/pusht/...).

Its mixture has no ladders of chunks. Called for single actions, a policy of these demonstrations comes to rest and
stays there, ladder or not (docs/streaming_policy.md); `streaming8` calls it for eight."""

from mmengine.config import read_base

with read_base():
    from .streaming_metaworld_state import *

task = "PushT-v0"
demonstrations = "data/pusht/pusht_cchi_v7_replay.zarr.zip"
iterations = 20_000
train_dataloader["dataset"].update(path=demonstrations)
model["net"].update(widths=(64, 128), level_width=64)
model.update(action_dim=2, encoders=dict(state=dict(type=StateEncoder, width=18)))
model["patterns"] = dict(
    equal=(0.2, dict(type=equal, steps=steps)),
    ladder=(0.6, dict(type=delayed_ladder, steps=steps, execute=1, max_delay=4)),
    iid=(0.2, dict(type=iid, steps=steps)),
)
val_cfg.update(task=task, score="score")
val_cfg["plans"].update(
    DDIM1=dict(type=chunk_plan, execute=8, evaluations=1),
    streaming2=dict(type=ladder_plan, execute=2, evaluations=1),
    streaming8=dict(type=ladder_plan, execute=8, evaluations=1, eta=1.0),
)
test_cfg = val_cfg
train_cfg.update(max_iters=iterations, val_interval=iterations)
param_scheduler[1].update(end=iterations)
