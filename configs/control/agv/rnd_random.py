"""PPO with a novelty bonus on random layouts, new ones in every episode; the policy sees no pose, the bonus does."""

from mmengine.config import read_base

with read_base():
    from .rnd_simple import *

environment.update(layout="Random", observe_pose=False)
total_steps = 999_424  # 244 rollouts
evaluation = dict(episodes=100, environment=dict(pool=(1000, 200)))  # layouts that no training sees
