"""A Trajectory Diffuser planner as ONNX graphs, without random numbers, loops or branches, and a manifest.

Graphs: one step of the optimiser, one token of the generator with its cache in and out, the inverse dynamics, the value
of plans, what a state's value asks for; of these the ones that a plan's settings need. The loop around them is
`deploy.runtime.planner`. Letters: C candidates, H horizon, S state.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from control.planning.diffuser.model import TrajectoryDiffuserModel
from control.planning.diffuser.planner import Planner
from control.planning.diffuser.plans import PlanSettings
from control.planning.diffuser.refine import clean_start
from deploy.onnx_common import OPSET
from deploy.policy_export import write_graph
from deploy.runtime.manifest import sha256
from deploy.runtime.planner import PlannerPolicy
from deploy.runtime.planner_manifest import SUFFIXES, Chain, PlannerManifest, Settings, roles
from deploy.runtime.policy_manifest import ObservationSpec

OUTPUTS = {
    "optimiser": ["next_x"],
    "generator": ["next_token", "next_cache"],
    "act": ["action"],
    "value": ["worth"],
    "asked": ["asked"],
}


class OptimiserStep(nn.Module):
    """One step of `refine`: plans x (C, H, S) from level t (1,) to s (1,), with noise z like x that the temperature has
    scaled, for an asked return (1,), normalised; eta (1,). Guidance is inside, as one doubled batch."""

    def __init__(self, model: TrajectoryDiffuserModel, guidance: float):
        super().__init__()
        self.model, self.denoiser = model, model.guided(guidance)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, z: Tensor, asked: Tensor, eta: Tensor) -> Tensor:
        process, H = self.model.process, x.shape[1]
        t, s = clean_start(t, H), clean_start(s, H)
        condition = self.model.condition(asked).expand(len(x), -1)
        x0 = self.denoiser(x, t, condition)
        return process.step(x, t, s, x0, eta * process.ancestral_gamma(t, s), z)


class GeneratorStep(nn.Module):
    """token (C or 1, S + 1) at place (1,), and the cache of those before -> the next token, and the cache with it."""

    def __init__(self, model: TrajectoryDiffuserModel):
        super().__init__()
        self.generator = model.generator

    def forward(self, token: Tensor, cache: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        return self.generator.step(token, cache, place)


class Act(nn.Module):
    """state (1, S) in the environment's units, goal (1, S) of a plan, gap (1,) of steps to it -> action (1, A)."""

    def __init__(self, model: TrajectoryDiffuserModel):
        super().__init__()
        self.model = model

    def forward(self, state: Tensor, goal: Tensor, gap: Tensor) -> Tensor:
        return self.model.act(self.model.states(state), goal, gap)


class Value(nn.Module):
    """plans (C, H, S), or states (1, S), normalised -> (C,) or (1,)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, values: Tensor) -> Tensor:
        return self.net(values.flatten(1))[:, 0]


def graph(model: TrajectoryDiffuserModel, settings: Settings, role: str) -> nn.Module:
    """What is exported for a role."""
    return {
        "optimiser": lambda: OptimiserStep(model, settings.guidance),
        "generator": lambda: GeneratorStep(model),
        "act": lambda: Act(model),
        "value": lambda: Value(model.plan_value),
        "asked": lambda: Value(model.value),
    }[role]().eval()


def drawn_inputs(model, manifest: PlannerManifest, role: str, random: np.random.Generator) -> dict[str, Tensor]:
    """Inputs of a graph as a planner may meet them."""
    C, H, S = manifest.settings.candidates, manifest.horizon, manifest.state_dim

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))

    if role == "optimiser":
        chain = manifest.chain if manifest.chain.steps else manifest.cold
        step = int(random.integers(chain.steps))
        t, s = (torch.tensor([chain.levels[i]], dtype=torch.float32) for i in (step, step + 1))
        scale = manifest.settings.temperature if chain.eta else 0.0
        return {"x": normal(C, H, S), "t": t, "s": s, "z": scale * normal(C, H, S), "asked": normal(1),
                "eta": torch.tensor([chain.eta])}  # fmt: skip
    if role == "generator":
        rows = C if manifest.settings.jitter else 1
        cache = model.generator.net.start(rows)
        place = int(random.integers(cache.shape[-2]))
        return {"token": normal(rows, S + 1), "cache": normal(*cache.shape), "place": torch.tensor([place])}
    if role == "act":
        gap = torch.tensor([float(random.integers(1, manifest.stride + 1))])
        return {"state": model.states.inverse(normal(1, S)), "goal": normal(1, S), "gap": gap}
    return {"plans": normal(C, H, S)} if role == "value" else {"state": normal(1, S)}


def chain_of(model: TrajectoryDiffuserModel, settings: PlanSettings) -> Chain:
    """The levels that `refine` walks with these settings."""
    process, level = model.process, settings.level
    entry = torch.tensor(level / process.steps)
    levels = process.levels(settings.steps or level, start=level / process.steps).tolist() if level else []
    return Chain(levels=tuple(levels), alpha=float(process.alpha(entry)), sigma=float(process.sigma(entry)),
                 eta=float(settings.eta))  # fmt: skip


def describe(planner: Planner, path: Path, *, rate_hz: float, task: str = "", source: dict | None = None):
    """The manifest of a planner's graphs beside `path`; their hashes are still to be filled in."""
    model, settings = planner.model, planner.settings
    kept = Settings(**{name: getattr(settings, name) for name in Settings.__dataclass_fields__})
    chain = chain_of(model, settings)
    cold = chain_of(model, planner.cold.settings) if settings.start == "previous" else None
    target = "value" if settings.target == "value" else planner.asked.target
    files = {role: path.stem + SUFFIXES[role] for role in roles(kept, chain, cold, target)}
    return PlannerManifest(
        files=files,
        sha256=dict.fromkeys(files, ""),
        opset=OPSET,
        observations=(ObservationSpec(name="state", shape=(model.state_dim,), dtype="float32"),),
        horizon=model.horizon,
        stride=model.stride,
        observed=model.observed,
        mean=tuple(model.states.mean.tolist()),
        spread=tuple(model.states.spread.tolist()),
        most=float(model.states.most),
        settings=kept,
        chain=chain,
        cold=cold,
        target=target,
        return_scale=float(model.return_scale),
        discount=float(model.discount),
        action_low=tuple(model.actions.low.tolist()),
        action_high=tuple(model.actions.high.tolist()),
        rate_hz=float(rate_hz),
        task=task,
        source={**(source or {}), "level": settings.level, "steps": model.process.steps},
    )


