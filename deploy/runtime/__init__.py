"""Runs an exported BEV detector with numpy, onnxruntime and the standard library; nothing here imports torch."""

from .detector import Detections, StreamingDetector
from .errors import (
    CameraError,
    InputError,
    ManifestError,
    MissingCameraError,
    PoseError,
    ProviderError,
    StaleCameraError,
)
from .geometry import Rig
from .manifest import Manifest

__all__ = [
    "CameraError",
    "Detections",
    "InputError",
    "Manifest",
    "ManifestError",
    "MissingCameraError",
    "PoseError",
    "ProviderError",
    "Rig",
    "StaleCameraError",
    "StreamingDetector",
]
