"""stable-baselines3's actor-critic with a second value head for the intrinsic stream, and one that keeps to a clone."""

import copy

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn


class TwoHeadPolicy(ActorCriticPolicy):
    """Both heads share the critic's trunk. The public methods keep their meaning: their value is the extrinsic one."""

    def _build(self, lr_schedule) -> None:
        super()._build(lr_schedule)
        with torch.random.fork_rng(devices=[]):  # the rest is initialised as without this head
            self.value_net_int = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
            if self.ortho_init:
                self.init_weights(self.value_net_int, gain=1)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _latents(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.extract_features(obs)
        if self.share_features_extractor:
            return self.mlp_extractor(features)
        return self.mlp_extractor.forward_actor(features[0]), self.mlp_extractor.forward_critic(features[1])

    def forward_two(self, obs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """actions (N, A), extrinsic and intrinsic value (N, 1), log-probability (N,)."""
        latent_pi, latent_vf = self._latents(obs)
        values, intrinsic = self.value_net(latent_vf), self.value_net_int(latent_vf)
        distribution = self._get_action_dist_from_latent(latent_pi)
        actions = distribution.get_actions()
        return actions.reshape((-1, *self.action_space.shape)), values, intrinsic, distribution.log_prob(actions)

    def evaluate_actions_two(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """extrinsic and intrinsic value (N, 1), log-probability (N,), entropy."""
        latent_pi, latent_vf = self._latents(obs)
        distribution = self._get_action_dist_from_latent(latent_pi)
        log_prob = distribution.log_prob(actions)
        return self.value_net(latent_vf), self.value_net_int(latent_vf), log_prob, distribution.entropy()

    def predict_values_int(self, obs: Tensor) -> Tensor:
        """Intrinsic value (N, 1)."""
        return self.value_net_int(self._latents(obs)[1])


class RelativeEntropyPolicy(TwoHeadPolicy):
    """Stays near a reference, by default the policy as it was made: where PPO adds ent_coef times the entropy, here it
    subtracts ent_coef KL(policy || reference), over observations and actions without bounds."""

    def _build(self, lr_schedule) -> None:
        super()._build(lr_schedule)
        self.reference = nn.ModuleDict({"trunk": copy.deepcopy(self.mlp_extractor.policy_net),
                                        "mean": copy.deepcopy(self.action_net)}).requires_grad_(False)  # fmt: skip
        self.register_buffer("reference_log_std", self.log_std.detach().clone())

    def remember(self) -> None:
        """The reference is the policy as it is now."""
        self.reference["trunk"].load_state_dict(self.mlp_extractor.policy_net.state_dict())
        self.reference["mean"].load_state_dict(self.action_net.state_dict())
        self.reference_log_std.copy_(self.log_std.detach())

    def divergence(self, obs: Tensor) -> Tensor:
        """(N,) KL(policy || reference) of diagonal Gaussians."""
        features = self.pi_features_extractor(obs)
        gap = self.action_net(self.mlp_extractor.forward_actor(features)) - self.reference["mean"](
            self.reference["trunk"](features)
        )
        ratio = self.log_std - self.reference_log_std
        return ((torch.exp(2 * ratio) + gap**2 * torch.exp(-2 * self.reference_log_std) - 1) / 2 - ratio).sum(-1)

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """value (N, 1), log-probability (N,), minus the divergence (N,)."""
        values, log_prob, _ = super().evaluate_actions(obs, actions)
        return values, log_prob, -self.divergence(obs)

    def evaluate_actions_two(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values, intrinsic, log_prob, _ = super().evaluate_actions_two(obs, actions)
        return values, intrinsic, log_prob, -self.divergence(obs)