def sealed(manifest: PlannerManifest, path: Path) -> PlannerManifest:
    """With the hashes of the files beside `path`, and saved."""
    manifest = replace(manifest, sha256={role: sha256(path.with_name(name)) for role, name in manifest.files.items()})
    manifest.save(path.with_suffix(".json"))
    return manifest


def export_planner(planner: Planner, path: str | Path, **described) -> PlannerManifest:
    """Write the graphs that the planner's settings need, beside `path`, and the manifest; returns it. Graphs of an
    earlier export of that name that are not needed go. described: as `describe`.

    Raises: ConfigError for a generator without a causal mask, which has no cache.
    """
    path, model = Path(path), planner.model.eval().cpu()
    manifest = describe(planner, path, **described)
    if "generator" in manifest.files and not model.generator.net.causal:
        raise ConfigError(
            "generator.causal=False has no cache, so it is no graph of one step: train it with causal=True, or export "
            "a plan with start='noise' or 'previous'"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in SUFFIXES.values():
        path.with_name(path.stem + suffix).unlink(missing_ok=True)
    for role, name in manifest.files.items():
        inputs = drawn_inputs(model, manifest, role, np.random.default_rng(0))
        write_graph(graph(model, manifest.settings, role), tuple(inputs.values()), path.with_name(name), list(inputs),
                    OUTPUTS[role], OPSET)  # fmt: skip
    return sealed(manifest, path)


def graph_differences(model, manifest: PlannerManifest, path: str | Path, draws: int = 16) -> dict[str, float]:
    """Role -> largest difference of its graph from PyTorch on drawn inputs, as a part of the output's largest number
    where that is above 1 (a step from level 1 divides by an alpha near 0)."""
    random, worst = np.random.default_rng(1), {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    for role, name in manifest.files.items():
        file = str(Path(path).with_name(name))
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        module, gaps = graph(model, manifest.settings, role), []
        for _ in range(draws):
            inputs = drawn_inputs(model, manifest, role, random)
            with torch.no_grad():
                wanted = module(*inputs.values())
            found = session.run(OUTPUTS[role], {key: value.numpy() for key, value in inputs.items()})
            for ours, theirs in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
                theirs = theirs.numpy()
                gaps.append(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
        worst[role] = float(max(gaps))
    return worst


Recording = list[tuple[dict[str, np.ndarray], float]]  # observations, and what the action at each earned


def random_episodes(make, steps: int, seed: int, hold: int = 10) -> list[tuple[int, Recording]]:
    """(seed, episode) of an environment under random actions, each held for some steps; `steps` in all."""
    episodes, env, left = [], make(), steps
    while left > 0:
        seen, _ = env.reset(seed=seed)
        env.action_space.seed(seed)
        episode: Recording = []
        for step in range(left):
            if step % hold == 0:
                action = env.action_space.sample()
            following, reward, ended, cut, _ = env.step(action)
            episode.append((seen, float(reward)))
            seen = following
            if ended or cut:
                break
        episodes.append((seed, episode))
        left, seed = left - len(episode), seed + 1
    env.close()
    return episodes


@dataclass(frozen=True)
class PlannerParity:
    """worst: largest difference of an action on `steps` observations, with `plans` made on the way; plan: largest
    difference of a plan, in standard deviations of the states, as a part of its largest number where that is above 1.
    """

    worst: float
    plan: float
    steps: int
    plans: int


def planner_parity(planner: Planner, path: str | Path, episodes: Iterable[tuple[int, Recording]]) -> PlannerParity:
    """PyTorch beside the exported planner: both see the same observations and rewards and draw from the same seed."""
    runtime, worst, apart, steps, before = PlannerPolicy(path), 0.0, 0.0, 0, planner.plans
    mean, spread = planner.model.states.mean.numpy(), planner.model.states.spread.numpy()
    for seed, episode in episodes:
        runtime.reset(seed)
        planner.reset([seed])
        for seen, reward in episode:
            ours = runtime.select_action(seen)
            theirs = planner.select_action({name: value[None] for name, value in seen.items()})[0]
            worst, steps = max(worst, float(np.abs(ours - theirs).max())), steps + 1
            largest = max(1.0, float(np.abs((planner.current[0] - mean) / spread).max()))
            apart = max(apart, float(np.abs((runtime.plan - planner.current[0]) / spread).max()) / largest)
            runtime.rewarded(reward)
            planner.rewarded(np.array([reward]))
    return PlannerParity(worst, apart, steps, planner.plans - before)
