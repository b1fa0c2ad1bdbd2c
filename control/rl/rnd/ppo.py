"""PPO with a novelty bonus as a second, never-ending stream of reward; stable-baselines3 underneath, nothing forked."""

import numpy as np
import torch
import torch.nn.functional as F
from stable_baselines3 import PPO
from stable_baselines3.common.utils import explained_variance, obs_as_tensor

from common.errors import ConfigError
from control.rl.rnd.bonus import build_bonus
from control.rl.rnd.buffer import TwoStreamRolloutBuffer
from control.rl.rnd.features import Features, reached
from control.rl.rnd.policy import TwoHeadPolicy
from control.rl.rnd.statistics import ReturnScale


class RNDPPO(PPO):
    """Proximal policy optimisation on advantages c_E A_E + c_I A_I (Burda et al. 2019, section 2.3).

    The bonus is that of the state which a step reached: at an episode's end the terminal one, not the next episode's
    first. Its stream has its own discount and value head and flows through episode ends.

    Args: env, whose infos hold "pose" (x, y, heading); extent: longest side of the arena, m; features: see `Features`;
        bonus: "rnd", "drnd", "count"; bonus_kwargs; ext_coef; int_coef; int_gamma; int_episodic: see the buffer;
        anneal: over this last share of the training int_coef goes to 0; warm_up: steps of every environment under
        random actions, for the bonus' input statistics, before the first rollout; kwargs as PPO's. int_coef = 0 is
        stable-baselines3's PPO, bit for bit.
    Raises: ConfigError.
    """

    def __init__(
        self,
        env,
        extent: float = 8.0,
        features: str = "fourier",
        bonus: str = "rnd",
        bonus_kwargs: dict | None = None,
        ext_coef: float = 2.0,
        int_coef: float = 1.0,
        int_gamma: float = 0.99,
        int_episodic: bool = False,
        anneal: float = 0.0,
        warm_up: int = 200,
        policy: type = TwoHeadPolicy,
        _init_setup_model: bool = True,
        **kwargs,
    ):
        if int_coef < 0 or ext_coef < 0 or ext_coef == int_coef == 0:
            raise ConfigError(f"ext_coef={ext_coef!r}, int_coef={int_coef!r}: wanted 0 or more, one of them above 0")
        if not 0 <= anneal <= 1:
            raise ConfigError(f"anneal={anneal!r}: wanted a share of the training, 0 <= anneal <= 1")
        if int_coef and kwargs.get("clip_range_vf") is not None:
            raise ConfigError(f"clip_range_vf={kwargs['clip_range_vf']!r}: not with a bonus, leave it out")
        self.extent, self.feature_kind = extent, "raw" if bonus == "count" else features
        self.bonus_kind, self.bonus_kwargs = bonus, dict(bonus_kwargs or {})
        self.ext_coef, self.int_coef, self.int_gamma = ext_coef, int_coef, int_gamma
        self.int_episodic, self.anneal, self.warm_up = int_episodic, anneal, warm_up
        self.first_goal_step: int | None = None
        self._schedule_steps: int | None = None
        super().__init__(policy, env, _init_setup_model=False, **kwargs)
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        # the constructor's seed draws the policy first, as without a bonus
        features = Features(self.feature_kind, self.extent, self.observation_space.shape[0])
        if self.int_coef:
            self.rollout_buffer_class = TwoStreamRolloutBuffer
            self.rollout_buffer_kwargs = {"input_width": features.width, "int_gamma": self.int_gamma,
                                          "int_episodic": self.int_episodic}  # fmt: skip
        super()._setup_model()
        self.features = features
        with torch.random.fork_rng(devices=[]):
            self.bonus = build_bonus(self.bonus_kind, features.width, **self.bonus_kwargs).to(self.device)
            self.bonus_scale = ReturnScale(self.n_envs, self.int_gamma).to(self.device)

    def _setup_learn(self, *args, **kwargs):
        found = super()._setup_learn(*args, **kwargs)
        if self.int_coef and self.num_timesteps == 0:
            self._warm_up()
        return found

    def learn_until(self, steps: int, total: int, callback=None) -> "RNDPPO":
        """Go on to `steps` of a training of `total`: schedules and annealing run over `total`, running episodes go on.
        Calls one after the other make the same model as one call."""
        self._schedule_steps = total
        try:
            return self.learn(steps - self.num_timesteps, callback, reset_num_timesteps=self._last_obs is None)
        finally:
            self._schedule_steps = None

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, self._schedule_steps or total_timesteps)

    def _warm_up(self) -> None:
        """Statistics of the bonus' inputs under random actions; the environments go on from there. The scale of its
        returns takes no part: an untrained predictor's errors would hold the scaled bonus down long after."""
        seen, random, space = [], np.random.default_rng(self.seed), self.action_space
        for _ in range(self.warm_up):
            action = random.uniform(space.low, space.high, (self.n_envs, *space.shape))
            new_obs, _, dones, infos = self.env.step(action)
            seen.append(self._inputs(new_obs, dones, infos))
            self._last_obs, self._last_episode_starts = new_obs, dones
        if seen:
            inputs = torch.as_tensor(np.stack(seen), device=self.device)
            self.bonus.observe(inputs.flatten(0, 1))

    def _inputs(self, new_obs: np.ndarray, dones: np.ndarray, infos: list[dict]) -> np.ndarray:
        """(N, d) bonus inputs of the states that a step reached."""
        return self.features(*reached(new_obs, dones, infos))

    @property
    def int_coef_now(self) -> float:
        """int_coef under its annealing."""
        if not self.anneal:
            return self.int_coef
        return self.int_coef * min(1.0, self._current_progress_remaining / self.anneal)

    def collect_rollouts(self, env, callback, rollout_buffer, n_rollout_steps: int) -> bool:
        """As stable-baselines3's, with the second value and the bonus' inputs at every step."""
        if not self.int_coef:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        for step in range(n_rollout_steps):
            if self.use_sde and self.sde_sample_freq > 0 and step % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            with torch.no_grad():
                obs_tensor = obs_as_tensor(self._last_obs, self.device)
                actions, values, int_values, log_probs = self.policy.forward_two(obs_tensor)
            actions = actions.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(np.clip(actions, self.action_space.low, self.action_space.high))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            rewards = self._bootstrap_timeouts(rewards, dones, infos)
            rollout_buffer.add_intrinsic(int_values, self._inputs(new_obs, dones, infos))
            rollout_buffer.add(self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs)
            self._last_obs, self._last_episode_starts = new_obs, dones
        with torch.no_grad():
            new_tensor = obs_as_tensor(new_obs, self.device)
            values, last_int_values = self.policy.predict_values(new_tensor), self.policy.predict_values_int(new_tensor)
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        rollout_buffer.mix(self._bonus_of(rollout_buffer), last_int_values, dones, self.ext_coef, self.int_coef_now)
        self._log_streams(rollout_buffer)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _update_info_buffer(self, infos: list[dict], dones: np.ndarray | None = None) -> None:
        super()._update_info_buffer(infos, dones)
        if self.first_goal_step is None and any(info.get("is_success") for info in infos):
            self.first_goal_step = self.num_timesteps

    def _bootstrap_timeouts(self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict]) -> np.ndarray:
        """Rewards with gamma_E V_E(terminal observation) where an episode was cut rather than decided."""
        cut = [row for row in np.flatnonzero(dones) if infos[row].get("TimeLimit.truncated", False)]
        if cut:
            rewards = rewards.copy()
            last = np.stack([infos[row]["terminal_observation"] for row in cut])
            with torch.no_grad():
                value = self.policy.predict_values(obs_as_tensor(last, self.device)).cpu().numpy().flatten()
            rewards[cut] += self.gamma * value
        return rewards

    def _bonus_of(self, buffer: TwoStreamRolloutBuffer) -> np.ndarray:
        """(T, N) scaled bonus: raw by the statistics from before the rollout, then the statistics, then the scale."""
        inputs = torch.as_tensor(buffer.inputs, device=self.device)
        raw = self.bonus.raw(inputs)
        self.bonus.observe(inputs.flatten(0, 1))
        scaled = self.bonus_scale(raw)
        record = self.logger.record
        record("rnd/bonus_raw_mean", raw.mean().item())
        record("rnd/bonus_raw_max", raw.max().item())
        record("rnd/bonus_norm_mean", scaled.mean().item())
        record("rnd/return_std", self.bonus_scale.moments.var.sqrt().item())
        if hasattr(self.bonus, "whiten"):
            record("rnd/target_feature_var", self.bonus.target_variance(inputs.flatten(0, 1)))
            record("rnd/input_clip_fraction", self.bonus.clipped(inputs))
        return scaled.cpu().numpy()

    def _log_streams(self, buffer: TwoStreamRolloutBuffer) -> None:
        intrinsic = self.int_coef_now * buffer.int_advantages
        ratio = (self.ext_coef * buffer.ext_advantages).std() / max(intrinsic.std(), 1e-8)
        self.logger.record("train/adv_ratio", float(ratio))
        self.logger.record("rnd/int_coef", self.int_coef_now)
        self.logger.record("train/explained_variance_int",
                           explained_variance(buffer.int_values.flatten(), buffer.int_returns.flatten()))  # fmt: skip

    def train(self) -> None:
        """As PPO's, with both value losses and, after every minibatch, an update of the bonus by its own optimiser."""
        if not self.int_coef:
            return super().train()
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip = self.clip_range(self._current_progress_remaining)
        logs: dict[str, list[float]] = {}
        stop = False
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                loss, shown = self._loss(batch, clip)
                stop = self.target_kl is not None and shown["train/approx_kl"] > 1.5 * self.target_kl
                if stop:
                    break
                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
                shown |= {f"rnd/{key}": value for key, value in self.bonus.learn(batch.inputs).items()}
                for key, value in shown.items():
                    logs.setdefault(key, []).append(value)
            self._n_updates += 1
            if stop:
                break
        for key, values in logs.items():
            self.logger.record(key, float(np.mean(values)))
        buffer = self.rollout_buffer
        values = buffer.values.reshape(buffer.n_envs, -1).T  # the buffer has flattened them environment by environment
        returns = buffer.ext_advantages + values
        self.logger.record("train/explained_variance_ext", explained_variance(values.flatten(), returns.flatten()))
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _loss(self, batch, clip: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Clipped surrogate, both value losses, entropy, of a minibatch; and what to log."""
        values, int_values, log_prob, entropy = self.policy.evaluate_actions_two(batch.observations, batch.actions)
        advantages = batch.advantages
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        surrogate = -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
        value = F.mse_loss(values.flatten(), batch.returns)
        int_value = F.mse_loss(int_values.flatten(), batch.int_returns)
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss = surrogate + self.vf_coef * (value + int_value) + self.ent_coef * entropy_loss
        with torch.no_grad():
            shown = {
                "train/policy_gradient_loss": surrogate.item(),
                "train/value_loss": value.item(),
                "train/value_loss_int": int_value.item(),
                "train/entropy_loss": entropy_loss.item(),
                "train/approx_kl": ((ratio - 1) - log_ratio).mean().item(),
                "train/clip_fraction": ((ratio - 1).abs() > clip).float().mean().item(),
            }
        return loss, shown

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names, variables = super()._get_torch_save_params()
        own = ["bonus", "bonus_scale"] + (["bonus.optimiser"] if self.bonus.optimiser is not None else [])
        return [*names, *own], variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "bonus", "bonus_scale"]
