"""RL-100 on Meta-World's reach from five noisy demonstrations."""

from mmengine.config import read_base

with read_base():
    from .dial_turn import *

task.update(task="MetaWorld-reach-v3")
pipeline.update(noise=0.7)
