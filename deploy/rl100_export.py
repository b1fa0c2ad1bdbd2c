"""An RL-100 policy as the two graphs of a streaming policy: encoder, and a step that makes a chunk from its own noise.

The step is the one-step head, or the K-step mean chain unrolled. It has the inputs of every exported policy, so that
`StreamingPolicy`, rollouts, benches and control loops run it as they run the others; its chunk starts from `fresh`.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from control.policies.noise import NoiseSource
from control.rl.rl100.collect import history_of
from control.rl.rl100.policy import Policy
from deploy.onnx_common import OPSET
from deploy.policy_export import MOST_EVALUATIONS, EncoderGraph, example, write_graph
from deploy.runtime.manifest import sha256
from deploy.runtime.policy import StreamingPolicy
from deploy.runtime.policy_manifest import ObservationSpec, PolicyManifest

WAYS = ("one_step", "mean")


class ChunkGraph(nn.Module):
    """condition, buffer, level, fresh (B, T, A), start_noise, reset -> action (B, T, A), and buffer and level, which
    nothing here reads."""

    def __init__(self, policy: Policy, way: str):
        super().__init__()
        self.policy, self.way = policy, way

    def forward(self, condition, buffer, level, fresh, start_noise, reset) -> tuple[Tensor, Tensor, Tensor]:
        normalised = getattr(self.policy, self.way)(condition, fresh)
        kept = torch.where(reset[:, None, None], start_noise, buffer)
        return self.policy.to_robot(normalised), kept, level + 0


def export_policy(
    policy: Policy, observation: dict[str, np.ndarray], path: str | Path, *, way: str = "one_step", rate_hz: float,
    task: str = "", source: dict | None = None, batch: int = 1,
) -> PolicyManifest:  # fmt: skip
    """Write `path` (the step), its encoder and its manifest; returns the manifest. observation: one of one step. batch:
    robots per call, fixed in the graphs; `StreamingPolicy` runs one, other numbers are for a server's own loop.

    Raises: ConfigError for another way, or a chain too long to unroll.
    """
    if way not in WAYS:
        raise ConfigError(f"way={way!r}: an export is one of {', '.join(WAYS)}; the stochastic chain is for learning")
    evaluations = 1 if way == "one_step" else policy.chain.steps
    if evaluations > MOST_EVALUATIONS:
        raise ConfigError(f"{evaluations} steps are not unrolled into a graph; use at most {MOST_EVALUATIONS}")
    policy, path = policy.eval().cpu(), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder_path = path.with_name(path.stem + ".encoder.onnx")
    names, (T, A), B = list(policy.encoder.encoders), policy.shape, batch
    observed = example(observation, names, policy.encoder.steps, B)
    with torch.no_grad():
        condition = EncoderGraph(policy)(*observed)
    state = (condition, torch.zeros(B, T, A), torch.ones(B, T), torch.zeros(B, T, A), torch.zeros(B, T, A),
             torch.ones(B, dtype=torch.bool))  # fmt: skip
    write_graph(EncoderGraph(policy), observed, encoder_path, names, ["condition"], OPSET)
    write_graph(ChunkGraph(policy, way), state, path,
                ["condition", "buffer", "level", "fresh", "start_noise", "reset"],
                ["action", "next_buffer", "next_level"], OPSET)  # fmt: skip
    low, high = policy.actions.low, policy.actions.high
    manifest = PolicyManifest(
        model=path.name, sha256=sha256(path), encoder=encoder_path.name, encoder_sha256=sha256(encoder_path),
        opset=OPSET,
        observations=tuple(ObservationSpec(name=name, shape=np.asarray(observation[name]).shape,
                                           dtype=np.asarray(observation[name]).dtype.name) for name in names),
        observed=policy.encoder.steps, horizon=T, action_dim=A, condition_dim=condition.shape[1], first=0, execute=T,
        evaluations=evaluations, fresh=T, stochastic=False, resting=(1.0,) * T, action_low=tuple(low.tolist()),
        action_high=tuple(high.tolist()), rate_hz=float(rate_hz), batch=B,
        task=task, source={**(source or {}), "way": way, "prediction": "x0" if way == "one_step" else "eps"},
    )  # fmt: skip
    manifest.save(path.with_suffix(".json"))
    return manifest


def closed_loop_difference(policy: Policy, path: str | Path, way: str, make, seeds: list[int], steps: int) -> float:
    """Largest difference of an action between PyTorch and the export, which see the same observations and draw the same
    noise, over whole episodes that the export drives."""
    runtime, worst = StreamingPolicy(path), 0.0
    T = policy.shape[0]
    for seed in seeds:
        runtime.reset(seed)
        source, history = NoiseSource([seed]), history_of(policy, 1)
        source.draw(*policy.shape)  # the runtime's start noise
        env = make()
        seen, info = env.reset(seed=seed)
        for step in range(steps):
            history.take(0, seen)
            ours = runtime.select_action(seen)
            if step % T == 0:
                with torch.no_grad():
                    condition = policy.condition(history.stacked())
                    chunk = policy.to_robot(getattr(policy, way)(condition, source.draw(*policy.shape)))[0].numpy()
            worst = max(worst, float(np.abs(ours - chunk[step % T]).max()))
            seen, _, ended, cut, info = env.step(ours)
            if ended or cut or info["success"]:
                break
        env.close()
    return worst
