"""Pictures of every evaluation: boxes on the images and in BEV, depth without and with the prior, trajectories."""

from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from common.engine.loops import unwrap
from perception.detection.depth_prior import block_minimum, fuse_prior
from perception.detection.trajectory import trajectory_mask
from perception.visualization import draw_depth_distribution, evaluation_picture, expected_depth, montage, save_png


@HOOKS.register_module()
class PictureHook(Hook):
    """Saves pictures of `frames` samples, spread evenly over an evaluation, below WORK_DIR/pictures.

    Per sample TOKEN: `<n>_boxes.png` (six images and BEV, trajectory mask of the true boxes where the pipeline packs
    trajectories) and `<n>_depth.png` (LiDAR depth, expected depth without and with the prior). score_threshold: boxes
    below it are not drawn.
    """

    priority = "LOW"

    def __init__(self, frames: int = 4, score_threshold: float = 0.3, out_dir: str | None = None):
        self.frames, self.score_threshold, self.out_dir = frames, score_threshold, out_dir

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._draw(runner, runner.val_dataloader, batch_idx, data_batch, outputs, f"iter_{runner.iter}")

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._draw(runner, runner.test_dataloader, batch_idx, data_batch, outputs, "test")

    def _draw(self, runner, loader, batch_idx, data_batch, outputs, folder) -> None:
        step = max(1, len(loader) // max(1, self.frames))
        if runner.rank or not self.frames or batch_idx % step != step // 2 or batch_idx // step >= self.frames:
            return
        model = unwrap(runner.model)
        out_dir = Path(self.out_dir or Path(runner.work_dir) / "pictures") / folder
        classes = tuple(loader.dataset.metainfo["classes"])
        boxes, depth = sample_pictures(model, data_batch, outputs, classes, self.score_threshold)
        save_png(out_dir / f"{batch_idx:05d}_boxes.png", boxes)
        if depth is not None:
            save_png(out_dir / f"{batch_idx:05d}_depth.png", depth)


@torch.no_grad()
def sample_pictures(model, data_batch: dict, outputs: list, classes, score_threshold: float = 0.3):
    """The two pictures of the first sample of a batch: (boxes, depth or None), uint8 RGB.

    Args: model, a `VCDDetector`; data_batch as from the data loader; outputs, its predictions.
    """
    core, sample = model.core, outputs[0]
    raw = {key: values[0] for key, values in data_batch["inputs"].items()}
    names = sample.metainfo.get("cam_names") or [f"camera {n}" for n in range(len(raw["imgs"]))]
    images = {name: image.permute(1, 2, 0).cpu().numpy() for name, image in zip(names, raw["imgs"], strict=True)}
    found = sample.pred_instances_3d
    truth = sample.gt_instances_3d.bboxes_3d.tensor.cpu() if "gt_instances_3d" in sample else torch.zeros(0, 9)
    mask = None
    if "trajectories" in raw and len(truth):
        mask = trajectory_mask(raw["trajectories"], truth[:, 3:6], raw["bev_aug"], core.grid, sizes_in="bev").numpy()
    boxes = evaluation_picture(
        images,
        {name: lidar2img(raw, n) for n, name in enumerate(names)},
        found.bboxes_3d.tensor.cpu().numpy(),
        found.labels_3d.cpu().numpy(),
        truth.numpy(),
        raw["points"].cpu().numpy() if "points" in raw else None,
        scores=found.scores_3d.cpu().numpy(),
        score_threshold=score_threshold,
        classes=classes,
        x=core.grid.x[:2],
        y=core.grid.y[:2],
        mask=mask,
        title=f"{sample.metainfo.get('scene_token', '')[:8]} frame {sample.metainfo.get('frame_idx', '')}",
    )
    if "lidar_depth" not in raw:
        return boxes, None
    inputs = model.data_preprocessor({"inputs": {k: v[:1] for k, v in data_batch["inputs"].items()}})["inputs"]
    camera = core.lift(inputs).depth_logits.float().softmax(2)
    nearest = block_minimum(inputs["lidar_depth"], core.stride)
    prior = fuse_prior(camera, nearest, core.depth_bins)[0].cpu().numpy()
    bins, camera = core.depth_bins, camera[0].cpu().numpy()
    rows = [
        draw_depth_distribution(
            image,
            expected_depth(camera[n], bins.low, bins.step),
            expected_depth(prior[n], bins.low, bins.step),
            raw["lidar_depth"][n].cpu().numpy(),
            max_depth=bins.high,
        )
        for n, image in enumerate(images.values())
    ]
    return boxes, montage(rows, columns=1)


def lidar2img(raw: dict, camera: int) -> np.ndarray:
    """(4, 4): `lidar` points to (u d, v d, d, 1) of one network image of a sample."""
    pixels = np.eye(4)
    pixels[:3, :3] = raw["img_aug"][camera].double().numpy() @ raw["cam2img"][camera].double().numpy()
    return pixels @ np.linalg.inv(raw["cam2lidar"][camera].double().numpy())
