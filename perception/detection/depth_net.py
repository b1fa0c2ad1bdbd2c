"""Camera-aware depth network: image features and a camera's calibration to a depth distribution and a context map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from perception.detection.layers import BasicBlock, conv_norm_relu

# (centre, scale) of the 27 entries of `camera_vector`, for `FixedStandardisation`: pixels of a 1600x900 image, metres.
_ENTRIES = (
    [(1000, 500), (1000, 500), (800, 400), (450, 200)]  # fx, fy, cx, cy
    + [(0, 1), (0, 1), (0, 200), (0, 1), (0, 1), (0, 200)]  # img_aug
    + [(0, 1)] * 5  # bev_aug
    + [(0, 1)] * 12  # cam2lidar: rotation entries, metres from the LiDAR
)
CAMERA_ENTRIES = len(_ENTRIES)


def camera_vector(cam2img: Tensor, img_aug: Tensor, bev_aug: Tensor, cam2lidar: Tensor) -> Tensor:
    """What the depth network is told about every camera.

    Args: cam2img (B, N, 3, 3) of the original image; img_aug (B, N, 3, 3); bev_aug (B, 4, 4); cam2lidar (B, N, 4, 4).
    Returns: (B, N, 27): fx, fy, cx, cy; a00, a01, tx, a10, a11, ty of img_aug; b00, b01, b10, b11, b22 of bev_aug;
        cam2lidar's upper 3x4 block row by row (the released code has camera to ego here; our BEV frame is the LiDAR's).
    """
    focal = torch.stack([cam2img[..., 0, 0], cam2img[..., 1, 1], cam2img[..., 0, 2], cam2img[..., 1, 2]], -1)
    bev = torch.cat([bev_aug[:, :2, :2].flatten(1), bev_aug[:, 2, 2:3]], -1)
    bev = bev[:, None].expand(-1, cam2img.shape[1], -1)
    return torch.cat([focal, img_aug[..., :2, :].flatten(-2), bev, cam2lidar[..., :3, :].flatten(-2)], -1)


class FixedStandardisation(nn.Module):
    """(v - centre) / scale with constants: (M, 27) -> (M, 27). Does not depend on who else is in the batch."""

    def __init__(self):
        super().__init__()
        centre, scale = torch.tensor(_ENTRIES, dtype=torch.float32).T
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, vector: Tensor) -> Tensor:
        return (vector - self.centre) / self.scale


class CameraGate(nn.Module):
    """Feature times sigmoid gate of the camera vector: (M, C, h, w), (M, 27) -> (M, C, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(CAMERA_ENTRIES, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels)
        )
        self.gate = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1), nn.Sigmoid()
        )

    def forward(self, feature: Tensor, vector: Tensor) -> Tensor:
        return feature * self.gate(self.mlp(vector)[..., None, None])


class ASPP(nn.Module):
    """Parallel dilated convolutions and a global average, merged by a 1x1 convolution: (M, C, h, w) -> the same."""

    def __init__(self, channels: int, dilations: Sequence[int], norm: str, dropout: float = 0.5):
        super().__init__()
        self.branches = nn.ModuleList(
            conv_norm_relu(channels, channels, 1 if d == 1 else 3, dilation=d, norm=norm) for d in dilations
        )
        self.pooled = conv_norm_relu(channels, channels, 1, norm=norm)
        self.merge = conv_norm_relu((len(dilations) + 1) * channels, channels, 1, norm=norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(x.mean((-2, -1), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.dropout(self.merge(torch.cat([*(branch(x) for branch in self.branches), pooled], 1)))


class DepthNet(nn.Module):
    """BEVDepth's camera-aware depth network without its deformable convolution (as in VCD).

    Args: in_channels of the neck; mid_channels inside; context_channels C; depth_bins D; aspp: dilations, () for none;
        num_blocks residual blocks on the depth branch; norm: "BN", "GN" or "SyncBN" (`layers.make_norm`).
        camera_norm: "BN" (released: BatchNorm1d on the 27-vector) or "fixed" (constants); by default "BN" exactly when
        norm is not "GN". The batch norm is a trap with few samples a process: all cameras of a sample share the
        BEV-augmentation entries, so with one sample their batch variance is 0, the running variance follows, and at
        test time a deviation is multiplied by up to 300. Use "fixed" below about 8 samples a process.
    """

    def __init__(
        self,
        in_channels: int = 512,
        mid_channels: int = 512,
        context_channels: int = 80,
        depth_bins: int = 118,
        aspp: Sequence[int] = (1, 6, 12, 18),
        num_blocks: int = 3,
        norm: str = "BN",
        camera_norm: str | None = None,
        dropout: float = 0.5,
    ):
        super().__init__()
        camera_norm = camera_norm or ("fixed" if norm == "GN" else "BN")
        if camera_norm not in ("BN", "fixed"):
            raise ConfigError(f"depth_net.camera_norm={camera_norm!r}: choose BN or fixed")
        self.camera_norm = nn.BatchNorm1d(CAMERA_ENTRIES) if camera_norm == "BN" else FixedStandardisation()
        self.reduce = conv_norm_relu(in_channels, mid_channels, norm=norm)
        self.context_gate = CameraGate(mid_channels)
        self.depth_gate = CameraGate(mid_channels)
        self.context = nn.Conv2d(mid_channels, context_channels, 1)
        self.depth = nn.Sequential(
            *(BasicBlock(mid_channels, mid_channels, norm=norm) for _ in range(num_blocks)),
            *([ASPP(mid_channels, aspp, norm, dropout)] if aspp else []),
            nn.Conv2d(mid_channels, depth_bins, 1),
        )

    def forward(self, feature: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
        """Depth logits and context.

        Args: feature (BN, in_channels, h, w); camera (B, N, 27) or (BN, 27) of `camera_vector`.
        Returns: logits (BN, D, h, w); context (BN, C, h, w).
        """
        camera = camera.reshape(-1, CAMERA_ENTRIES)
        if camera.shape[0] != feature.shape[0]:
            raise ValueError(f"{len(camera)} camera vectors for {len(feature)} feature maps: both must be B * N long")
        camera = self.camera_norm(camera.to(self.context_gate.mlp[0].weight.dtype))
        feature = self.reduce(feature)
        context = self.context(self.context_gate(feature, camera))
        return self.depth(self.depth_gate(feature, camera)), context
