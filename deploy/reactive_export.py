"""An actor of stable-baselines3 as one ONNX graph, observation in, deterministic action out; and its manifest.

Normalisation and the clamp to the action's range are inside; critics, bonus and the distribution are not.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from common.errors import ConfigError
from deploy.onnx_common import OPSET, quiet
from deploy.policy_export import check_graph
from deploy.runtime.manifest import sha256
from deploy.runtime.policy_manifest import ObservationSpec
from deploy.runtime.reactive import ReactiveManifest


class MeanAction(nn.Module):
    """Observations (B, O) -> the mean of the policy's Gaussian, within the action's range (B, A)."""

    def __init__(self, policy: ActorCriticPolicy, normaliser: VecNormalize | None = None):
        super().__init__()
        self.policy = policy
        self.normaliser = normaliser if normaliser is not None and normaliser.norm_obs else None
        if self.normaliser is not None:
            self.register_buffer("mean", torch.as_tensor(normaliser.obs_rms.mean, dtype=torch.float32))
            scale = 1 / np.sqrt(normaliser.obs_rms.var + normaliser.epsilon)
            self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))
        space = policy.action_space
        self.register_buffer("low", torch.as_tensor(space.low))
        self.register_buffer("high", torch.as_tensor(space.high))

    def forward(self, obs: Tensor) -> Tensor:
        if self.normaliser is not None:
            obs = ((obs - self.mean) * self.scale).clamp(-self.normaliser.clip_obs, self.normaliser.clip_obs)
        features = self.policy.pi_features_extractor(obs)
        mean = self.policy.action_net(self.policy.mlp_extractor.forward_actor(features))
        return torch.minimum(torch.maximum(mean, self.low), self.high)


def export_actor(
    policy: ActorCriticPolicy,
    path: str | Path,
    *,
    rate_hz: float,
    task: str = "",
    environment: dict | None = None,
    source: dict | None = None,
    normaliser: VecNormalize | None = None,
) -> ReactiveManifest:
    """Write `path` and its manifest; returns the manifest. The graph takes any number of observations at once.

    Raises: ConfigError for spaces other than boxes of one dimension, or squashed actions.
    """
    seen, acts = policy.observation_space, policy.action_space
    if not all(isinstance(space, spaces.Box) and len(space.shape) == 1 for space in (seen, acts)):
        raise ConfigError(f"observations {seen}, actions {acts}: exported are boxes of one dimension")
    if policy.squash_output:
        raise ConfigError("squash_output=True: the exported actor clamps its mean, train without it")
    device, training = policy.device, policy.training
    low, high = (tuple(bound.tolist()) if np.isfinite(bound).all() else () for bound in (seen.low, seen.high))
    manifest = export_graph(
        MeanAction(policy.cpu(), normaliser), path,
        ObservationSpec(name="state", shape=seen.shape, dtype="float32", low=low, high=high),
        tuple(acts.low.tolist()), tuple(acts.high.tolist()), rate_hz=float(rate_hz), task=task,
        environment=environment or {}, source=source or {},
    )  # fmt: skip
    policy.to(device).train(training)
    return manifest


def export_graph(
    graph: nn.Module, path: str | Path, observation: ObservationSpec, action_low: tuple, action_high: tuple, **described
) -> ReactiveManifest:
    """Write a module (B, O) -> (B, A) without memory to `path`, and its manifest; described: more of the manifest."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    example = torch.zeros(2, *observation.shape)
    with torch.no_grad(), quiet():
        torch.onnx.export(
            graph.eval(), (example,), str(path), input_names=["obs"], output_names=["action"], opset_version=OPSET,
            dynamo=True, external_data=False, verbose=False, dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    check_graph(path)
    manifest = ReactiveManifest(
        model=path.name, sha256=sha256(path), opset=OPSET, observations=(observation,), action_dim=len(action_low),
        action_low=action_low, action_high=action_high, **described,
    )  # fmt: skip
    manifest.save(path.with_suffix(".json"))
    return manifest


@dataclass(frozen=True)
class Parity:
    """worst: largest difference of an action on `count` observations; same: closed loops with the same end and steps,
    of `episodes`; apart: largest relative difference of a way's length."""

    worst: float
    count: int
    same: int
    episodes: int
    apart: float


def difference(ours, theirs, observations: np.ndarray, batches: tuple[int, ...] = (1, 7, 256)) -> float:
    """Largest difference of two policies, observations (K, O) -> actions, asked in batches of each size."""
    worst = 0.0
    for size in batches:
        for begin in range(0, len(observations), size):
            part = observations[begin : begin + size]
            worst = max(worst, float(np.abs(ours(part) - theirs(part)).max()))
    return worst
