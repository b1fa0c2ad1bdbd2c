"""BEV augmentation: one matrix `bev_aug` (lidar -> bev) for boxes and points, and the range filter."""

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS

from common.errors import ConfigError
from common.geometry import transform

MAX_ROTATION = np.pi / 8  # 22.5 degrees


def bev_augmentation(rotation: float = 0.0, scale: float = 1.0, flip_x: bool = False, flip_y: bool = False):
    """`bev_aug` (4, 4) float64 = flips @ scale @ rotation about z (radians, counter-clockwise).

    flip_x turns the sign of x, flip_y that of y. The scale acts on all three axes.
    """
    c, s = np.cos(rotation), np.sin(rotation)
    signs = np.array([-1.0 if flip_x else 1.0, -1.0 if flip_y else 1.0, 1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = (scale * signs)[:, None] * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    return matrix


def augment_boxes(boxes: np.ndarray, bev_aug: np.ndarray) -> np.ndarray:
    """Boxes (Q, 9) of mmdet3d's LiDAR convention (x, y, z, l, w, h, yaw, vx, vy) moved by `bev_aug`.

    The centre by the matrix, sizes by its scale, the heading and the velocity by its 2x2 block (velocity is scaled
    too, as positions over the same time are).
    """
    boxes = np.asarray(boxes)
    block = bev_aug[:2, :2]
    moved = boxes.copy()
    moved[:, :3] = transform(bev_aug, boxes[:, :3].astype(np.float64))
    moved[:, 3:6] = boxes[:, 3:6] * np.sqrt(abs(np.linalg.det(block)))
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], -1) @ block.T
    moved[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    moved[:, 7:9] = boxes[:, 7:9] @ block.T
    return moved


@TRANSFORMS.register_module()
class AugmentBEV(BaseTransform):
    """Draws `bev_aug` and applies it to boxes and points; trajectories stay in the `lidar` frame (docs/conventions.md).

    Args:
        rotation: largest angle in radians, either way. scale: (low, high). flip_x, flip_y: each with probability 1/2.
        per_sequence: hold one draw for a whole walk through a sequence instead of one per frame (released code: per
            frame).
    Leave it out in testing: PackBEVInputs then takes the identity.
    """

    def __init__(self, rotation=MAX_ROTATION, scale=(0.95, 1.05), flip_x=True, flip_y=True, per_sequence=False):
        self.rotation, self.scale = float(rotation), tuple(scale)
        self.flip_x, self.flip_y, self.per_sequence = flip_x, flip_y, per_sequence
        if not 0 < self.scale[0] <= self.scale[1] or self.rotation < 0:
            raise ConfigError(f"scale = {scale} must be (low, high) > 0 and rotation = {rotation} radians >= 0")

    def transform(self, results: dict) -> dict:
        """Adds `bev_aug` (4, 4) float64; moves `gt_bboxes_3d` and `points` into the `bev` frame."""
        key = (results["walk"], 2) if self.per_sequence else (results["draw"], 1)
        rng = np.random.default_rng((results["seed"], *key))
        rotation, scale, *flips = rng.uniform(
            [-self.rotation, self.scale[0], 0, 0], [self.rotation, self.scale[1], 1, 1]
        )
        bev_aug = bev_augmentation(rotation, scale, self.flip_x and flips[0] < 0.5, self.flip_y and flips[1] < 0.5)
        results["bev_aug"] = bev_aug
        if "gt_bboxes_3d" in results:
            boxes = results["gt_bboxes_3d"]
            results["gt_bboxes_3d"] = boxes.new_box(augment_boxes(boxes.tensor.numpy(), bev_aug))
        if "points" in results:
            results["points"][:, :3] = transform(bev_aug, results["points"][:, :3].astype(np.float64))
        return results


@TRANSFORMS.register_module()
class FilterBoxRange(BaseTransform):
    """Keeps boxes whose centre lies in x, y (low, high) metres of the `bev` frame, and their trajectories and tokens.

    A frame that loses all its boxes stays in its sequence.
    """

    def __init__(self, x, y):
        self.x, self.y = tuple(map(float, x[:2])), tuple(map(float, y[:2]))
        if self.x[0] >= self.x[1] or self.y[0] >= self.y[1]:
            raise ConfigError(f"FilterBoxRange: x = {x}, y = {y}; (low, high) in metres with low < high are needed")

    def transform(self, results: dict) -> dict:
        """Filters every per-object key with one mask."""
        centers = results["gt_bboxes_3d"].tensor[:, :2].numpy()
        low, high = np.array([self.x, self.y]).T
        keep = ((centers >= low) & (centers < high)).all(1)
        for key in ("gt_bboxes_3d", "gt_labels_3d", "instance_tokens", "trajectories", "trajectories_unaligned"):
            if key in results:
                results[key] = results[key][keep]
        return results
