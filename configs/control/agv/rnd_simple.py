"""PPO with a novelty bonus in the simple warehouse, MuJoCo. Two things to change: `environment.layout`, and
`algorithm.int_coef`, 0 for stable-baselines3's PPO as it is."""

from control.rl.rnd.runner import RNDRunner

runner_type = RNDRunner
environment = dict(count=32, backend="mujoco", layout="Simple", movers=0, pool=(0, 1000), randomisation=False,
                   reward="sparse_goal", collision="terminate", speed="forward", observe_pose=True,
                   goal_visibility="always")  # fmt: skip
algorithm = dict(features="fourier", bonus="rnd", bonus_kwargs=dict(), ext_coef=2.0, int_coef=1.0, int_gamma=0.99,
                 anneal=0.0, warm_up=200, widths=(64, 64), n_steps=128, batch_size=512, n_epochs=4,
                 learning_rate=3e-4, gamma=0.995, ent_coef=0.003)  # fmt: skip
total_steps = 249_856  # 61 rollouts
checkpoint_every = 65_536
picture_every = 0  # rollouts between two maps of bonus and visits; 0: none
evaluation = dict(episodes=100, environment=dict())
load_from = None
resume = False
randomness = dict(seed=0)
