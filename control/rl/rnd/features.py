"""What a bonus sees of the state that was reached. For low-dimensional robot states this decides success or failure."""

import numpy as np

from common.errors import ConfigError

KINDS = ("fourier", "fourier_heading", "raw", "full", "fourier+full")
WAVELENGTH = 3.0  # m, most that the shortest wave may measure: novelty is local at this scale


def octaves(extent: float) -> int:
    """Waves per axis for an arena of `extent` m: the shortest, extent / 2^(n - 2), is at most 3 m long."""
    return max(1, 2 + int(np.ceil(np.log2(extent / WAVELENGTH))))


def fourier(position: np.ndarray, extent: float) -> np.ndarray:
    """(..., 4 n) waves of position (..., 2), m: sin, cos of w u and w v, with u = 2 x / extent - 1 and v alike, and
    w = pi / 2 times 1, 2, 4, .."""
    scaled = 2 * np.asarray(position, np.float64) / extent - 1
    phase = scaled[..., None, :] * (np.pi / 2 * 2.0 ** np.arange(octaves(extent)))[:, None]
    waves = np.stack([np.sin(phase), np.cos(phase)], -1)  # (..., n, 2, 2)
    return waves.reshape(*scaled.shape[:-1], -1)


def reached(observation: np.ndarray, dones: np.ndarray, infos: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """(N, O) observations and (N, 3) poses that a step of auto-resetting environments reached: at an episode's end the
    terminal ones, not the next episode's first."""
    if dones.any():
        observation = observation.copy()
        for row in np.flatnonzero(dones):
            observation[row] = infos[row]["terminal_observation"]
    return observation, np.array([info["pose"] for info in infos])


class Features:
    """(N, width) float32 of observations and poses.

    Args: kind: "fourier": waves of x, y; "fourier_heading": and cos, sin of the heading; "raw": x, y scaled to [-1, 1],
        cos, sin; "full": the whole observation; "fourier+full". extent: longest side of the arena, m. observed: width
        of an observation.
    """

    def __init__(self, kind: str, extent: float, observed: int):
        if kind not in KINDS:
            raise ConfigError(f"features={kind!r}: choose one of {', '.join(KINDS)}")
        self.kind, self.extent = kind, extent
        waves = 4 * octaves(extent)
        self.width = {"fourier": waves, "fourier_heading": waves + 2, "raw": 4, "full": observed,
                      "fourier+full": waves + observed}[kind]  # fmt: skip

    def __call__(self, observation: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """observation (N, O); pose (N, 3): x, y (m), heading (rad)."""
        heading = np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], -1)
        waves = fourier(pose[:, :2], self.extent) if self.kind.startswith("fourier") else None
        parts = {
            "fourier": lambda: [waves],
            "fourier_heading": lambda: [waves, heading],
            "raw": lambda: [2 * pose[:, :2] / self.extent - 1, heading],
            "full": lambda: [observation],
            "fourier+full": lambda: [waves, observation],
        }[self.kind]()
        return np.concatenate(parts, 1, dtype=np.float32, casting="same_kind")
