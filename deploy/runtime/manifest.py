"""OUT.json, the contract of an exported detector: names, shapes, units, grid, decoding, rate and the file's hash."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import ManifestError

SCHEMA = "tutelage-bev-detector/1"
DTYPES = ("float32", "int64", "uint8", "bool")
FRUSTUMS = ("block_centre", "stretched")
ROUNDINGS = ("floor", "truncate")
LIFTS = ("edge", "middle")


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def schema_of(onnx_path: str | Path) -> str:
    """What the JSON beside an ONNX file calls itself; "" where that cannot be read, which is its reader's to report."""
    try:
        return str(json.loads(Path(onnx_path).with_suffix(".json").read_text()).get("schema", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def read_beside(onnx_path: Path, schema: str, graph: bool = True) -> tuple[Path, dict]:
    """The JSON beside an ONNX file, and its path. graph: False where the manifest may do without that very file.

    Raises: ManifestError if a file is missing, or the JSON is cut short or of another schema.
    """
    path = onnx_path.with_suffix(".json")
    if not onnx_path.is_file() and (graph or not path.is_file()):
        raise ManifestError(
            f"{onnx_path} does not exist: write it with `tutelage export CONFIG CHECKPOINT {onnx_path}`"
        )
    if not path.is_file():
        raise ManifestError(f"{path} is missing: keep the manifest beside {onnx_path.name}, or export again")
    try:
        raw = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} is not JSON ({error}); export again") from None
    if not isinstance(raw, dict) or raw.get("schema") != schema:
        got = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise ManifestError(f"{path}: schema is {got!r}, this runtime reads {schema!r}; export again")
    return path, raw


def check_files(path: Path, onnx_path: Path, hashes: dict[str, str]) -> None:
    """Hold the files beside a manifest, name -> sha256, against their hashes. Raises ManifestError."""
    for name, digest in hashes.items():
        file = onnx_path.with_name(name)
        if not file.is_file():
            raise ManifestError(f"{file} is missing: keep the exported files together, or export again")
        if sha256(file) != digest:
            raise ManifestError(f"{file.name} is not the file {path.name} describes; export again")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of the graph. A dimension is a number, or a letter where it is free."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    meaning: str

    def check(self, got_shape: tuple[int, ...], got_dtype: str, kind: str, file: str) -> None:
        """Raises ManifestError if a tensor of this shape and dtype would not be what the manifest describes."""
        fits = len(got_shape) == len(self.shape) and all(
            isinstance(want, str) or want == got for want, got in zip(self.shape, got_shape, strict=True)
        )
        if not fits or got_dtype != self.dtype:
            raise ManifestError(
                f"{file}: {kind} '{self.name}' wants {_shape(self.shape)} {self.dtype} ({self.meaning}), "
                f"got {_shape(got_shape)} {got_dtype}"
            )


def _shape(shape) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


@dataclass(frozen=True, kw_only=True)
class TaskNMS:
    """Suppression within one head task.

    `type` "rotate": boxes scaled by `scale` (one factor per class of the task), suppressed above rotated IoU `iou`.
    `type` "circle": a centre within `radius` metres of a better one is suppressed.
    """

    type: str = "rotate"
    iou: float = 0.2
    scale: tuple[float, ...] = ()
    radius: float = 0.0
    post: int = 83


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything the host has to know about an exported detector. Metres, radians, seconds, pixels.

    grid: {"x": (low, high, cell), "y": ..., "z": ...}; depth_bins: (low, high, step); center_range: (x, y, z low,
    x, y, z high) of box centres that are kept; mean and std are applied inside the graph; resize_headroom: see
    images.py.
    """

    model: str
    sha256: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: tuple[str, ...]
    tasks: tuple[tuple[str, ...], ...]
    grid: dict[str, tuple[float, float, float]]
    depth_bins: tuple[float, float, float]
    lift_at: str
    frustum: str
    rounding: str
    stride: int
    image_size: tuple[int, int]
    resize_headroom: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    history: int
    channels: int
    max_per_task: int
    score_threshold: float
    center_range: tuple[float, ...]
    nms: tuple[TaskNMS, ...]
    rate_hz: float
    source: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA

    def __post_init__(self):
        where = Path(self.model).with_suffix(".json").name

        def require(truth: bool, message: str) -> None:
            if not truth:
                raise ManifestError(f"{where}: {message}; export again")

        require(self.schema == SCHEMA, f"schema is {self.schema!r}, this runtime reads {SCHEMA!r}")
        flat = tuple(name for task in self.tasks for name in task)
        require(flat == self.classes, f"tasks {flat} do not list the classes {self.classes} in order")
        require(len(self.nms) == len(self.tasks), f"{len(self.nms)} NMS settings for {len(self.tasks)} tasks")
        for task, nms in zip(self.tasks, self.nms, strict=True):
            require(nms.type in ("rotate", "circle"), f"NMS type {nms.type!r} of {task} is not rotate or circle")
            require(
                nms.type == "circle" or len(nms.scale) == len(task),
                f"{len(nms.scale)} NMS scale factors for the classes {task}",
            )
        require(self.frustum in FRUSTUMS, f"frustum {self.frustum!r} is not one of {FRUSTUMS}")
        require(self.rounding in ROUNDINGS, f"rounding {self.rounding!r} is not one of {ROUNDINGS}")
        require(self.lift_at in LIFTS, f"lift_at {self.lift_at!r} is not one of {LIFTS}")
        require(self.resize_headroom >= 0, f"resize_headroom is {self.resize_headroom}, below 0")
        require(set(self.grid) == set("xyz"), f"grid has the axes {sorted(self.grid)}, not x, y, z")
        for name, (low, high, cell) in {**self.grid, "depth_bins": self.depth_bins}.items():
            count = (high - low) / cell
            require(count > 0.5 and abs(count - round(count)) < 1e-6, f"{name} is {count:g} cells of {cell:g}")
        require(len(self.center_range) == 6, f"center_range has {len(self.center_range)} numbers, not 6")
        require(all(side % self.stride == 0 for side in self.image_size), f"image_size is no multiple of {self.stride}")
        require(self.history >= 0 and self.rate_hz > 0, f"history {self.history}, rate_hz {self.rate_hz}")
        for spec in self.inputs + self.outputs:
            require(spec.dtype in DTYPES, f"'{spec.name}' has dtype {spec.dtype!r}, not one of {DTYPES}")

    @property
    def bev_shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) cells."""
        return tuple(round((high - low) / cell) for low, high, cell in (self.grid[name] for name in "zyx"))

    @property
    def num_bins(self) -> int:
        low, high, step = self.depth_bins
        return round((high - low) / step)

    @property
    def feature_size(self) -> tuple[int, int]:
        """(h, w) of the image feature map."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    def input(self, name: str) -> TensorSpec:
        return next(spec for spec in self.inputs if spec.name == name)

    def save(self, path: str | Path) -> None:
        """Write plain JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, onnx_path: str | Path) -> "Manifest":
        """Read the manifest beside an ONNX file and hold it against that file's hash.

        Raises: ManifestError if a file is missing, the JSON is cut short or of another schema, or the hash differs.
        """
        onnx_path = Path(onnx_path)
        path, raw = read_beside(onnx_path, SCHEMA)
        names = cls.__dataclass_fields__
        missing = [name for name in names if name not in raw and name not in ("source",)]
        unknown = [name for name in raw if name not in names]
        if missing or unknown:
            raise ManifestError(f"{path}: keys missing {missing}, keys unknown {unknown}; export again")
        try:
            manifest = cls(**_typed(raw))
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            if isinstance(error, ManifestError):
                raise
            raise ManifestError(f"{path}: a value has the wrong form ({error}); export again") from None
        if manifest.sha256 != sha256(onnx_path):
            raise ManifestError(f"{onnx_path.name} is not the file {path.name} describes; export again")
        return manifest


def _typed(raw: dict) -> dict:
    """JSON lists to the tuples of the dataclass."""
    typed = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    for name in ("inputs", "outputs"):
        typed[name] = tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in raw[name])
    typed["tasks"] = tuple(tuple(task) for task in raw["tasks"])
    typed["nms"] = tuple(TaskNMS(**{**nms, "scale": tuple(nms["scale"])}) for nms in raw["nms"])
    typed["grid"] = {name: tuple(axis) for name, axis in raw["grid"].items()}
    return typed
