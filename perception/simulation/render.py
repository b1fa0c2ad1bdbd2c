"""Ray casting: where rays meet the static town, the things that move, and the ground, at one moment.

Embree (open3d) holds two scenes: the static soup, built once, and the moving soup, rebuilt for every exposure; the
nearer hit counts. The ground is intersected in closed form.
"""

from dataclasses import dataclass

import numpy as np
import open3d as o3d

from common.geometry import invert, transform
from perception.simulation.ground import Ground
from perception.simulation.solids import NO_INSTANCE, Solids, global2owner

GROUND, SKY = -1, -2


@dataclass(frozen=True)
class Hits:
    """Of R rays: `distance` (R,) in units of the direction (inf: sky), `surface` (R,) index of the triangle, GROUND or
    SKY, `normal` (R, 3) unit, towards the sensor; `kerb` (R,) whether the ground's hit is a kerb's side."""

    distance: np.ndarray
    surface: np.ndarray
    normal: np.ndarray
    kerb: np.ndarray


class Stage:
    """The scene for rays. Triangles of `static` come first, then those of `moving`; owners likewise."""

    def __init__(self, static: Solids, moving: Solids, ground: Ground, threads: int = 1):
        self.static, self.moving, self.ground, self.threads = static, moving, ground, threads
        self.owner = np.concatenate([static.owner, moving.owner + len(static.poses)]).astype(np.int32)
        self.colour = np.concatenate([static.colour, moving.colour])
        self.surface = np.concatenate([static.surface, moving.surface])
        self.facade = np.concatenate([static.facade, moving.facade])
        self.instance = np.concatenate([static.instance, moving.instance])
        self.windows = np.concatenate([static.windows, moving.windows])
        self.noise_at = np.concatenate([static.noise_at, moving.noise_at])
        self._static_scene = self._scene(static.placed(static.poses), static.triangles)
        self._static_local = global2owner(static.poses)

    def _scene(self, vertices: np.ndarray, triangles: np.ndarray):
        if not len(triangles):
            return None
        scene = o3d.t.geometry.RaycastingScene(nthreads=self.threads)
        scene.add_triangles(
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(vertices, np.float32)),
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(triangles, np.uint32)),
        )
        return scene

    def at(self, poses: np.ndarray) -> "Snapshot":
        """The scene with the moving owners at `poses` (M, 4, 4)."""
        return Snapshot(self, poses)


class Snapshot:
    """The scene at one moment."""

    def __init__(self, stage: Stage, poses: np.ndarray):
        self.stage = stage
        moving = stage._scene(stage.moving.placed(poses), stage.moving.triangles) if len(poses) else None
        self._scenes = [(stage._static_scene, 0), (moving, len(stage.static.triangles))]
        self.local = np.concatenate([stage._static_local, global2owner(poses)]) if len(poses) else stage._static_local

    def _rays(self, origins: np.ndarray, directions: np.ndarray):
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = origins, directions
        return o3d.core.Tensor.from_numpy(rays)

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> Hits:
        """First hits of rays from `origin` (3,), which lies above the kerbs, along unit `directions` (R, 3) float32."""
        distance, kerb = self.stage.ground.intersect(origin, directions)
        surface = np.where(np.isfinite(distance), GROUND, SKY).astype(np.int32)
        normal = np.zeros((len(directions), 3), np.float32)
        normal[:, 2] = 1
        rays = self._rays(origin, directions)
        for scene, first in self._scenes:
            if scene is None:
                continue
            answer = scene.cast_rays(rays, nthreads=self.stage.threads)
            t = answer["t_hit"].numpy()
            nearer = np.flatnonzero(t < distance)
            distance[nearer] = t[nearer]
            surface[nearer] = answer["primitive_ids"].numpy()[nearer].astype(np.int32) + first
            n, d = answer["primitive_normals"].numpy()[nearer], directions[nearer]
            away = np.einsum("ij,ij->i", n, d) > 0
            normal[nearer] = np.where(away[:, None], -n, n)
        on_kerb = np.flatnonzero(kerb & (surface == GROUND))
        flat = directions[on_kerb, :2]
        normal[on_kerb, :2] = -flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
        normal[on_kerb, 2] = 0.2
        return Hits(distance, surface, normal, kerb & (surface == GROUND))

    def hidden(self, points: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Whether something lies between points (R, 3) and infinity along `direction` (3,): cast shadows."""
        rays = self._rays(points, np.broadcast_to(direction.astype(np.float32), points.shape))
        shade = np.zeros(len(points), bool)
        for scene, _ in self._scenes:
            if scene is not None and len(points):
                shade |= scene.test_occlusions(rays, tnear=0.02, nthreads=self.stage.threads).numpy()
        return shade

    def local_points(self, owner: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Points (P, 3) in the frames of their owners (P,)."""
        local = np.empty_like(points)
        for i in range(3):
            row = [np.ascontiguousarray(self.local[:, i, j])[owner] for j in range(4)]
            local[:, i] = row[0] * points[:, 0] + row[1] * points[:, 1] + row[2] * points[:, 2] + row[3]
        return local

    def instance_of(self, surface: np.ndarray) -> np.ndarray:
        """Instance numbers of hit surfaces; NO_INSTANCE for ground, sky and scenery."""
        owner = self.stage.owner[np.maximum(surface, 0)] if len(self.stage.owner) else np.zeros(len(surface), np.int64)
        found = self.stage.instance[owner] if len(self.stage.instance) else np.full(len(surface), NO_INSTANCE)
        return np.where(surface >= 0, found, NO_INSTANCE)


def pixel_directions(cam2img: np.ndarray, width: int, height: int) -> np.ndarray:
    """Unit view directions (H * W, 3) of the pixels' centres in the camera's frame."""
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3)
    directions = pixels @ np.linalg.inv(cam2img).T
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def seen_samples(
    snapshot: Snapshot,
    cam2img: np.ndarray,
    shape: tuple[int, int],
    cam2global: np.ndarray,
    points: np.ndarray,
    instance: np.ndarray,
) -> np.ndarray:
    """Which points (P, 3) on the surfaces of instances (P,) an image of `shape` (H, W) shows.

    A point counts if it lies in the image and the first thing on the ray towards it is its own instance. A point on the
    far side is thus stood for by the near side that covers it, so the share of an instance's points that count is about
    the share of its silhouette that nothing hides: 1 for an object in the open, whichever side it shows.
    """
    local = transform(invert(cam2global), points)
    ahead = np.flatnonzero(local[:, 2] > 0.2)
    pixel = local[ahead] @ cam2img.T
    uv = pixel[:, :2] / pixel[:, 2:]
    inside = ahead[((uv >= -0.5) & (uv < np.array(shape[::-1]) - 0.5)).all(1)]
    rays = points[inside] - cam2global[:3, 3]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    seen = np.zeros(len(points), bool)
    if len(inside):
        hits = snapshot.cast(cam2global[:3, 3], rays.astype(np.float32))
        seen[inside] = snapshot.instance_of(hits.surface) == instance[inside]
    return seen
