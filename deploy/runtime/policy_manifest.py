"""OUT.json of an exported policy: observations, buffer, levels, rates, limits, statistics and the files' hashes."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, ManifestError
from .manifest import check_files, read_beside

SCHEMA = "tutelage-policy/1"


@dataclass(frozen=True, kw_only=True)
class ObservationSpec:
    """One observation of one step: shape without batch and steps, dtype, and the data's range per last dimension
    (empty where none was taken)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def observation_specs(raw: list[dict]) -> tuple[ObservationSpec, ...]:
    """The manifest's list of observations, read from JSON."""
    return tuple(
        ObservationSpec(**{key: tuple(value) if isinstance(value, list) else value for key, value in one.items()})
        for one in raw
    )


def check_observation(specs: tuple[ObservationSpec, ...], observation: dict[str, np.ndarray]) -> None:
    """Raises InputError naming the observation that is missing, not finite, or of a wrong shape or dtype."""
    for one in specs:
        if one.name not in observation:
            raise InputError(f"observation {one.name!r} is missing; wanted {[o.name for o in specs]}")
        value = np.asarray(observation[one.name])
        if not np.can_cast(value.dtype, one.dtype, "same_kind"):
            raise InputError(
                f"observation {one.name!r} is {value.dtype}, wanted {one.dtype}: convert it as the demonstrations "
                "were (a float image in [0, 1]: times 255, rounded)"
            )
        if value.shape != one.shape or not np.isfinite(value).all():
            raise InputError(
                f"observation {one.name!r} is {value.shape}, finite: {bool(np.isfinite(value).all())}; wanted "
                f"{one.shape} {one.dtype}, finite"
            )


@dataclass(frozen=True, kw_only=True)
class PolicyManifest:
    """What the host has to know.

    observed: O steps of observation, oldest first. horizon T, action_dim A: the buffer (1, T, A). first, execute: a
    call returns actions `first` to `first + execute` control steps after its observation. evaluations: of the network
    per call. fresh: rows of new noise a call wants (1, fresh, A). stochastic: whether it also wants `noise`
    (evaluations, 1, T, A). resting: levels before a call (T,). action_low, action_high: range of the demonstrations;
    the graph returns nothing outside. rate_hz: control rate. idle: the graph wants `idle` (1, A), the action that is
    sent before the first answer, in the robot's units. batch: the 1 in these shapes and in the observations'.
    """

    model: str
    sha256: str
    encoder: str
    encoder_sha256: str
    opset: int
    observations: tuple[ObservationSpec, ...]
    observed: int
    horizon: int
    action_dim: int
    condition_dim: int
    first: int
    execute: int
    evaluations: int
    fresh: int
    stochastic: bool
    resting: tuple[float, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    rate_hz: float
    idle: bool = False
    batch: int = 1
    task: str = ""
    source: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA

    def save(self, path: str | Path) -> None:
        """Write plain JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, onnx_path: str | Path) -> "PolicyManifest":
        """Read the manifest beside an ONNX file and hold it against the hashes of both files.

        Raises: ManifestError if a file is missing, the JSON is cut short or of another schema, or a hash differs.
        """
        onnx_path = Path(onnx_path)
        path, raw = read_beside(onnx_path, SCHEMA)
        try:
            typed = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
            typed["observations"] = observation_specs(raw["observations"])
            manifest = cls(**typed)
        except (TypeError, KeyError, AttributeError) as error:
            raise ManifestError(
                f"{path}: a key is missing, unknown or of the wrong form ({error}); export again"
            ) from None
        check_files(path, onnx_path, {manifest.model: manifest.sha256, manifest.encoder: manifest.encoder_sha256})
        return manifest
