"""The bonus as a reward wrapper, one stream for both: what the paper's equation says, and the weaker variant."""

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from control.rl.rnd.bonus import RND
from control.rl.rnd.features import Features, reached


class RNDRewardWrapper(VecEnvWrapper):
    """r = r_E + beta |f_hat - f|^2, unscaled, in the episodes' own stream; the predictor learns after every `every`
    vector steps (Yin et al. 2024, as far as it could be read). Put it outside VecMonitor, so that logged rewards stay
    extrinsic, and never around an evaluation.

    Args: venv, whose infos hold "pose"; extent: longest side of the arena, m; features: see `Features`; beta; every;
        epochs, batch: of a predictor's training stage; rnd_kwargs.
    """

    def __init__(self, venv: VecEnv, extent: float, features: str = "fourier", beta: float = 1.0, every: int = 128,
                 epochs: int = 4, batch: int = 512, **rnd_kwargs):  # fmt: skip
        super().__init__(venv)
        self.features = Features(features, extent, venv.observation_space.shape[0])
        self.bonus = RND(self.features.width, **rnd_kwargs)
        self.beta, self.every, self.epochs, self.batch = beta, every, epochs, batch
        self._seen: list[np.ndarray] = []

    def reset(self) -> np.ndarray:
        return self.venv.reset()

    def step_wait(self):
        obs, rewards, dones, infos = self.venv.step_wait()
        inputs = self.features(*reached(obs, dones, infos))
        self._seen.append(inputs)
        bonus = self.bonus.raw(torch.as_tensor(inputs)).numpy()
        if len(self._seen) == self.every:
            self._train()
        return obs, rewards + self.beta * bonus, dones, infos

    def _train(self) -> None:
        """The stage of the predictor that alternates with PPO's."""
        inputs = torch.as_tensor(np.concatenate(self._seen))
        self._seen = []
        self.bonus.observe(inputs)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(inputs)).split(self.batch):
                self.bonus.learn(inputs[rows])
