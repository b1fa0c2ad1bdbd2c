"""From a 96 x 96 picture (small ResNet with group norm, spatial softmax, random crops).

Demonstrations: `tutelage collect TASK OUT --observe rgb`."""

from mmengine.config import read_base

with read_base():
    from .streaming_metaworld_state import *

from control.policies.encoders import ImageEncoder

model["encoders"] = dict(rgb=dict(type=ImageEncoder, width=64, base=16, blocks=1))
train_dataloader["dataset"].update(names=("rgb",))
batch_size = 32
train_dataloader.update(batch_size=batch_size)
train_dataloader["sampler"].update(batch_size=batch_size)
