"""OUT.json of an exported scene completion: voxels, ranges, schedule, and the files' hashes."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import ManifestError
from .manifest import check_files, read_beside

SCHEMA = "tutelage-completion/1"


@dataclass(frozen=True, kw_only=True)
class CompletionManifest:
    """What the host has to know.

    voxel, levels, feature_radius, match: how points become voxels, features and matches. radius, near: range of a scan
    in metres; scan_points of it are kept, each `copies` times. steps, guidance: as the network was trained to run.
    train_steps, sigma: noise in metres at every index of the schedule, from clean to noisy. refinement: file of the
    network that makes six points of each, or none.
    """

    model: str
    sha256: str
    encoder: str
    encoder_sha256: str
    opset: int
    voxel: float
    levels: int
    feature_radius: float | None
    match: str
    radius: float
    near: float
    scan_points: int
    copies: int
    steps: int
    guidance: float
    train_steps: int
    sigma: tuple[float, ...]
    refinement: str | None = None
    refinement_sha256: str | None = None
    source: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA

    def save(self, path: str | Path) -> None:
        """Write plain JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, onnx_path: str | Path) -> "CompletionManifest":
        """Read the manifest beside an ONNX file and hold it against the hashes of all files.

        Raises: ManifestError if a file is missing, the JSON is cut short or of another schema, or a hash differs.
        """
        onnx_path = Path(onnx_path)
        path, raw = read_beside(onnx_path, SCHEMA)
        try:
            manifest = cls(**{**raw, "sigma": tuple(raw["sigma"])})
        except (TypeError, KeyError) as error:
            raise ManifestError(
                f"{path}: a key is missing, unknown or of the wrong form ({error}); export again"
            ) from None
        files = {manifest.model: manifest.sha256, manifest.encoder: manifest.encoder_sha256}
        if manifest.refinement:
            files[manifest.refinement] = manifest.refinement_sha256
        check_files(path, onnx_path, files)
        return manifest
