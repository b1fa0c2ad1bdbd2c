"""Runs an exported policy without memory: one observation in, one action out, the same answer to the same question."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from .errors import InputError, ManifestError
from .manifest import check_files, read_beside
from .policy import ActionError
from .policy_manifest import ObservationSpec, check_observation, observation_specs
from .session import choose_providers

SCHEMA = "tutelage-reactive/1"


@dataclass(frozen=True, kw_only=True)
class ReactiveManifest:
    """What the host has to know. observations: one, of one step; the graph takes any number of them, (B, O), and
    returns actions (B, A) within action_low .. action_high. rate_hz: control rate. environment: the options of the
    task that decide what observations and actions mean."""

    model: str
    sha256: str
    opset: int
    observations: tuple[ObservationSpec, ...]
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    rate_hz: float
    task: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA

    first = 0  # an action is for the step of its observation, one per call and evaluation
    execute = 1
    evaluations = 1

    def save(self, path: str | Path) -> None:
        """Write plain JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, onnx_path: str | Path) -> "ReactiveManifest":
        """Read the manifest beside an ONNX file and hold it against the file's hash. Raises: ManifestError."""
        onnx_path = Path(onnx_path)
        path, raw = read_beside(onnx_path, SCHEMA)
        try:
            typed = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
            manifest = cls(**{**typed, "observations": observation_specs(raw["observations"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise ManifestError(
                f"{path}: a key is missing, unknown or of the wrong form ({error}); export again"
            ) from None
        if len(manifest.observations) != 1:
            raise ManifestError(
                f"{path}: {len(manifest.observations)} observations, this runtime takes one; export again"
            )
        check_files(path, onnx_path, {manifest.model: manifest.sha256})
        return manifest


class ReactivePolicy:
    """`select_action` is one control step of one robot; `act` answers many at once.

    Args: path of the ONNX file, its manifest beside it; threads of onnxruntime; providers as in `Session`.
    """

    def __init__(self, path: str | Path, threads: int = 1, providers: list[str] | None = None):
        self.manifest = ReactiveManifest.load(path)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(path), options, providers=choose_providers(providers))
        self._input = self._session.get_inputs()[0].name
        self._spec = self.manifest.observations[0]
        self._seen: np.ndarray | None = None

    def reset(self, seed: int = 0) -> None:
        """Begin an episode; nothing is carried from one to the next."""
        self._seen = None

    def stand_by(self, action: np.ndarray | None = None) -> None:
        """What is sent before a first answer; an answer is never awaited here."""

    def warm_up(self, calls: int = 20) -> None:
        """Run the graph on zeros, so that the first real call is not the slow one."""
        for _ in range(calls):
            self._run(np.zeros((1, *self._spec.shape), self._spec.dtype))

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Observations (B, O) -> actions (B, A). Raises: InputError, ActionError."""
        observations = np.asarray(observations, self._spec.dtype)
        if observations.shape[1:] != self._spec.shape or not np.isfinite(observations).all():
            raise InputError(
                f"observations are {observations.shape}, finite: {bool(np.isfinite(observations).all())}; wanted "
                f"(B, {', '.join(map(str, self._spec.shape))}), finite"
            )
        return self._run(observations)

    def _run(self, observations: np.ndarray) -> np.ndarray:
        actions = self._session.run(None, {self._input: observations})[0]
        low, high = np.float32(self.manifest.action_low), np.float32(self.manifest.action_high)
        inside = (actions >= low) & (actions <= high)  # False for NaN
        if not inside.all():
            row, column = np.argwhere(~inside)[0]
            raise ActionError(
                f"action {column} is {actions[row, column]}, outside [{low[column]:g}, {high[column]:g}]: not sent; "
                "check the observation, or the export"
            )
        return actions

    def observe(self, observation: dict[str, np.ndarray]) -> None:
        """Take the current step's observation. Raises InputError naming what is wrong with it."""
        check_observation(self.manifest.observations, observation)
        self._seen = np.asarray(observation[self._spec.name], self._spec.dtype)[None].copy()

    def prepare(self, observation: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
        """Takes the observation, and returns the call to be made once, in whatever thread: () -> (1, A)."""
        self.observe(observation)
        seen = self._seen
        return lambda: self._run(seen)

    def step(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """(1, A): one call. Raises: InputError, ActionError."""
        return self.prepare(observation)()

    def select_action(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """(A,) action of this control step. Raises: InputError, ActionError."""
        return self.step(observation)[0]
