"""Frames: rigid transforms named `a2b`, 4x4, acting on column vectors (docs/conventions.md). numpy, float64."""

import numpy as np


def pose(translation, rotation) -> np.ndarray:
    """The 4x4 transform of a nuScenes record. Args: translation (3,) in metres, rotation quaternion (w, x, y, z)."""
    w, x, y, z = np.asarray(rotation, np.float64) / np.linalg.norm(rotation)
    a2b = np.eye(4)
    a2b[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    a2b[:3, 3] = translation
    return a2b


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation matrix (3, 3) (Shepperd's method: the largest term first)."""
    m = np.asarray(rotation, np.float64)
    squares = np.array([np.trace(m), m[0, 0], m[1, 1], m[2, 2]])
    k = int(np.argmax(squares))
    if k == 0:
        q = np.array([1 + squares[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    else:
        i, j, l = k - 1, k % 3, (k + 1) % 3
        q = np.empty(4)
        q[0] = m[l, j] - m[j, l]
        q[1 + i] = 1 + m[i, i] - m[j, j] - m[l, l]
        q[1 + j] = m[j, i] + m[i, j]
        q[1 + l] = m[l, i] + m[i, l]
    q /= np.linalg.norm(q)
    return q if q[0] >= 0 else -q


def yaw_pose(x: float, y: float, z: float, yaw: float) -> np.ndarray:
    """The 4x4 transform of a body at (x, y, z) turned by yaw about z."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, z], [0, 0, 0, 1]], np.float64)


def invert(a2b: np.ndarray) -> np.ndarray:
    """b2a of a rigid transform (..., 4, 4); the rotation is transposed, not inverted numerically."""
    a2b = np.asarray(a2b, np.float64)
    b2a = np.zeros_like(a2b)
    b2a[..., :3, :3] = np.swapaxes(a2b[..., :3, :3], -1, -2)
    b2a[..., :3, 3] = -np.einsum("...ij,...j->...i", b2a[..., :3, :3], a2b[..., :3, 3])
    b2a[..., 3, 3] = 1
    return b2a


def transform(a2b: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) of frame a in frame b; a2b is (4, 4) or broadcasts against the points' leading axes."""
    a2b = np.asarray(a2b, np.float64)
    if a2b.ndim == 2:  # one transform for a whole cloud: a plain matrix product is much faster
        return points @ a2b[:3, :3].T + a2b[:3, 3]
    return np.einsum("...ij,...j->...i", a2b[..., :3, :3], points) + a2b[..., :3, 3]


def yaw_of(a2b: np.ndarray) -> np.ndarray:
    """Heading of a's x axis in b's xy plane, in (-pi, pi]."""
    return np.arctan2(a2b[..., 1, 0], a2b[..., 0, 0])


def wrap_angle(angle):
    """The same angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
