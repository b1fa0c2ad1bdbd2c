"""The sensor rig: six cameras and LIDAR_TOP of a nuScenes car, scaled to a profile's image, jittered per scene.

Mounts and intrinsics are those of one real vehicle (log n015-2018-07-24-11-22-45+0800), rounded; the exposure offsets
are the time stamps of the same key frame relative to its LiDAR sweep (the stamp of a sweep is its end).
"""

from dataclasses import dataclass

import numpy as np

from common.geometry import pose, quaternion
from perception.simulation.profiles import Profile
from perception.simulation.records import SensorRecord

CAMERA_PERIOD = 1 / 12
LIDAR_PERIOD = 1 / 20
KEYFRAME_PERIOD = 0.5
LOWEST_BEAM, HIGHEST_BEAM = np.deg2rad(-30.67), np.deg2rad(10.67)


@dataclass(frozen=True)
class Mount:
    """A sensor on the car: translation (m) and quaternion (w, x, y, z) of sensor2ego; the exposure's offset (s);
    for cameras the focal length and principal point (fx = fy, cx, cy) of the 1600x900 image."""

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    offset: float = 0.0
    intrinsics: tuple[float, float, float] | None = None


CAMERA_MOUNTS = (
    Mount("CAM_FRONT", (1.701, 0.016, 1.511), (0.4998, -0.503, 0.4998, -0.4974), -0.0355, (1266.4, 816.3, 491.5)),
    Mount(
        "CAM_FRONT_RIGHT", (1.551, -0.493, 1.496), (0.206, -0.2027, 0.6825, -0.6714), -0.0276, (1260.8, 808.0, 495.3)
    ),
    Mount("CAM_FRONT_LEFT", (1.524, 0.495, 1.509), (0.6757, -0.6736, 0.2121, -0.2112), -0.0431, (1272.6, 826.6, 479.8)),
    Mount("CAM_BACK", (0.028, 0.003, 1.579), (0.5038, -0.4974, -0.4942, 0.5045), -0.0104, (809.2, 829.2, 481.8)),
    Mount("CAM_BACK_LEFT", (1.036, 0.485, 1.591), (0.6924, -0.7032, -0.1165, 0.112), -0.0005, (1256.7, 792.1, 492.8)),
    Mount(
        "CAM_BACK_RIGHT", (1.015, -0.481, 1.562), (0.1228, -0.1324, -0.7004, 0.6905), -0.0201, (1259.5, 807.3, 501.2)
    ),
)
LIDAR_MOUNT = Mount("LIDAR_TOP", (0.944, 0.0, 1.84), (0.7078, -0.0065, 0.0106, -0.7063))
OFFSETS = {mount.channel: mount.offset for mount in (*CAMERA_MOUNTS, LIDAR_MOUNT)}

# The car that carries them, in its own frame (x0, x1, y half width, height): a compact hatchback with the origin at the
# middle of the rear axle. Returns from inside are removed from sweeps.
EGO_BACK, EGO_FRONT, EGO_HALF_WIDTH, EGO_HEIGHT = -0.85, 3.25, 0.88, 1.56

_TURN_SIGMA = np.deg2rad(0.6)
_SHIFT_SIGMA = 0.015
_FOCAL_SIGMA = 0.006
_CENTRE_SIGMA = 6.0


def small_rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of the rotation vector (3,) in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def scaled_intrinsics(focal: float, cx: float, cy: float, profile: Profile) -> np.ndarray:
    """cam2img (3, 3) of the profile's image; pixel centres are integers, so (0, 0) is the top-left pixel's centre."""
    scale = profile.scale
    return np.array(
        [
            [focal * scale, 0, (cx + 0.5) * scale - 0.5],
            [0, focal * scale, (cy + 0.5) * scale - 0.5 - profile.crop_top],
            [0, 0, 1],
        ]
    )


def make_rig(profile: Profile, rng: np.random.Generator | None = None) -> list[SensorRecord]:
    """The six cameras, then LIDAR_TOP. With `rng`, mounts and intrinsics are jittered by what two cars of a fleet
    differ by (0.6 degrees, 1.5 cm, 0.6 % of the focal length, 6 pixels); without, the nominal rig."""
    sensors = []
    for mount in (*CAMERA_MOUNTS, LIDAR_MOUNT):
        sensor2ego = pose(mount.translation, mount.rotation)
        noise = np.zeros(9) if rng is None else rng.standard_normal(9).clip(-2, 2)
        sensor2ego[:3, :3] = small_rotation(_TURN_SIGMA * noise[:3]) @ sensor2ego[:3, :3]
        sensor2ego[:3, 3] += _SHIFT_SIGMA * noise[3:6]
        # through the quaternion that the tables will hold, so that files and tables agree to the last bit
        sensor2ego = pose(sensor2ego[:3, 3], quaternion(sensor2ego[:3, :3]))
        if mount.intrinsics is None:
            sensors.append(SensorRecord(mount.channel, "lidar", sensor2ego))
            continue
        focal, cx, cy = mount.intrinsics
        cam2img = scaled_intrinsics(
            focal * (1 + _FOCAL_SIGMA * noise[6]), cx + _CENTRE_SIGMA * noise[7], cy + _CENTRE_SIGMA * noise[8], profile
        )
        sensors.append(SensorRecord(mount.channel, "camera", sensor2ego, cam2img, profile.width, profile.height))
    return sensors


def beam_elevations() -> np.ndarray:
    """Elevations (32,) in radians of the rings, lowest first (ring 0), as the HDL-32E of nuScenes."""
    return np.linspace(LOWEST_BEAM, HIGHEST_BEAM, 32)
