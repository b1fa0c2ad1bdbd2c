"""How much a simulated data set costs: image size, rates and LiDAR resolution, under three names."""

from dataclasses import dataclass, fields, replace

CAMERAS = 6
BEAMS = 32
NATIVE_WIDTH, NATIVE_HEIGHT = 1600, 900  # pixels of a nuScenes camera


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is captured in one scene.

    `width`, `height`: image size in pixels. An image is the nuScenes camera's 1600x900 picture scaled to `width`, of
    which the lowest `height` rows are kept: 704x256 is the scaling (0.44) and the cut (140 rows of sky) that detectors
    with a 256x704 input apply to nuScenes. The cut is part of the calibration (the principal point moves up).
    `keyframes`: annotated frames, at 2 Hz. `camera_sweeps`, `lidar_sweeps`: captures between two key frames (5 and 9
    are nuScenes' 12 Hz and 20 Hz). `lidar_columns`: azimuth steps of a turn of the 32 beams.
    """

    name: str
    width: int
    height: int
    keyframes: int
    camera_sweeps: int = 0
    lidar_sweeps: int = 0
    lidar_columns: int = 1085
    jpeg_quality: int = 92

    def __post_init__(self):
        for field, low in {"width": 16, "height": 16, "keyframes": 1, "camera_sweeps": 0, "lidar_sweeps": 0}.items():
            if getattr(self, field) < low:
                raise ValueError(f"profile {self.name!r}: {field} is {getattr(self, field)}; it must be at least {low}")
        if not 8 <= self.lidar_columns <= 4096:
            raise ValueError(f"profile {self.name!r}: lidar_columns is {self.lidar_columns}; choose 8 to 4096")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"profile {self.name!r}: jpeg_quality is {self.jpeg_quality}; choose 1 to 100")
        if self.crop_top < 0:
            tallest = round(NATIVE_HEIGHT * self.scale)
            raise ValueError(
                f"profile {self.name!r}: {self.width}x{self.height} is taller than the camera's picture at this width; "
                f"set height to at most {tallest}"
            )

    @property
    def scale(self) -> float:
        """Pixels of this image per pixel of a 1600x900 image."""
        return self.width / NATIVE_WIDTH

    @property
    def crop_top(self) -> int:
        """Rows cut off the top of the scaled picture."""
        return round(NATIVE_HEIGHT * self.scale) - self.height

    @property
    def rays_per_keyframe(self) -> int:
        """Primary rays of one key frame with the sweeps that lead to it."""
        camera = CAMERAS * self.width * self.height * (1 + self.camera_sweeps)
        return camera + BEAMS * self.lidar_columns * (1 + self.lidar_sweeps)


PROFILES = {
    "tiny": Profile(name="tiny", width=352, height=128, keyframes=5, lidar_columns=720),
    "small": Profile(name="small", width=704, height=256, keyframes=20, lidar_sweeps=1),
    "full": Profile(name="full", width=1600, height=900, keyframes=40, camera_sweeps=5, lidar_sweeps=9),
}


def profile(name: str, **overrides) -> Profile:
    """The profile `name` with some fields replaced. Raises ValueError for an unknown name or field."""
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}; choose one of {', '.join(PROFILES)}")
    known = {field.name for field in fields(Profile)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise ValueError(f"profile has no field {', '.join(map(repr, unknown))}; it has {', '.join(sorted(known))}")
    return replace(PROFILES[name], **overrides)
