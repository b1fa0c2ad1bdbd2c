"""RL-100 on Meta-World's push from a 96 x 96 picture: the puck is seen in the picture alone; hand, gripper and the
goal, which is drawn nowhere, come from the state. Crops are random in imitation and central ever after, so that ratios
are exact. Smaller budgets than with the state alone."""

from mmengine.config import read_base

with read_base():
    from .push_points import *

from control.policies.encoders import ImageEncoder

task.update(observe=("state", "rgb"))
policy["encoders"].pop("points")
policy["encoders"].update(rgb=dict(type=ImageEncoder, width=64, base=16, blocks=1))
