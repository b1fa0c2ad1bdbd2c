"""Colour of hits: sun with cast shadows, sky light, gloss, windows, albedo noise, haze; then exposure and sensor noise."""

from dataclasses import dataclass

import cv2
import numpy as np

from perception.simulation.ground import noise_tile
from perception.simulation.render import GROUND, SKY, Hits, Snapshot

_TEXELS_PER_METRE = 22.0


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
        dusk = bool(rng.random() < 0.25)
        azimuth = rng.uniform(0, 2 * np.pi)
        elevation = np.deg2rad(rng.uniform(7, 16) if dusk else rng.uniform(28, 68))
        sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
        a = lambda *rgb: np.array(rgb, np.float32)  # noqa: E731
        if dusk:
            return Light(
                sun, a(1.5, 0.85, 0.42) * rng.uniform(0.5, 1.0), a(0.32, 0.33, 0.45), a(0.2, 0.27, 0.48), a(0.95, 0.6, 0.4),
                rng.uniform(1.15, 1.5), rng.uniform(220, 400), True, rng.uniform(0.1, 0.7),
            )  # fmt: skip
        overcast = rng.random() < 0.3
        strength = rng.uniform(0.1, 0.5) if overcast else rng.uniform(1.7, 2.4)
        ambient = a(0.72, 0.76, 0.82) if overcast else a(0.48, 0.55, 0.66)
        zenith, horizon = (
            (a(0.62, 0.67, 0.74), a(0.8, 0.82, 0.85)) if overcast else (a(0.2, 0.38, 0.72), a(0.72, 0.8, 0.88))
        )
        return Light(
            sun, a(1.0, 0.95, 0.86) * strength, ambient * rng.uniform(0.85, 1.15), zenith, horizon,
            rng.uniform(0.85, 1.2), rng.uniform(250, 700), False, rng.uniform(0.0, 0.9),
        )  # fmt: skip


class Shader:
    """Colours the hits of one scene's cameras. Holds the light and the noise textures."""

    def __init__(self, light: Light, rng: np.random.Generator):
        self.light = light
        tile = noise_tile(rng, 512, (1, 4, 16, 64), (0.05, 0.06, 0.07, 0.06)) - 1
        self.noise = np.tile(tile, (2, 2))  # a lookup below 512 never meets the edge
        self.clouds = noise_tile(rng, 512, (8, 32, 64, 128), (0.1, 0.2, 0.25, 0.25)) - 1
        self.grain = rng.standard_normal((1, 1 << 18)).astype(np.float32)

    def _lookup(self, texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
        """Values (P,) of a tile of 512 texels at uv (P, 2) in texels."""
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
        glare = np.maximum(d @ light.sun.astype(np.float32), 0) ** 24
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
        frame = snapshot.local[owner]
        local = np.matmul(frame[:, :, :3], p[:, :, None])[:, :, 0] + frame[:, :, 3]
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
        facing = -(n * d).sum(1)
        fresnel = gloss * (0.12 + 0.88 * (1 - np.clip(facing, 0, 1)) ** 4)
        mirrored = d[:, 2] + 2 * facing * n[:, 2]
        reflected = np.where(
            (mirrored > 0)[:, None], light.horizon + mirrored[:, None] * (light.zenith - light.horizon), 0.12
        )
        colour += fresnel[:, None] * (reflected - colour)
        shine = np.maximum((d + 2 * facing[:, None] * n) @ light.sun.astype(np.float32), 0) ** 40
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
        start = int(rng.integers(self.grain.size))
        grain = np.resize(np.roll(self.grain, -start), grey.shape)
        sigma = 0.008 if not self.light.dusk else 0.016
        image = grey + np.float32(sigma) * grain
        return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
