"""LiDAR: reading a sweep and projecting it to a depth map per camera (VCD, the expert's depth prior)."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS

from common.errors import ConfigError, DataError
from common.geometry import transform


def read_sweep(path, features: int = 5) -> np.ndarray:
    """(P, features) float32: x, y, z in metres (`lidar` frame), intensity, ring.

    Raises DataError naming the file if it is missing, empty, no whole number of points, or not finite. A sweep that
    was cut after a whole point passes: neither the file nor the infos say how many points a sweep has.
    """
    try:
        values = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(
            f"LiDAR sweep {path} cannot be read ({error.strerror}): restore it, or make new infos"
        ) from error
    if values.size == 0 or values.size % (4 * features):
        raise DataError(
            f"LiDAR sweep {path} has {values.size} bytes, not a multiple of {4 * features} ({features} float32 per "
            "point): it is cut short or of another format; restore it, or train with on_error='skip'"
        )
    points = values.view(np.float32).reshape(-1, features)
    if not np.isfinite(points[:, :3].sum(dtype=np.float64)):
        bad = np.count_nonzero(~np.isfinite(points[:, :3]).all(1))
        raise DataError(f"LiDAR sweep {path} has {bad} of {len(points)} points that are not finite: restore the file")
    return points


def depth_maps(points, lidar2cam, cam2img, img_aug, size, low: float, high: float) -> np.ndarray:
    """Nearest LiDAR depth per pixel of every camera, 0 where there is none (sheet 1.4).

    Args:
        points: (P, 3+) metres in the `lidar` frame. lidar2cam (N, 4, 4), cam2img (N, 3, 3), img_aug (N, 3, 3).
        size: (H, W) of the network image. low, high: depths in [low, high) count; low > 0, so points behind are out.
    Returns: (N, H, W) float32, depth along the camera's z axis in metres. Several points on a pixel: the smallest,
        exactly (a scatter-minimum), whatever their order.
    """
    if not 0 < low < high:
        raise ValueError(f"depth range [{low}, {high}) m: 0 < low < high is needed, points behind the camera are out")
    height, width = size
    maps = np.full((len(lidar2cam), height * width), np.inf, np.float32)
    xyz = np.ascontiguousarray(points[:, :3].T, np.float64)
    for camera, to_cam in enumerate(lidar2cam):
        z = to_cam[2, :3] @ xyz + to_cam[2, 3]
        depth = z.astype(np.float32)  # tested as stored: 59.9999999 m must not become 60 afterwards
        ahead = np.flatnonzero((depth >= low) & (depth < high))
        depth = depth[ahead]
        project = img_aug[camera] @ cam2img[camera] @ to_cam[:3]
        pixel = (project[:2, :3] @ xyz[:, ahead] + project[:2, 3:]) / z[ahead]
        u, v = np.floor(pixel + 0.5).astype(np.int64)
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        np.minimum.at(maps[camera], v[inside] * width + u[inside], depth[inside])
    maps[np.isinf(maps)] = 0
    return maps.reshape(-1, height, width)


@TRANSFORMS.register_module()
class LoadLidarDepth(BaseTransform):
    """Adds `lidar_depth` (N, H, W) float32, and `points` (P, features) if `keep_points`, wherever AugmentBEV stands.

    Args: low, high: depth range in metres, that of the depth bins. The depth map comes from `depth_source` (in the
    negative control another sample), the points always from this sample. `depth` False loads the points alone.
    Runs after LoadAndAugmentImages: the map lies in the augmented network image.
    """

    def __init__(self, low: float = 1.0, high: float = 60.0, keep_points: bool = False, depth: bool = True):
        if not 0 < low < high:
            raise ConfigError(f"LoadLidarDepth: low = {low}, high = {high}; 0 < low < high metres are needed")
        self.low, self.high, self.keep_points, self.depth = float(low), float(high), keep_points, depth

    def transform(self, results: dict) -> dict:
        """Adds the keys named above. Raises DataError naming the file."""
        source, points = results["depth_source"], None
        if self.depth:
            points = read_sweep(source["lidar_path"], source["num_pts_feats"])
            names = results["cam_names"]
            results["lidar_depth"] = depth_maps(
                points,
                np.array([source["lidar2cam"][name] for name in names], np.float64),
                np.array([source["cam2img"][name] for name in names], np.float64),
                results["img_aug"],
                results["imgs"].shape[-2:],
                self.low,
                self.high,
            )
        if self.keep_points:
            if points is None or source["lidar_path"] != results["lidar_path"]:
                points = read_sweep(results["lidar_path"], results["num_pts_feats"])
            results["points"] = points.copy()
            if "bev_aug" in results:  # AugmentBEV has already run
                results["points"][:, :3] = transform(results["bev_aug"], points[:, :3].astype(np.float64))
        return results
