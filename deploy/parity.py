"""Does the exported file compute what the network computes? Frames stream through both, each with its own history."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deploy.frames import Frame, dataset_frames, drawn_frames, normalisation, surround_rig, with_poses
from deploy.runtime.geometry import Lift, PoolIndex, PoseHistory, Rig, camera_vector
from deploy.runtime.manifest import Manifest
from deploy.runtime.session import HEADS, OUTPUTS, Session
from perception.detection.history import cur2past

TOLERANCE = 1e-4


@dataclass
class StreamReport:
    """One stream. difference: largest absolute difference per output, both fed the same indices; next_history, whose
    maps are sums over hundreds of points, relative to its largest value where that is above 1. evaluation: the same
    against the evaluation path, which builds its own indices; other_points: index entries in which the two differ."""

    name: str
    frames: int = 0
    starts: int = 0
    cameras: int = 0
    points: int = 0
    other_points: int = 0
    difference: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)


@dataclass
class ParityReport:
    """All streams of one file."""

    tolerance: float
    provider: str
    streams: list[StreamReport]

    @property
    def passed(self) -> bool:
        """True if every output of every stream is a number within the tolerance.

        So must the evaluation path be in streams whose indices are all the same: a point within float32 rounding of a
        cell's edge may fall to either side of it, and then moves more than rounding.
        """
        worst = [value for stream in self.streams for value in stream.difference.values()]
        worst += [value for stream in self.streams if not stream.other_points for value in stream.evaluation.values()]
        return bool(worst) and all(value <= self.tolerance for value in worst)

    def table(self) -> str:
        """Markdown: one row per output, one column per stream."""
        head = "| max abs difference | " + " | ".join(stream.name for stream in self.streams) + " |"
        rows = [head, "|---" * (len(self.streams) + 1) + "|"]
        for label, values in (("", "difference"), (" (own indices)", "evaluation")):
            for name in OUTPUTS if values == "difference" else HEADS:
                cells = (f"{getattr(stream, values).get(name, float('nan')):.1e}" for stream in self.streams)
                relative = " (relative)" if name == "next_history" else ""
                rows.append(f"| {name}{label}{relative} | " + " | ".join(cells) + " |")
        for label, name in (
            ("frames", "frames"),
            ("sequence starts", "starts"),
            ("cameras", "cameras"),
            ("points per frame", "points"),
            ("index entries that differ", "other_points"),
        ):
            rows.append(f"| {label} | " + " | ".join(str(getattr(stream, name)) for stream in self.streams) + " |")
        verdict = "passed" if self.passed else "FAILED"
        return "\n".join([*rows, "", f"{verdict}: tolerance {self.tolerance:g}, {self.provider}"])

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps({"passed": self.passed, **asdict(self)}, indent=1) + "\n")


def streams(manifest: Manifest, count: int, config=None) -> list[tuple[str, Rig, list[Frame]]]:
    """What parity is checked on: the config's test frames (or drawn ones without a config), and a second, other rig.

    Drawn streams begin a second sequence in the middle.
    """
    found = []
    if config is not None:
        found.append(("data set", *dataset_frames(config, count)))
    rigs = {} if config is not None else {"drawn rig": surround_rig(manifest, _cameras(manifest, 6))}
    rigs["other rig"] = surround_rig(manifest, _cameras(manifest, 5), seed=7, field_of_view=1.0)
    for name, rig in rigs.items():
        found.append((name, rig, list(drawn_frames(manifest, rig, count, restart=count // 2, seed=len(name)))))
    return found


def _cameras(manifest: Manifest, wish: int) -> int:
    """`wish` cameras if the graph leaves the number free."""
    fixed = manifest.input("images").shape[1]
    return fixed if isinstance(fixed, int) else wish


def check(
    detector,
    path: str | Path,
    frames: Iterable[tuple[str, Rig, list[Frame]]],
    *,
    tolerance: float = TOLERANCE,
    providers: list[str] | None = None,
    threads: int | None = None,
) -> ParityReport:
    """Stream every (name, rig, frames) through the detector's PyTorch core and through the ONNX file."""
    manifest = Manifest.load(path)
    session = Session(path, manifest, providers, threads)
    was_training = detector.training
    detector.eval()
    try:
        reports = [_stream(detector, manifest, session, *entry) for entry in frames]
    finally:
        detector.train(was_training)
    return ParityReport(tolerance, session.provider, reports)


