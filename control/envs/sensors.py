"""Depth, point clouds and pictures of a MuJoCo scene by ray casting: no OpenGL, the same bytes everywhere; and
pictures by MuJoCo's own renderer where an OpenGL is at hand."""

import atexit
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np


def _no_opengl(error: Exception) -> str:
    """What the user reads when MuJoCo's renderer cannot start."""
    backend = os.environ.get("MUJOCO_GL") or "glfw (MUJOCO_GL is not set), which wants a screen,"
    return (
        f"MuJoCo cannot start the OpenGL backend {backend} ({type(error).__name__}: {error}): before Python starts, "
        "set MUJOCO_GL=egl (a GPU's driver, or Debian's libegl1 and libgl1-mesa-dri) or MUJOCO_GL=osmesa (Debian's "
        "libosmesa6); or unset it and use renderer='raycast', which needs no OpenGL"
    )


try:
    import mujoco
except ModuleNotFoundError:
    raise
except Exception as error:  # a backend named by MUJOCO_GL is loaded with the package
    raise RuntimeError(_no_opengl(error)) from error

VISIBLE = np.array([1, 1, 1, 0, 0, 0], np.uint8)  # geom groups that MuJoCo's own viewer shows
LIGHT = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])


# (model, data, camera, height, width) -> (height, width, 3) uint8
Draw = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks from `position` to `target` (world frame, metres), z up; fovy in degrees.

    bounds: corners (low, high) of the box of interest for point clouds, (3,) each; None takes everything.
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    fovy: float = 45.0
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None

    def rays(self, height: int, width: int) -> np.ndarray:
        """(height, width, 3) unit directions through the pixel centres, row 0 at the top; read-only."""
        return _rays(self, height, width)


@cache
def _rays(camera: Camera, height: int, width: int) -> np.ndarray:
    forward = np.subtract(camera.target, camera.position).astype(np.float64)
    forward /= np.linalg.norm(forward)
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.999 else np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    focal = height / 2 / np.tan(np.radians(camera.fovy) / 2)
    v, u = np.mgrid[:height, :width] + 0.5
    across, down = (u - width / 2) / focal, (v - height / 2) / focal
    rays = forward + across[..., None] * right - down[..., None] * up
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    rays.flags.writeable = False
    return rays


