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
from .geometry import Rig, cam2lidar_at
from .images import network_view
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
    "cam2lidar_at",
    "network_view",
]
