"""RL-100 on Meta-World's push from ray-cast point clouds: the puck is seen in the cloud alone; hand, gripper and the
goal, which is drawn nowhere, come from the state. Smaller budgets than with the state alone."""

from mmengine.config import read_base

with read_base():
    from .push import *

from control.policies.encoders import PointEncoder, StandardStateEncoder

task.update(observe=("state", "points"))
policy.update(
    encoders=dict(
        state=dict(type=StandardStateEncoder, columns=(0, 1, 2, 3, 36, 37, 38)),
        points=dict(type=PointEncoder, width=64, channels=(32, 64, 128)),
    ),
    bottleneck=True,
)
pipeline.update(rounds=1, collect=50, retrain_iterations=1000)
pipeline["imitation"].update(iterations=2000, batch=128)
pipeline["online"].update(iterations=10, decisions=100)
