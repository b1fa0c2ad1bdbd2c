"""A trained policy as two ONNX graphs, encoder and step, and a manifest.

encoder: the last O observations -> condition, once per call. step: condition, buffer, level, noise and reset in;
un-normalised actions, next buffer and next level out. No random numbers, no loop, no hidden state in the graphs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from control.policies.model import DiffusionPolicyModel
from control.policies.normaliser import MinMaxNormaliser
from control.policies.streaming import Plan, StreamState, reset_where, start_state, stream
from deploy.onnx_common import OPSET, quiet
from deploy.runtime.manifest import sha256
from deploy.runtime.policy_manifest import ObservationSpec, PolicyManifest

MOST_EVALUATIONS = 16  # they are unrolled in the graph
FORBIDDEN = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Loop", "If", "NonZero", "Scan"}


class EncoderGraph(nn.Module):
    """Observations in the order of the model's encoders -> condition (1, C). model: with `encoder` and `condition`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.names = model, list(model.encoder.encoders)

    def forward(self, *observations: Tensor) -> Tensor:
        return self.model.condition(dict(zip(self.names, observations, strict=True)))


class StepGraph(nn.Module):
    """One call of a plan, with the state explicit. idle (B, A), in the robot's units: an episode begins with it in the
    positions of a delayed plan that are in flight; all others begin around 0 ("zero" primer)."""

    def __init__(self, model: DiffusionPolicyModel, plan: Plan):
        super().__init__()
        self.model, self.plan, self.idle = model, plan, plan.delay > 0
        self.register_buffer("in_flight", (torch.arange(plan.horizon) < plan.delay)[:, None], persistent=False)

    def forward(self, condition, buffer, level, fresh, start_noise, reset, *more) -> tuple[Tensor, Tensor, Tensor]:
        """more: noise, if the plan is stochastic, then idle, if it is delayed."""
        process, anchor = self.model.process, None
        noise = more[0] if self.plan.eta else None
        if self.idle:
            anchor = torch.where(self.in_flight, self.model.actions(more[-1])[:, None], torch.zeros_like(start_noise))
        state = reset_where(reset, start_state(process, self.plan, start_noise, anchor), StreamState(buffer, level))
        chunk, following = stream(
            lambda x, t: self.model.denoiser(x, t, condition), process, self.plan, state, fresh, noise
        )
        return self.model.actions.inverse(chunk), following.buffer, following.level


def check_graph(path: Path) -> None:
    """Raises RuntimeError when a graph draws random numbers or branches, or is no valid ONNX."""
    model = onnx.load(path)
    onnx.checker.check_model(model)
    bad = sorted({node.op_type for node in model.graph.node} & FORBIDDEN)
    if bad:
        raise RuntimeError(
            f"{path.name} holds {', '.join(bad)}: a policy graph must be a fixed, deterministic function"
        )


def export_policy(
    model: DiffusionPolicyModel,
    plan: Plan,
    observation: dict[str, np.ndarray],
    path: str | Path,
    *,
    rate_hz: float,
    task: str = "",
    source: dict | None = None,
    batch: int = 1,
    opset: int = OPSET,
) -> PolicyManifest:
    """Write `path` (the step), its encoder and its manifest; returns the manifest.

    observation: one observation of one step per name, for shapes and types. batch: robots per call, fixed in the
    graphs; `StreamingPolicy` runs one, other numbers are for a server's own loop.
    Raises: ConfigError for a plan with more than 16 evaluations, or one that does not fit the model's offset; DataError
    without statistics.
    """
    if plan.evaluations > MOST_EVALUATIONS:
        raise ConfigError(
            f"a plan of {plan.evaluations} evaluations per call is not unrolled into a graph; use at most "
            f"{MOST_EVALUATIONS} (DDIM, or a ladder)"
        )
    plan.check_alignment(model.offset)
    model.check()
    model = model.eval().cpu()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder_path = path.with_name(path.stem + ".encoder.onnx")
    names = list(model.encoder.encoders)
    observed = example(observation, names, model.observed, batch)
    A, T = len(model.actions.low), plan.horizon
    with torch.no_grad():
        condition = EncoderGraph(model)(*observed)
    rows = plan.fresh + plan.first
    B = batch
    state = (condition, torch.zeros(B, T, A), torch.ones(B, T), torch.zeros(B, rows, A), torch.zeros(B, T, A),
             torch.ones(B, dtype=torch.bool))  # fmt: skip
    inputs = ["condition", "buffer", "level", "fresh", "start_noise", "reset"]
    if plan.eta:
        state, inputs = (*state, torch.zeros(plan.evaluations, B, T, A)), [*inputs, "noise"]
    if plan.delay:
        state, inputs = (*state, torch.zeros(B, A)), [*inputs, "idle"]
    write_graph(EncoderGraph(model), observed, encoder_path, names, ["condition"], opset)
    write_graph(StepGraph(model, plan), state, path, inputs, ["action", "next_buffer", "next_level"], opset)
    manifest = PolicyManifest(
        model=path.name,
        sha256=sha256(path),
        encoder=encoder_path.name,
        encoder_sha256=sha256(encoder_path),
        opset=opset,
        observations=tuple(_spec(name, observation[name], model) for name in names),
        observed=model.observed,
        horizon=T,
        action_dim=A,
        condition_dim=condition.shape[1],
        first=plan.delay,
        execute=plan.execute,
        evaluations=plan.evaluations,
        fresh=rows,
        stochastic=bool(plan.eta),
        resting=tuple(plan.resting.tolist()),
        action_low=tuple(model.actions.low.tolist()),
        action_high=tuple(model.actions.high.tolist()),
        rate_hz=float(rate_hz),
        idle=plan.delay > 0,
        batch=batch,
        task=task,
        source={**(source or {}), "prediction": model.denoiser.prediction, "steps": model.process.steps},
    )
    manifest.save(path.with_suffix(".json"))
    return manifest


