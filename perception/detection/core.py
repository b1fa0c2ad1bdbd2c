"""The tensor core of the detector: images and geometry in, head outputs and the next BEV history out. Pure PyTorch.

Letters: B batch, N cameras, D depth bins, C channels, h w feature map, P pooled points, K past frames, Y X BEV cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from perception.detection.bev_pool import bev_pool, scatter_pool, sorted_pool
from perception.detection.depth_net import camera_vector
from perception.detection.depth_prior import block_minimum, fuse_prior
from perception.detection.grid import DepthBins, GridSpec
from perception.detection.history import fuse_history, shift_maps
from perception.detection.view_transform import PoolIndex, build_pool_index, frustum, lift_points

# Both sum exactly under several threads (index_add does not, once exported). "sorted" is about four times faster on
# onnxruntime's CPU; "scatter" avoids its float64 running sum, which TensorRT lacks.
EXPORTED_POOLS = {"sorted": sorted_pool, "scatter": scatter_pool}
GEOMETRY = ("cam2img", "cam2lidar", "img_aug", "bev_aug")


class Lifted(NamedTuple):
    """One frame in BEV. bev (B, C, Y, X); depth_logits and depth (B, N, D, h, w), depth after the prior where there is
    one; nearest (B, N, h, w) LiDAR depth per feature pixel, 0 without a point, or None; points the lifted frustum and
    index its pooling index."""

    bev: Tensor
    depth_logits: Tensor
    depth: Tensor
    nearest: Tensor | None
    points: Tensor
    index: PoolIndex


class BEVCore(nn.Module):
    """Camera network of VCD (arXiv 2310.15670): the expert and the apprentice are this same class.

    Args:
        image_backbone: images (BN, 3, H, W) -> tuple of maps at strides 16 and 32.
        image_neck: that tuple -> (BN, C, h, w) at `stride`.
        depth_net, pre_fusion, bev_encoder, head: see their modules.
        image_hw: network image size (H, W), multiples of `stride`.
        history_frames: K; 0 switches the history off for good.
        lidar_prior: True for the expert: LiDAR depth replaces the predicted distribution where a point exists.
        prior_weight: 1 replaces, less mixes.
        rounding, frustum_sampling: "truncate" and "stretched" reproduce the released geometry (docs/vcd.md).
        lift_at: "edge" lifts a depth bin at its lower edge (as released), "middle" at its middle.
    """

    def __init__(
        self,
        *,
        image_backbone: nn.Module,
        image_neck: nn.Module,
        depth_net: nn.Module,
        pre_fusion: nn.Module,
        bev_encoder: nn.Module,
        head: nn.Module,
        grid: GridSpec,
        depth_bins: DepthBins,
        image_hw: tuple[int, int],
        stride: int = 16,
        history_frames: int = 8,
        lidar_prior: bool = False,
        prior_weight: float = 1.0,
        rounding: str = "floor",
        frustum_sampling: str = "block_centre",
        lift_at: str = "edge",
    ):
        super().__init__()
        if any(side % stride for side in image_hw):
            raise ConfigError(f"image_hw is {tuple(image_hw)}; both sides must be multiples of the stride {stride}")
        self.image_backbone, self.image_neck, self.depth_net = image_backbone, image_neck, depth_net
        self.pre_fusion, self.bev_encoder, self.head = pre_fusion, bev_encoder, head
        self.grid, self.depth_bins, self.image_hw, self.stride = grid, depth_bins, tuple(image_hw), stride
        self.history_frames, self.lidar_prior, self.prior_weight = history_frames, lidar_prior, prior_weight
        self.rounding = rounding
        # what decides which point of an image falls into which cell; cores with equal specs may share `lifted_points`
        self.lift_spec = (grid, depth_bins, self.image_hw, stride, rounding, frustum_sampling, lift_at)
        self.exported_pool = "sorted"
        self.register_buffer(
            "frustum", frustum(self.image_hw, stride, depth_bins, frustum_sampling, lift_at), persistent=False
        )

    def image_features(self, images: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, N, 3, H, W), camera (B, N, 27) -> depth logits (B, N, D, h, w), context (B, N, C, h, w)."""
        if images.shape[-2:] != self.image_hw:
            raise ValueError(f"imgs are {tuple(images.shape[-2:])} (H, W), the network was built for {self.image_hw}")
        features = self.image_neck(self.image_backbone(images.flatten(0, 1)))
        logits, context = self.depth_net(features, camera.flatten(0, 1))
        return logits.unflatten(0, images.shape[:2]), context.unflatten(0, images.shape[:2])

    def lift(self, inputs: dict[str, Tensor], geometry: tuple[Tensor, PoolIndex] | None = None) -> Lifted:
        """The current frame in BEV, from the batch of docs/conventions.md. The expert needs `lidar_depth`.

        geometry: the batch's `lifted_points` where a core of the same `lift_spec` has made them already.
        """
        cam2img, cam2lidar, img_aug, bev_aug = (inputs[key] for key in GEOMETRY)
        with torch.autocast(cam2img.device.type, enabled=False):
            camera = camera_vector(cam2img, img_aug, bev_aug, cam2lidar)
        points, index = geometry or self.lifted_points(inputs)
        logits, context = self.image_features(inputs["imgs"], camera)
        nearest = None
        if "lidar_depth" in inputs:
            nearest = block_minimum(inputs["lidar_depth"], self.stride)
        depth = self.depth_distribution(logits, nearest)
        pooled = bev_pool(depth, context.float(), index)
        return Lifted(self.pre_fusion(pooled), logits, depth, nearest, points, index)

    def depth_distribution(self, logits: Tensor, nearest: Tensor | None) -> Tensor:
        """P, or the expert's P~ = m onehot + (1 - m) P, in float32 (B, N, D, h, w)."""
        depth = logits.float().softmax(2)
        if not self.lidar_prior:
            return depth
        if nearest is None:
            raise ValueError("the expert needs inputs['lidar_depth'] (B, N, H, W): load LiDAR in the test pipeline too")
        return fuse_prior(depth, nearest, self.depth_bins, weight=self.prior_weight)

    def encode(self, current: Tensor, history: Tensor, cur2past: Tensor, start: Tensor) -> Tensor:
        """Fuse K past maps (B, K, C, Y, X) with the current one and encode: (B, C', Y, X), the distilled tensor F."""
        if self.history_frames:
            current = fuse_history(current, history, cur2past, start, self.grid)
        return self.bev_encoder(current)

    def forward(
        self,
        images: Tensor,
        camera: Tensor,
        depth_index: Tensor,
        feature_index: Tensor,
        cell_index: Tensor,
        history: Tensor,
        cur2past: Tensor,
        start: Tensor,
    ) -> dict[str, Tensor]:
        """The exported graph: standard operators only, state in and out.

        Args: images (B, N, 3, H, W) normalised; camera (B, N, 27); the three index vectors (P,) of a `PoolIndex`,
        cells ascending; history (B, K, C, Y, X) raw past maps, newest first; cur2past (B, K, 3, 3); start (B,) bool.
        Returns: the head's outputs and `next_history` (B, K, C, Y, X).
        """
        logits, context = self.image_features(images, camera)
        depth = logits.float().softmax(2)
        planes, rows, columns = self.grid.shape
        batch, channels = images.shape[0], context.shape[2]
        cells = EXPORTED_POOLS[self.exported_pool](
            depth.flatten(),
            context.permute(0, 1, 3, 4, 2).reshape(-1, channels),
            depth_index,
            feature_index,
            cell_index,
            batch * planes * rows * columns,
        )
        pooled = cells.reshape(batch, planes, rows, columns, channels).permute(0, 4, 1, 2, 3)
        current = self.pre_fusion(pooled.reshape(batch, channels * planes, rows, columns))
        out = self.head(self.encode(current, history, cur2past, start))
        if self.history_frames:
            out["next_history"] = shift_maps(current, history, start)
        return out

    def pool_index(self, inputs: dict[str, Tensor]) -> PoolIndex:
        """The index of one batch's geometry, as `lift` builds it."""
        return self.lifted_points(inputs)[1]

    def lifted_points(self, inputs: dict[str, Tensor]) -> tuple[Tensor, PoolIndex]:
        """The frustum of one batch in the `bev` frame, (B, N, D, h, w, 3) in metres, and its pooling index."""
        geometry = [inputs[key] for key in GEOMETRY]
        with torch.autocast(self.frustum.device.type, enabled=False):  # half precision would move points by decimetres
            points = lift_points(self.frustum, *geometry)
            return points, build_pool_index(points, self.grid, rounding=self.rounding)
