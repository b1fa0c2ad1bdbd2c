"""RL-100 on Meta-World's dial-turn from five noisy demonstrations, state observations, chunks of four actions.

Stages: imitation, two rounds of offline improvement, online improvement, a one-step head."""

from common.nn.skip_net import SkipNet
from control.policies.encoders import StandardStateEncoder
from control.rl.rl100.runner import RL100Runner

runner_type = RL100Runner
task = dict(task="MetaWorld-dial-turn-v3", observe=("state",), max_steps=120)
policy = dict(
    encoders=dict(state=dict(type=StandardStateEncoder)),
    observed=1,
    chunk=4,
    net=dict(type=SkipNet, width=192, blocks=2),
    chain=dict(steps=5, s_min=0.08, s_max=0.8),
    bottleneck=False,
)
pipeline = dict(
    gamma=0.99,
    demonstrations=5,
    noise=0.5,
    rounds=2,
    collect=100,
    imitated="successes",
    retrain_iterations=1500,
    head_iterations=1500,
    imitation=dict(iterations=3000, batch=256, learning_rate=5e-4),
    critic=dict(iterations=4000, batch=256, learning_rate=3e-4),
    critics=dict(widths=(256, 256), omega=0.8, bounds=(0.0, 1.0)),
    dynamics=dict(members=5, elites=3, widths=(200, 200, 200)),
    dynamics_iterations=2500,
    gate=dict(z=1.0),
    offline=dict(
        updates=500, batch=256, learning_rate=3e-5, clip=0.2, clip_end=0.02, gate_every=50, gate_batch=512, horizon=5
    ),
    online=dict(iterations=120, lanes=10, decisions=200, epochs=5, minibatch=500, learning_rate=5e-5, stop_kl=0.03),
)
evaluation = dict(episodes=100, ways=("explore", "mean", "one_step", "best_of_n"))
workers = None  # processes; None: one per core
ray = None
load_from = None
resume = False
randomness = dict(seed=0)
