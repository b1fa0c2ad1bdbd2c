"""Frames to stream through a detector: from a data set, or drawn by a seed on a rig of surrounding cameras."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from deploy.runtime.geometry import Rig
from deploy.runtime.images import network_view
from deploy.runtime.manifest import Manifest


@dataclass(frozen=True)
class Frame:
    """images (N, H, W, 3) uint8 RGB in the rig's order, at the size it declares; lidar2global (4, 4); timestamp in s;
    start: first of a sequence; cam2lidar (N, 4, 4) of this frame."""

    images: np.ndarray
    lidar2global: np.ndarray
    timestamp: float
    start: bool
    cam2lidar: np.ndarray

    def arguments(self, rig: Rig) -> dict:
        """What StreamingDetector.step takes."""
        return {
            "images": dict(zip(rig.cameras, self.images, strict=True)),
            "timestamps": dict.fromkeys(rig.cameras, self.timestamp),
            "lidar2global": self.lidar2global,
            "timestamp": self.timestamp,
            "cam2lidar": dict(zip(rig.cameras, self.cam2lidar, strict=True)),
        }


def surround_rig(
    manifest: Manifest, cameras: int = 6, raw_size=None, seed: int | None = None, field_of_view: float = 1.22
) -> Rig:
    """Cameras spread evenly over the full circle, 1.2 m out and 0.3 m below the LiDAR, horizontal field of view in rad.

    Images of a raw_size (H, W) are resized and cropped as in testing, without one they arrive so. A seed disturbs every
    mount by some degrees and centimetres, and every focal length by some per cent, as another vehicle would.
    """
    full = manifest.image_size if raw_size is None else raw_size
    img_aug = network_view(full, manifest.image_size)
    random = np.random.default_rng(seed)
    cam2img, cam2lidar = [], []
    for i in range(cameras):
        noise = np.zeros(7) if seed is None else random.normal(size=7)
        yaw = np.pi / 2 - 2 * np.pi * i / cameras + 0.1 * noise[0]
        pitch, roll = 0.02 * noise[1], 0.02 * noise[2]
        focal = full[1] / 2 / np.tan(field_of_view / 2) * (1 + 0.05 * noise[3])
        cam2img.append([[focal, 0, (full[1] - 1) / 2], [0, focal, (full[0] - 1) / 2], [0, 0, 1]])
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        down = np.cross(forward, right)
        pose = np.eye(4)
        pose[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
        pose[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
        pose[:3, 2] = forward
        pose[:3, 3] = 1.2 * np.cos(yaw), 1.2 * np.sin(yaw), -0.3
        pose[:3, 3] += 0.05 * noise[4:]
        cam2lidar.append(pose)
    return Rig(
        cameras=tuple(f"CAM_{i}" for i in range(cameras)),
        cam2img=np.array(cam2img),
        cam2lidar=np.array(cam2lidar),
        raw_size=raw_size,
        img_aug=np.tile(img_aug, (cameras, 1, 1)),
    )


def drawn_frames(
    manifest: Manifest, rig: Rig, count: int, restart: int | None = None, seed: int = 0
) -> Iterator[Frame]:
    """Smooth random images that drift, on a vehicle that drives a curve 3 km from the map's origin.

    `restart`: the index of a frame that begins a second sequence elsewhere; the first frame always begins one.
    """
    random = np.random.default_rng(seed)
    n, (height, width) = len(rig.cameras), rig.raw_size or manifest.image_size
    rate_hz = manifest.rate_hz
    coarse = random.uniform(0, 255, (n, max(2, height // 16), max(2, width // 16), 3))
    rows = np.linspace(0, coarse.shape[1] - 1.001, height)
    columns = np.linspace(0, coarse.shape[2] - 1.001, width)
    x, y, yaw, speed, turn = 2400.0, 1800.0, 0.7, 8.0, 0.15
    for i in range(count):
        if i == restart:
            x, y, yaw = x + 400.0, y - 300.0, yaw + 2.0
        image = _bilinear(np.roll(coarse, i, axis=2), rows, columns) + random.normal(0, 6, (n, height, width, 3))
        pose = np.eye(4)
        c, s = np.cos(yaw - np.pi / 2), np.sin(yaw - np.pi / 2)  # the LiDAR looks along its y axis
        pose[:2, :2], pose[:3, 3] = [[c, -s], [s, c]], (x, y, 1.8)
        yield Frame(np.clip(image, 0, 255).astype(np.uint8), pose, i / rate_hz, i in (0, restart), rig.cam2lidar)
        x, y, yaw = x + speed / rate_hz * np.cos(yaw), y + speed / rate_hz * np.sin(yaw), yaw + turn / rate_hz


def _bilinear(coarse: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    i, j = rows.astype(int), columns.astype(int)
    a, b = (rows - i)[:, None, None], (columns - j)[:, None]
    top = coarse[:, i] * (1 - a) + coarse[:, i + 1] * a
    return top[:, :, j] * (1 - b) + top[:, :, j + 1] * b


def dataset_frames(config, count: int) -> tuple[Rig, list[Frame]]:
    """The first `count` consecutive test frames of a config's data set, at the network's image size.

    A stream has one rig: it ends before the first frame of another vehicle. Raises ValueError if there are no frames.
    """
    from mmengine.registry import DATASETS

    dataset = DATASETS.build(config.test_dataloader.dataset)
    dataset.full_init()
    rig, frames = None, []
    for i in range(min(count, len(dataset))):
        item = dataset[i]
        inputs, info = item["inputs"], item["data_samples"].metainfo
        array = {name: inputs[name].double().numpy() for name in ("cam2img", "cam2lidar", "img_aug", "lidar2global")}
        found = Rig(
            cameras=tuple(info["cam_names"]),
            cam2img=array["cam2img"],
            cam2lidar=array["cam2lidar"],
            img_aug=array["img_aug"],
        )
        rig = found if rig is None else rig
        if found.cameras != rig.cameras or not np.allclose(found.cam2img, rig.cam2img):
            break
        images = inputs["imgs"].numpy().transpose(0, 2, 3, 1)
        frames.append(
            Frame(images, array["lidar2global"], _seconds(info["timestamp"]), bool(inputs["start"]), array["cam2lidar"])
        )
    if rig is None:
        raise ValueError("config.test_dataloader.dataset is empty: check its ann_file, or export with --drawn")
    return rig, frames


def _seconds(timestamp: float) -> float:
    """nuScenes counts microseconds, mmdet3d's infos seconds."""
    return float(timestamp) * (1e-6 if timestamp > 1e12 else 1.0)


def normalisation(detector) -> tuple[list[float], list[float]]:
    """mean and std (3,), R, G, B, of the detector's data preprocessor; raises ValueError if it has none."""
    preprocessor = detector.data_preprocessor
    mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
    if mean is None or std is None:
        raise ValueError("model.data_preprocessor has no mean and std: set them, the exported graph normalises inside")
    return mean.flatten().tolist(), std.flatten().tolist()


def with_poses(rig: Rig, frame: Frame) -> Rig:
    """The rig as it stood for one frame."""
    return replace(rig, cam2lidar=frame.cam2lidar)
