"""A planner distilled: pure pursuit of the shortest way cloned into a policy that sees rays and the goal's direction,
then PPO with the divergence from the clone in the entropy's place. Random layouts, new ones in every episode."""

from control.rl.rnd.policy import RelativeEntropyPolicy
from control.rl.rnd.runner import RNDRunner

runner_type = RNDRunner
environment = dict(count=32, backend="mujoco", layout="Random", movers=0, pool=(0, 1000), randomisation=False,
                   reward="sparse_goal", collision="terminate", speed="forward", observe_pose=False,
                   goal_visibility="always")  # fmt: skip
cloning = dict(driver="pure_pursuit", episodes=2000, noise=0.3, epochs=40)
algorithm = dict(policy=RelativeEntropyPolicy, int_coef=0.0, ext_coef=1.0, widths=(128, 128), n_steps=128,
                 batch_size=512, n_epochs=4, learning_rate=3e-4, gamma=0.995, ent_coef=0.01)  # fmt: skip
total_steps = 1_998_848  # 488 rollouts
checkpoint_every = 65_536
picture_every = 0  # rollouts between two maps of the visits; 0: none
evaluation = dict(episodes=100, environment=dict(pool=(1000, 200)))  # layouts that no training sees
load_from = None
resume = False
randomness = dict(seed=0)
