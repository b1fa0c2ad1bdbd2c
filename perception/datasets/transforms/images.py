"""Camera images: reading, and the image augmentation as one matrix and one warp.

Pixel (0, 0) is the middle of the top-left pixel. Shrinking by s therefore maps u to s (u + 1/2) - 1/2, and the warp
uses exactly the matrix that the network and the LiDAR projection get.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS

from common.errors import ConfigError, DataError

MAX_ROTATION = 0.03 * np.pi  # 5.4 degrees
cv2.setNumThreads(0)  # workers are processes already; threads of OpenCV would fight over the same cores


def read_image(path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises DataError naming the file if it is missing, empty, cut short or no image.

    A JPEG of which bytes in the middle are overwritten still decodes, wrong from there on: nothing tells it from a
    picture. Compare such files with the archive's checksums.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"image {path} cannot be read ({error.strerror}): restore it, or make new infos") from error
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise DataError(
            f"image {path} is corrupted or cut short ({content.size} bytes): restore it from the archive, "
            "or train with on_error='skip'"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class ImageDraw:
    """One draw of the augmentation: `scale` of the source, crop offset (x from the left, in scaled pixels), flip,
    rotation in radians (counter-clockwise on the screen)."""

    scale: float
    offset: float
    flip: bool = False
    rotation: float = 0.0


def scaled_size(source, scale: float) -> tuple[int, int]:
    """(height, width) of the source scaled and rounded to whole pixels."""
    return max(1, round(source[0] * scale)), max(1, round(source[1] * scale))


def resize_matrix(source, target) -> np.ndarray:
    """(3, 3): pixels of an image of size `source` (height, width) to those of the same image resized to `target`."""
    x, y = target[1] / source[1], target[0] / source[0]
    return np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])


def image_augmentation(source, size, draw: ImageDraw) -> np.ndarray:
    """`img_aug` (3, 3) float64: resize, bottom-aligned crop to `size`, horizontal flip, rotation about the middle.

    Args: source, size: (height, width) of the file and of the network image. An image narrower or lower than the crop
    is black-padded on the right and at the top.
    """
    height, width = size
    scaled = scaled_size(source, draw.scale)
    matrix = _shift(-draw.offset, height - scaled[0]) @ resize_matrix(source, scaled)
    if draw.flip:
        matrix = np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1.0]]) @ matrix
    if draw.rotation:
        c, s = np.cos(draw.rotation), np.sin(draw.rotation)
        middle = (width - 1) / 2, (height - 1) / 2
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
        matrix = _shift(*middle) @ turn @ _shift(-middle[0], -middle[1]) @ matrix
    return matrix


def _shift(x, y) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def shrink(image: np.ndarray, scale: float) -> np.ndarray:
    """The image averaged down to `scale`, or itself when scale >= 1."""
    if scale >= 1:
        return image
    height, width = scaled_size(image.shape, scale)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def warp(image: np.ndarray, source, size, img_aug: np.ndarray) -> np.ndarray:
    """The network image (height, width, 3): `image` is a (possibly shrunken) version of a file of size `source`.

    Bilinear, black outside; the same arithmetic whatever was shrunken, so a cached image gives the same result.
    """
    matrix = img_aug @ np.linalg.inv(resize_matrix(source, image.shape[:2]))
    return cv2.warpAffine(image, matrix[:2], (size[1], size[0]), flags=cv2.INTER_LINEAR, borderValue=0)


@TRANSFORMS.register_module()
class LoadAndAugmentImages(BaseTransform):
    """Reads all cameras, draws the augmentation independently per camera, warps.

    Args:
        size: (height, width) of the network image.
        resize: added to the scale that fits the width: uniform in [low, high] in training, 0 in testing.
            (-0.06, 0.11) is the released recipe (0.44 + U(-0.06, 0.11) for 704 of 1600 pixels).
        rotation: largest angle in radians, either way. flip: flip with probability 1/2.
        training: False gives scale and crop without randomness, centred.
        cache: keep the decoded, shrunken images in memory (for small sets; per worker process).

    Adds `imgs` (N, 3, H, W) uint8 RGB, `cam2img`, `img_aug` (N, 3, 3), `cam2lidar`, `lidar2cam` (N, 4, 4) float64,
    `cam_names`, `img_paths`.
    """

    def __init__(self, size, resize=(-0.06, 0.11), rotation=MAX_ROTATION, flip=True, training=True, cache=False):
        self.size, self.resize, self.rotation = tuple(int(v) for v in size), tuple(resize), float(rotation)
        self.flip, self.training, self.cache = flip, training, cache
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"size = {size}: (height, width) of the network image in pixels is needed")
        if self.resize[0] > self.resize[1] or not 0 <= self.rotation < np.pi / 2:
            raise ConfigError(f"resize = {resize} must be (low, high), rotation = {rotation} radians in [0, pi/2)")
        self._cached: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}

    def draw(self, source, rng: np.random.Generator) -> ImageDraw:
        """One augmentation for a file of size `source` (height, width)."""
        scale = self.size[1] / source[1]
        if self.training:
            scale += rng.uniform(*self.resize)
        if scale <= 0:
            raise ConfigError(
                f"resize = {self.resize} makes a scale of {scale:.3f} for images {source}: raise its low end"
            )
        spare = max(0, scaled_size(source, scale)[1] - self.size[1])
        if not self.training:
            return ImageDraw(scale, spare // 2)
        offset = int(rng.integers(spare + 1))
        return ImageDraw(scale, offset, self.flip and rng.random() < 0.5, rng.uniform(-self.rotation, self.rotation))

    def transform(self, results: dict) -> dict:
        """Adds the keys named above. Raises DataError naming the file."""
        rng = np.random.default_rng((results["seed"], results["draw"], 0))
        names = list(results["images"])
        images, augmentations = [], []
        for name in names:
            image, source = self._load(results["images"][name]["img_path"])
            img_aug = image_augmentation(source, self.size, self.draw(source, rng))
            images.append(warp(image, source, self.size, img_aug))
            augmentations.append(img_aug)
        lidar2cam = np.array([results["images"][name]["lidar2cam"] for name in names], np.float64)
        results.update(
            imgs=np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)),
            img_aug=np.stack(augmentations),
            cam2img=np.array([results["images"][name]["cam2img"] for name in names], np.float64),
            lidar2cam=lidar2cam,
            cam2lidar=np.linalg.inv(lidar2cam),
            cam_names=names,
            img_paths=[results["images"][name]["img_path"] for name in names],
        )
        return results

    def _load(self, path: str) -> tuple[np.ndarray, tuple[int, int]]:
        """The image shrunken to the largest scale the augmentation can ask for, and its original (height, width)."""
        if path in self._cached:
            return self._cached[path]
        image = read_image(path)
        source = image.shape[:2]
        loaded = shrink(image, self.size[1] / source[1] + max(0.0, self.resize[1])), source
        if self.cache:
            self._cached[path] = loaded
        return loaded