def raycast(model, data, camera: Camera, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance along the ray in metres (-1: nothing), geom id (-1), surface normal: (H, W), (H, W), (H, W, 3)."""
    rays = camera.rays(height, width)
    count = height * width
    distance, geom, normal = np.empty(count), np.empty(count, np.int32), np.zeros(3 * count)
    position = np.asarray(camera.position, np.float64)
    mujoco.mj_multiRay(
        model, data, position, rays.reshape(-1), VISIBLE, 1, -1, geom, distance, normal, count, mujoco.mjMAXVAL
    )
    return distance.reshape(height, width), geom.reshape(height, width), normal.reshape(height, width, 3)


def picture(model, data, camera: Camera, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: every geom in its own colour (its material's where it has one), lit from above, and the
    spherical sites (goals, markers), which rays do not meet."""
    distance, geom, normal = raycast(model, data, camera, height, width)
    material = model.geom_matid
    colours = np.where((material >= 0)[:, None], model.mat_rgba[material] if model.nmat else 0.0, model.geom_rgba)
    shade = 0.55 + 0.45 * np.abs(normal @ LIGHT)
    image = colours[geom][..., :3] * shade[..., None]
    sky = np.linspace(0.95, 0.8, height)[:, None, None]
    image = np.where((distance >= 0)[..., None], image, sky)
    depth = np.where(distance >= 0, distance, np.inf)
    rays = camera.rays(height, width)
    sphere = (model.site_type == mujoco.mjtGeom.mjGEOM_SPHERE) & (model.site_group < 3) & (model.site_rgba[:, 3] > 0)
    for site in sphere.nonzero()[0]:
        # |position + s ray - centre|^2 = radius^2; a site fixed to a surface still shows
        offset = data.site_xpos[site] - np.asarray(camera.position)
        along = rays @ offset
        inside = along**2 - offset @ offset + model.site_size[site, 0] ** 2
        near = along - np.sqrt(inside.clip(0))
        seen = ((inside > 0) & (near > 0) & (near < depth + 0.01))[..., None]
        alpha = model.site_rgba[site, 3]
        image = np.where(seen, (1 - alpha) * image + alpha * model.site_rgba[site, :3], image)
    return (255 * image.clip(0, 1)).astype(np.uint8)


class OpenGLPictures:
    """The same view by MuJoCo's renderer, with textures and shadows; called like `picture`.

    A renderer is kept per model and size. Raises RuntimeError that names the backend and the remedy where it cannot
    start. `close()` frees what is kept.
    """

    def __init__(self):
        self._kept: dict[tuple[int, int], mujoco.Renderer] = {}

    def start(self, model, height: int, width: int) -> mujoco.Renderer:
        """The renderer of a size, made when it is not there."""
        found = self._kept.get((height, width))
        if found is not None and found.model is model:
            return found
        if found is not None:
            found.close()
        size = model.vis.global_
        size.offheight, size.offwidth = max(size.offheight, height), max(size.offwidth, width)
        try:
            found = self._kept[height, width] = mujoco.Renderer(model, height, width)
        except Exception as error:  # each backend fails in its own way
            raise RuntimeError(_no_opengl(error)) from error
        _OPEN.add(self)
        atexit.unregister(_close_all)
        atexit.register(_close_all)  # again: it must run before the end of OpenGL that MuJoCo has just registered
        return found

    def __call__(self, model, data, camera: Camera, height: int, width: int) -> np.ndarray:
        renderer, view = self.start(model, height, width), mujoco.MjvCamera()
        offset = np.subtract(camera.target, camera.position)
        view.lookat[:], view.distance = camera.target, np.linalg.norm(offset)
        view.azimuth = np.degrees(np.arctan2(offset[1], offset[0]))
        view.elevation = np.degrees(np.arcsin(offset[2] / view.distance))
        model.vis.global_.fovy, before = camera.fovy, model.vis.global_.fovy
        try:
            renderer.update_scene(data, view)
            return renderer.render().copy()
        finally:
            model.vis.global_.fovy = before

    def close(self) -> None:
        while self._kept:
            self._kept.popitem()[1].close()


_OPEN: weakref.WeakSet = weakref.WeakSet()


def _close_all() -> None:
    """Free every renderer; those freed after MuJoCo has ended OpenGL print errors."""
    for one in list(_OPEN):
        one.close()


def farthest_points(points: np.ndarray, count: int) -> np.ndarray:
    """`count` of the points (P, 3), each the farthest from those before; the first is the one farthest from the mean.
    Repeats when P < count; zeros when P = 0. Deterministic."""
    if not len(points):
        return np.zeros((count, 3), np.float32)
    chosen = np.empty(count, np.int64)
    columns = np.ascontiguousarray(points.T)
    gap, square, distance = np.full(len(points), np.inf), np.empty(len(points)), np.empty(len(points))
    last = int(np.square(points - points.mean(0)).sum(1).argmax())
    for i in range(count):
        chosen[i] = last
        distance.fill(0)
        for column in columns:  # in place: temporaries took two thirds of the time
            np.subtract(column, column[last], out=square)
            np.multiply(square, square, out=square)
            np.add(distance, square, out=distance)
        np.minimum(gap, distance, out=gap)
        last = int(gap.argmax())
    return points[chosen].astype(np.float32)


class PointCloud:
    """Points on the surfaces that a depth camera sees inside its bounds (DP3's observation, arXiv 2403.03954)."""

    def __init__(self, camera: Camera, count: int, image_hw: tuple[int, int] = (60, 80)):
        self.camera, self.count, self.image_hw = camera, count, image_hw

    def points(self, model, data) -> np.ndarray:
        """(count, 3) float32, metres in the world frame."""
        distance, _, _ = raycast(model, data, self.camera, *self.image_hw)
        rays = self.camera.rays(*self.image_hw)
        hit = distance >= 0
        points = np.asarray(self.camera.position) + distance[hit][:, None] * rays[hit]
        if self.camera.bounds is not None:
            low, high = np.asarray(self.camera.bounds)
            points = points[((points >= low) & (points <= high)).all(1)]
        return farthest_points(points, self.count)
