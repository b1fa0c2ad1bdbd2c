"""From a point cloud of the task's depth camera alone (DP3's encoder, arXiv 2403.03954).

Demonstrations: `tutelage collect TASK OUT --observe points`."""

from mmengine.config import read_base

with read_base():
    from .streaming_metaworld_state import *

from control.policies.encoders import PointEncoder

model["encoders"] = dict(points=dict(type=PointEncoder, width=64))
train_dataloader["dataset"].update(names=("points",))
