"""What the world hands to the nuScenes writer: one `SceneRecord`; plain data, poses float64 (docs/conventions.md)."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class SensorRecord:
    """A sensor of the rig. `sensor2ego` (4, 4); `cam2img` (3, 3), None for LiDAR; width, height in pixels."""

    channel: str
    modality: str
    sensor2ego: np.ndarray
    cam2img: np.ndarray | None = None
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class CaptureRecord:
    """One file of one sensor. `filename` is relative to the data root; `timestamp` in microseconds; `ego2global` (4, 4)
    at that time; `keyframe` is the index of its key frame, `is_key_frame` whether it is the key capture."""

    channel: str
    filename: str
    timestamp: int
    ego2global: np.ndarray
    keyframe: int
    is_key_frame: bool


@dataclass(frozen=True)
class AnnotationRecord:
    """A box of one key frame, in the global frame: centre, size (w, l, h) as nuScenes, rotation (w, x, y, z)."""

    instance: int
    category: str
    attribute: str | None
    translation: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    visibility: int
    num_lidar_pts: int


@dataclass
class SceneRecord:
    """A scene whose files are already written. `keyframe_times` (T,) microseconds; `annotations[t]` a list.
    `drivable` (rows, columns): row 0 lies at the largest y, as in the map images of nuScenes."""

    name: str
    description: str
    location: str
    sensors: list[SensorRecord]
    captures: list[CaptureRecord]
    keyframe_times: list[int]
    annotations: list[list[AnnotationRecord]]
    drivable: np.ndarray = field(default_factory=lambda: np.zeros((1, 1), np.uint8))
    drivable_resolution: float = 0.1