def example(observation: dict[str, np.ndarray], names: list[str], steps: int, batch: int) -> tuple[Tensor, ...]:
    """(batch, steps, ...) of every name: an observation of one step, repeated."""
    return tuple(
        torch.from_numpy(np.broadcast_to(value, (batch, steps, *value.shape)).copy())
        for value in (np.asarray(observation[name]) for name in names)
    )


def _spec(name: str, value: np.ndarray, model: DiffusionPolicyModel) -> ObservationSpec:
    normaliser = getattr(model.encoder.encoders[name], "normaliser", None)
    ranges = {}
    if isinstance(normaliser, MinMaxNormaliser):
        ranges = {"low": tuple(normaliser.low.tolist()), "high": tuple(normaliser.high.tolist())}
    value = np.asarray(value)
    return ObservationSpec(name=name, shape=value.shape, dtype=value.dtype.name, **ranges)


def write_graph(graph: nn.Module, inputs: tuple, path: Path, names: list[str], outputs: list[str], opset: int) -> None:
    """Export with fixed shapes, and check the file."""
    with torch.no_grad(), quiet():
        torch.onnx.export(
            graph.eval(), inputs, str(path), input_names=names, output_names=outputs, opset_version=opset, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
    check_graph(path)


@dataclass(frozen=True)
class LoopParity:
    """Largest differences of an action over whole episodes. beside: both policies see what the exported one's loop
    sees; apart: each has an environment of its own; agree: of all `steps` those before `apart` passed the limit in
    their episode."""

    beside: float
    apart: float
    agree: int
    steps: int


def closed_loop_parity(
    model, plan: Plan, path, env_factory: Callable, seeds: list[int], steps: int, limit: float = 1e-4
) -> LoopParity:
    """PyTorch against the exported graph with the same noise, over whole episodes of at most `steps`. A delayed plan's
    answers come as late in both.

    Rounding differs by 1e-7; where bodies touch, a simulation may make anything of it, so loops apart can part without
    any fault of the export. Beside each other the policies' own buffers still run on through the whole episode.
    """
    from control.policies.policy import DiffusionPolicy
    from deploy.runtime.policy import StreamingPolicy

    runtime, apart, beside = StreamingPolicy(path), DiffusionPolicy(model, plan), DiffusionPolicy(model, plan)
    worst, widest, agree, played = 0.0, 0.0, 0, 0
    for seed in seeds:
        runtime.reset(seed)
        for policy in (apart, beside):
            policy.reset([seed])
        envs, within = [env_factory(), env_factory()], True
        seen = [env.reset(seed=seed)[0] for env in envs]
        for _ in range(steps):
            ours = runtime.select_action(seen[0])
            same, other = (
                policy.select_action({name: value[None] for name, value in observation.items()})[0]
                for policy, observation in ((beside, seen[0]), (apart, seen[1]))
            )
            worst = max(worst, float(np.abs(ours - same).max()))
            gap = float(np.abs(ours - other).max())
            widest, within = max(widest, gap), within and gap <= limit
            played += 1
            agree += within
            results = [env.step(action) for env, action in zip(envs, (ours, other), strict=True)]
            seen = [result[0] for result in results]
            if any(result[2] or result[3] for result in results):
                break
    return LoopParity(worst, widest, agree, played)
