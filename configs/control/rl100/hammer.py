"""RL-100 on Meta-World's hammer from twelve noisy demonstrations."""

from mmengine.config import read_base

with read_base():
    from .dial_turn import *

task.update(task="MetaWorld-hammer-v3")
pipeline.update(demonstrations=12, noise=0.5)