@torch.no_grad()
def _stream(detector, manifest: Manifest, session: Session, name: str, rig: Rig, frames: list[Frame]) -> StreamReport:
    core, lift, poses = detector.core, Lift(manifest), PoseHistory(manifest.history)
    device = next(core.parameters()).device
    report = StreamReport(name, cameras=len(rig.cameras))
    buffer = session.set_cameras(len(rig.cameras))
    _, rows, columns = manifest.bev_shape
    maps = torch.zeros(1, manifest.history, manifest.channels, rows, columns, device=device)
    past: list[Tensor] = []
    history = None
    for frame in frames:
        now = with_poses(rig, frame)
        index = lift.index(now)
        images = normalise(detector, frame.images).to(device)
        # ONNX, with the runtime's geometry and bookkeeping
        if frame.start:
            poses.reset()
        buffer[0] = frame.images
        session.set_geometry(camera_vector(now), index)
        got = {
            key: value.copy() for key, value in session.run(poses.transforms(frame.lidar2global), frame.start).items()
        }
        session.advance()
        poses.push(frame.lidar2global)
        got["next_history"] = session.history
        # PyTorch's graph on the same indices, with its own history and poses
        pose = torch.from_numpy(frame.lidar2global)[None].to(device)
        past = [pose] * manifest.history if frame.start else past
        motion = cur2past(torch.stack(past, 1), pose).float() if past else torch.zeros(1, 0, 3, 3, device=device)
        start = torch.tensor([frame.start], device=device)
        tensors = [torch.from_numpy(np.ascontiguousarray(column)).to(device) for column in index]
        inputs = batch(now, frame, images)
        vector = torch.from_numpy(camera_vector(now)).to(device)
        want = core(images, vector, *tensors, maps, motion, start)
        maps = want.setdefault("next_history", maps)
        past = [pose, *past][: manifest.history]
        _worst(report.difference, got, want, OUTPUTS)
        # The path of training and evaluation: its own indices, its own pooling
        features = detector.features(inputs, None if frame.start else history, use_history=True)
        history = features.history
        _worst(report.evaluation, got, core.head(features.bev), HEADS)
        report.other_points += _unlike(index, core.pool_index(inputs))
        report.points = len(index.cell)
        report.frames += 1
        report.starts += frame.start
    return report


def _worst(into: dict[str, float], got: dict[str, np.ndarray], want: dict[str, Tensor], names) -> None:
    for name in names:
        wanted = want[name].cpu().numpy()
        error = np.abs(got[name] - wanted)
        worst = float(error.max()) if error.size else 0.0
        if name == "next_history" and wanted.size:  # sums over hundreds of points: rounding grows with their size
            worst /= max(1.0, float(np.abs(wanted).max()))
        into[name] = worst if np.isnan(worst) else max(into.get(name, 0.0), worst)


def _unlike(numpy_index: PoolIndex, torch_index) -> int:
    """Points that only one of two indices has, or that they put into different cells."""
    ours = set(zip(numpy_index.depth.tolist(), numpy_index.cell.tolist(), strict=True))
    theirs = set(zip(torch_index.depth.tolist(), torch_index.cell.tolist(), strict=True))
    return len(ours ^ theirs)


def normalise(detector, images: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 to (1, N, 3, H, W) float32 as the data preprocessor does."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in normalisation(detector))
    return ((torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() - mean) / std)[None]


def batch(rig: Rig, frame: Frame, images: Tensor) -> dict[str, Tensor]:
    """The batch dictionary of docs/conventions.md for one frame, batch size 1."""
    device = images.device

    def tensor(value: np.ndarray, dtype=torch.float32) -> Tensor:
        return torch.from_numpy(np.array(value)).to(device, dtype)[None]

    return {
        "imgs": images,
        "cam2img": tensor(rig.cam2img),
        "cam2lidar": tensor(rig.cam2lidar),
        "img_aug": tensor(rig.img_aug),
        "bev_aug": torch.eye(4, device=device)[None],
        "lidar2global": tensor(frame.lidar2global, torch.float64),
        "start": torch.tensor([frame.start], device=device),
    }
