"""What a robot's loop may have to catch. Every message says what was got, what was wanted and what to do."""


class ManifestError(ValueError):
    """The manifest is missing, of another schema, or does not belong to the ONNX file beside it."""


class ProviderError(RuntimeError):
    """An execution provider was asked for and cannot be used."""


class InputError(ValueError):
    """An input of one frame is unusable; the detector's state is as it was before the frame."""


class PoseError(InputError):
    """A pose is not a finite rigid 4x4 transform, or jumps farther than the vehicle can move."""


class CameraError(InputError):
    """One or more cameras cannot be used; `cameras` names them."""

    def __init__(self, message: str, cameras: tuple[str, ...]):
        super().__init__(message)
        self.cameras = cameras


class MissingCameraError(CameraError):
    """A camera of the rig brought no image."""


class StaleCameraError(CameraError):
    """A camera's image is older (or newer) than the age allowed."""
