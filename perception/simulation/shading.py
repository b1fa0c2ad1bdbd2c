"""Colour of hits: sun with cast shadows, sky light, gloss, windows, noise, haze; then exposure and sensor noise."""

from dataclasses import dataclass

import cv2
import numpy as np

from perception.simulation.ground import noise_tile
from perception.simulation.render import GROUND, SKY, Hits, Snapshot

_TEXELS_PER_METRE = 22.0
# linear RGB of the sun, the ambient light, the zenith and the horizon
_CLEAR = ((1.0, 0.95, 0.86), (0.48, 0.55, 0.66), (0.2, 0.38, 0.72), (0.72, 0.8, 0.88))
_OVERCAST = ((1.0, 0.95, 0.86), (0.72, 0.76, 0.82), (0.62, 0.67, 0.74), (0.8, 0.82, 0.85))
_DUSK = ((1.5, 0.85, 0.42), (0.32, 0.33, 0.45), (0.2, 0.27, 0.48), (0.75, 0.5, 0.38))


@dataclass(frozen=True)
class Light:
    """`sun` (3,) unit vector towards the sun; linear RGB of the sun, of the sky's ambient light, of zenith and horizon;
    exposure; distance (m) at which haze takes 63 %."""

    sun: np.ndarray
    sun_colour: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    exposure: float
    haze: float
    dusk: bool
    clouds: float

    @staticmethod
    def draw(rng: np.random.Generator) -> "Light":
        """Clear or overcast day, or dusk (a quarter of the scenes)."""
        dusk, overcast = bool(rng.random() < 0.25), bool(rng.random() < 0.3)
        azimuth = rng.uniform(0, 2 * np.pi)
        elevation = np.deg2rad(rng.uniform(7, 16) if dusk else rng.uniform(28, 68))
        sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        if dusk:
            sky, strength = _DUSK, rng.uniform(0.5, 1.0)
        elif overcast:
            sky, strength = _OVERCAST, rng.uniform(0.1, 0.5)
        else:
            sky, strength = _CLEAR, rng.uniform(1.7, 2.4)
        sun_colour, ambient, zenith, horizon = (np.array(rgb, np.float32) for rgb in sky)
        return Light(
            sun=sun,
            sun_colour=sun_colour * np.float32(strength),
            ambient=ambient * np.float32(rng.uniform(0.85, 1.15)),
            zenith=zenith,
            horizon=horizon,
            exposure=rng.uniform(1.15, 1.5) if dusk else rng.uniform(0.85, 1.2),
            haze=rng.uniform(300, 900),
            dusk=dusk,
            clouds=rng.uniform(0.0, 0.8),
        )


