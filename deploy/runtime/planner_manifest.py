"""OUT.json of an exported planner: how it plans, by which graphs, in which units, and the files' hashes.

Letters: C candidates, H horizon, K observed states, S state, A action.
"""

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from .errors import ManifestError
from .manifest import check_files, read_beside
from .policy_manifest import ObservationSpec, observation_specs

SCHEMA = "tutelage-planner/1"
STARTS = ("generator", "noise", "previous")
SUFFIXES = {  # of the graph files, behind OUT; a planner has those that its settings need
    "optimiser": ".onnx",
    "generator": ".generator.onnx",
    "act": ".act.onnx",
    "value": ".value.onnx",
    "asked": ".asked.onnx",
}


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What the optimiser walks. levels: from its entry down to 0, one evaluation per step, or none; alpha, sigma: of
    the process at the entry, sigma 0 without levels; eta: 1 is DDPM, 0 DDIM and draws nothing."""

    levels: tuple[float, ...]
    alpha: float
    sigma: float
    eta: float

    @property
    def steps(self) -> int:
        """Network evaluations."""
        return max(0, len(self.levels) - 1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of `control.planning.diffuser.planner.PlanSettings`, those that the host acts on, and `guidance`, which is inside
    the optimiser. execute: control steps that a plan is followed for."""

    start: str
    temperature: float
    forward_noise: bool
    guidance: float
    candidates: int
    choose: str
    jitter: float
    execute: int
    update: str
    floor: float


@dataclass(frozen=True, kw_only=True)
class PlannerManifest:
    """What the host has to know.

    files, sha256: of the graphs, by role: "optimiser" (one step), "generator" (one token and its cache), "act" (inverse
    dynamics), "value" (of plans), "asked" (what the state's value says can be had). observations: one, the state (S,).
    horizon H, stride: control steps between a plan's states; observed K. mean, spread, most: a state is normalised to
    (state - mean) / spread, cut at +-most. chain; cold: of the first plan where the next ones begin from the last.
    target: return that is asked for, in the environment's units, or "value"; return_scale: what returns are divided by;
    discount. action_low, action_high: range of the data; the graph returns nothing outside. rate_hz: control rate.
    """

    files: dict[str, str]
    sha256: dict[str, str]
    opset: int
    observations: tuple[ObservationSpec, ...]
    horizon: int
    stride: int
    observed: int
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    most: float
    settings: Settings
    chain: Chain
    cold: Chain | None
    target: float | str
    return_scale: float
    discount: float
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    rate_hz: float
    task: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA

    first = 0  # an action is for the step of its observation, one per call; a call plans where a plan is due
    execute = 1

    @property
    def state_dim(self) -> int:
        return self.observations[0].shape[0]

    @property
    def action_dim(self) -> int:
        return len(self.action_low)

    @property
    def plan_evaluations(self) -> int:
        """Of generator and optimiser for a plan, once the history is full."""
        written = self.observed + self.horizon - 2 if self.settings.start == "generator" else 0
        return written + self.chain.steps

    @property
    def evaluations(self) -> float:
        """Per control step, on average: those of a plan over the steps it is followed for, and the inverse dynamics."""
        return self.plan_evaluations / self.settings.execute + 1

    def __post_init__(self):
        s, S, most = self.settings, self.state_dim, (self.horizon - 1) * self.stride

        def require(truth: bool, message: str) -> None:
            if not truth:
                raise ManifestError(f"{message}; export again")

        require(len(self.observations) == 1, f"{len(self.observations)} observations, this runtime takes one")
        require(s.start in STARTS, f"settings.start is {s.start!r}, not one of {', '.join(STARTS)}")
        require(s.choose in ("best", "softmax"), f"settings.choose is {s.choose!r}, not best or softmax")
        require(s.update in ("decrement", "hold"), f"settings.update is {s.update!r}, not decrement or hold")
        require(1 <= s.execute <= most, f"settings.execute is {s.execute}, not 1 to {most}")
        require(s.candidates >= 1 and self.observed >= 1, f"{s.candidates} candidates, {self.observed} observed")
        require(
            len(self.mean) == len(self.spread) == S, f"mean, spread of {len(self.mean)}, {len(self.spread)}: not {S}"
        )
        require(min(self.spread) > 0 and self.return_scale > 0, "spread and return_scale must be above 0")
        require(self.target == "value" or not isinstance(self.target, str), f"target is {self.target!r}")
        require((self.cold is not None) == (s.start == "previous"), f"start {s.start!r} with cold={self.cold}")
        for name, chain in (("chain", self.chain), ("cold", self.cold)):
            levels = () if chain is None else chain.levels
            falls = all(t > u for t, u in pairwise(levels))
            require(not levels or (falls and levels[0] <= 1 and levels[-1] == 0), f"{name}.levels do not fall to 0")
        wanted = roles(s, self.chain, self.cold, self.target)
        for name in ("files", "sha256"):
            got = getattr(self, name)
            require(set(got) == set(wanted), f"{name} has {sorted(got)}, these settings need {sorted(wanted)}")
        require(self.rate_hz > 0, f"rate_hz is {self.rate_hz}")

    def save(self, path: str | Path) -> None:
        """Write plain JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, onnx_path: str | Path) -> "PlannerManifest":
        """Read the manifest of an export OUT.onnx, which names it even where its plans need no optimiser, and hold it
        against the hashes of its files.

        Raises: ManifestError if a file is missing, the JSON is cut short, of another schema or contradicts itself, or a
        hash differs.
        """
        onnx_path = Path(onnx_path)
        path, raw = read_beside(onnx_path, SCHEMA, graph=False)
        try:
            manifest = cls(**_typed(raw))
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}") from None
        except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
            raise ManifestError(
                f"{path}: a key is missing, unknown or of the wrong form ({error}); export again"
            ) from None
        check_files(path, onnx_path, {name: manifest.sha256[role] for role, name in manifest.files.items()})
        return manifest


def roles(settings: Settings, chain: Chain, cold: Chain | None, target: float | str) -> tuple[str, ...]:
    """The graphs that a planner needs."""
    needed = {
        "optimiser": bool(chain.levels or cold),
        "generator": settings.start == "generator",
        "act": True,
        "value": settings.candidates > 1,
        "asked": target == "value",
    }
    return tuple(role for role, need in needed.items() if need)


def _typed(raw: dict) -> dict:
    """JSON's lists and objects to the fields of the dataclass."""
    typed = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    typed["observations"] = observation_specs(raw["observations"])
    typed["settings"] = Settings(**raw["settings"])
    for name in ("chain", "cold"):
        one = raw[name]
        typed[name] = None if one is None else Chain(**{**one, "levels": tuple(one["levels"])})
    return typed
