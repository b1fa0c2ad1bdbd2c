"""RL-100 on Meta-World's push from twelve demonstrations with little noise."""

from mmengine.config import read_base

with read_base():
    from .dial_turn import *

task.update(task="MetaWorld-push-v3")
pipeline.update(demonstrations=12, noise=0.2)