class Shader:
    """Colours the hits of one scene's cameras. Holds the light and the noise textures."""

    def __init__(self, light: Light, rng: np.random.Generator):
        self.light = light
        tile = noise_tile(rng, 512, (1, 4, 16, 64), (0.05, 0.06, 0.07, 0.06)) - 1
        self.noise = np.tile(tile, (2, 2))  # a lookup below 512 never meets the edge
        self.clouds = noise_tile(rng, 512, (8, 32, 64, 128), (0.1, 0.2, 0.25, 0.25)) - 1
        self.grain = rng.standard_normal(1 << 19, np.float32)

    def _lookup(self, texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
        """Values (P,) of a tile of 512 texels at uv (P, 2) in texels."""
        if not len(uv):
            return np.zeros(0, np.float32)
        pad = -len(uv) % 256
        uv = np.concatenate([uv, np.zeros((pad, 2), np.float32)]).reshape(256, -1, 2)
        uv = uv - 512 * np.floor(uv * (1 / 512))
        return cv2.remap(texture, uv, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP).reshape(-1)[: -pad or None]

    def image(
        self, snapshot: Snapshot, hits: Hits, origin, directions, shape: tuple[int, int], focal: float, rng
    ) -> np.ndarray:
        """The picture (H, W, 3) uint8 RGB of rays `directions` (H * W, 3) from `origin`; `focal` in pixels."""
        light = self.light
        linear = np.empty((len(directions), 3), np.float32)
        seen = hits.surface != SKY
        sky, ground, mesh = (
            np.flatnonzero(~seen),
            np.flatnonzero(hits.surface == GROUND),
            np.flatnonzero(hits.surface >= 0),
        )
        linear[sky] = self._sky(directions[sky])
        points = origin.astype(np.float32) + np.where(seen, hits.distance, 0)[:, None] * directions
        self._fill_ground(linear, snapshot, hits, points, directions, ground, focal)
        self._fill_mesh(linear, snapshot, hits, points, directions, mesh)
        veil = np.zeros(len(directions), np.float32)
        veil[seen] = 1 - np.exp(-hits.distance[seen] * np.float32(1 / light.haze))
        linear += veil[:, None] * (light.horizon - linear)
        return self._develop(linear.reshape(*shape, 3), rng)

    def _sky(self, d: np.ndarray) -> np.ndarray:
        light = self.light
        up = np.clip(d[:, 2], 0, 1)
        blend = np.sqrt(up)[:, None]
        colour = light.horizon + blend * (light.zenith - light.horizon)
        uv = d[:, :2] / (up[:, None] + 0.15) * 90 + 700
        cover = np.clip(self._lookup(self.clouds, uv.astype(np.float32)) * 2.5 + light.clouds - 0.4, 0, 0.9)[:, None]
        colour = colour + cover * (1.05 * light.horizon - colour)
        glare = _power(np.maximum(d @ light.sun.astype(np.float32), 0), 4)
        return colour + glare[:, None] * light.sun_colour * 0.35

    def _sunlight(self, snapshot: Snapshot, points, normals) -> np.ndarray:
        """Lambert's cosine (P,) of the sun, 0 in shadow."""
        cosine = np.maximum(normals @ self.light.sun.astype(np.float32), 0)
        facing = np.flatnonzero(cosine > 0.02)
        start = points[facing] + np.float32(0.015) * normals[facing]
        cosine[facing[snapshot.hidden(start, self.light.sun)]] = 0
        return cosine

    def _fill_ground(self, linear, snapshot, hits, points, directions, index, focal) -> None:
        p, n = points[index], hits.normal[index]
        fall = np.maximum(-directions[index, 2], 0.02)
        footprint = np.minimum(hits.distance[index] / focal / np.sqrt(fall), 4.0)
        albedo = snapshot.stage.ground.colour(p[:, :2], footprint)
        kerb = hits.kerb[index]
        albedo[kerb] = 0.55
        albedo *= albedo
        lit = self._sunlight(snapshot, p, n)[:, None]
        linear[index] = albedo * (lit * self.light.sun_colour + self.light.ambient)

    def _fill_mesh(self, linear, snapshot, hits, points, directions, index) -> None:
        stage, light = snapshot.stage, self.light
        triangle = hits.surface[index]
        owner = stage.owner[triangle]
        p, n, d = points[index], hits.normal[index], directions[index]
        local = snapshot.local_points(owner, p)
        gloss, glow, _, noise = stage.surface[triangle].T
        at = stage.noise_at[owner]
        mixed = np.stack(
            [
                local[:, 0] + 0.6 * local[:, 1] + 0.35 * local[:, 2],
                local[:, 2] - 0.45 * local[:, 0] + 0.5 * local[:, 1],
            ],
            -1,
        )
        texture = self._lookup(self.noise, mixed * np.float32(_TEXELS_PER_METRE) + at[:, :2])
        albedo = stage.colour[triangle] * np.clip(1 + noise * texture, 0.2, 2)[:, None]
        facade = np.flatnonzero(stage.facade[triangle])
        pane = self._panes(stage, owner[facade], local[facade])
        glass = facade[pane]
        albedo[glass] = 0.05
        gloss, glow = gloss.copy(), glow.copy()
        gloss[glass] = 0.8
        if light.dusk:  # some windows are lit
            cell = np.floor(local[glass, 2] / 3.1) * 7 + np.floor((local[glass, 0] + local[glass, 1]) / 3.3)
            glow[glass] = np.where((cell.astype(np.int64) * 2654435761 + owner[glass]) % 11 < 4, 12.0, 0)
        albedo *= albedo
        lit = self._sunlight(snapshot, p, n)
        ambient = (0.72 + 0.28 * n[:, 2])[:, None] * light.ambient
        colour = albedo * (lit[:, None] * light.sun_colour + ambient + glow[:, None])
        facing = -np.einsum("ij,ij->i", n, d)
        fresnel = gloss * (0.12 + 0.88 * _power(1 - np.clip(facing, 0, 1), 2))
        mirrored = d[:, 2] + 2 * facing * n[:, 2]
        reflected = np.where(
            (mirrored > 0)[:, None], light.horizon + mirrored[:, None] * (light.zenith - light.horizon), 0.12
        )
        colour += fresnel[:, None] * (reflected - colour)
        shine = _power(np.maximum((d + 2 * facing[:, None] * n) @ light.sun.astype(np.float32), 0), 5)
        colour += (gloss * shine * (lit > 0))[:, None] * light.sun_colour * 0.6
        linear[index] = colour

    @staticmethod
    def _panes(stage, owner: np.ndarray, local: np.ndarray) -> np.ndarray:
        """Which hits (P,) on facades are window panes."""
        period_u, period_v, width, height = stage.windows[owner].T
        u = np.mod(local[:, 0] + local[:, 1] + 100 * period_u, period_u)
        v = np.mod(local[:, 2], period_v)
        return np.flatnonzero((u < width) & (v > 0.8) & (v < 0.8 + height))

    def _develop(self, linear: np.ndarray, rng) -> np.ndarray:
        x = linear * np.float32(self.light.exposure)
        grey = np.sqrt(1.5 * x / (0.75 + x)) * 0.92
        start = int(rng.integers(self.grain.size // 2))
        grain = np.resize(self.grain[start:], grey.shape)
        sigma = 0.008 if not self.light.dusk else 0.016
        image = grey * np.float32(255) + np.float32(255 * sigma) * grain
        return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)


def _power(x: np.ndarray, doublings: int) -> np.ndarray:
    """x to the power 2 ** doublings."""
    for _ in range(doublings):
        x = x * x
    return x
