"""A detector of a few thousand parameters on two cameras, and random batches for it."""

import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import nn

TASKS = [["car", "truck"], ["pedestrian"]]
IMAGE_HW, STRIDE, CAMERAS, FRAMES = (32, 64), 8, 2, 2


class TinyBackbone(nn.Module):
    """Two maps at strides 8 and 16."""

    def __init__(self, channels=8):
        super().__init__()
        self.first = nn.Conv2d(3, channels, 8, stride=8)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        x = self.first(x).relu()
        return x, self.second(x).relu()


def make_detector(**overrides):
    """A `VCDDetector`; the same seed gives the same weights."""
    from perception.detection.bev_encoder import BEVEncoder, PreFusion
    from perception.detection.depth_net import DepthNet
    from perception.detection.head import CenterHead
    from perception.detection.neck import FinestFPN
    from perception.detection.vcd import VCDDetector

    torch.manual_seed(0)
    frames = overrides.get("history_frames", FRAMES)
    config = dict(
        grid=dict(x=(-16, 16, 1.0), y=(-16, 16, 1.0)),
        depth_bins=dict(low=1.0, high=17.0, step=1.0),
        image_hw=IMAGE_HW,
        stride=STRIDE,
        history_frames=frames,
        image_backbone=TinyBackbone(),
        image_neck=dict(type=FinestFPN, in_channels=(8, 8), out_channels=8),
        depth_net=dict(
            type=DepthNet, in_channels=8, mid_channels=8, context_channels=4, aspp=(), num_blocks=1, norm="GN"
        ),
        pre_fusion=dict(type=PreFusion, channels=4, blocks=1, norm="GN"),
        bev_encoder=dict(
            type=BEVEncoder, in_channels=4 * (frames + 1), stage_channels=(8, 8), blocks=1, neck_channels=8,
            out_channels=8, norm="GN",
        ),
        head=dict(type=CenterHead, in_channels=8, tasks=TASKS, shared_channels=8, branch_channels=8, norm="GN"),
        decoder=dict(score_threshold=0.0, peaks_per_task=20, max_per_task=10),
    )  # fmt: skip
    return VCDDetector(**{**config, **overrides})


def make_batch(seed: int, batch: int = 2, lidar: bool = True, speed: float = 1.0, frame: int = 0):
    """(inputs, data_samples) as the preprocessor hands them over: two cameras, front and back; the ego drives."""
    rng = np.random.default_rng(seed)
    cam2lidar = np.tile(np.eye(4), (CAMERAS, 1, 1))
    cam2lidar[0, :3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]  # looks along +y
    cam2lidar[1, :3, :3] = [[-1, 0, 0], [0, 0, -1], [0, -1, 0]]
    cam2img = np.array([[40.0, 0, 32], [0, 40, 16], [0, 0, 1]])
    lidar2global = np.tile(np.eye(4), (batch, 1, 1))
    lidar2global[:, 1, 3] = 600 + speed * frame

    def repeat(value):
        return torch.tensor(np.tile(value, (batch, *[1] * np.ndim(value))), dtype=torch.float32)

    inputs = dict(
        imgs=torch.tensor(rng.normal(size=(batch, CAMERAS, 3, *IMAGE_HW)), dtype=torch.float32),
        cam2img=repeat(np.tile(cam2img, (CAMERAS, 1, 1))),
        cam2lidar=repeat(cam2lidar),
        img_aug=repeat(np.tile(np.eye(3), (CAMERAS, 1, 1))),
        bev_aug=repeat(np.eye(4)),
        lidar2global=torch.tensor(lidar2global),
        start=torch.zeros(batch, dtype=torch.bool) if frame else torch.ones(batch, dtype=torch.bool),
        trajectories=[],
        trajectories_unaligned=[],
    )
    if lidar:
        depth = rng.uniform(1.5, 16, (batch, CAMERAS, *IMAGE_HW)) * (rng.random((batch, CAMERAS, *IMAGE_HW)) < 0.02)
        inputs["lidar_depth"] = torch.tensor(depth, dtype=torch.float32)
    samples = []
    for _ in range(batch):
        count = 5
        boxes = np.concatenate(
            [rng.uniform(-14, 14, (count, 2)), rng.uniform(-2, 0, (count, 1)), rng.uniform(0.6, 5, (count, 3)),
             rng.uniform(-3, 3, (count, 1)), rng.normal(size=(count, 2))], 1,
        )  # fmt: skip
        truth = InstanceData()
        truth.bboxes_3d = LiDARInstance3DBoxes(torch.tensor(boxes, dtype=torch.float32), box_dim=9)
        truth.labels_3d = torch.tensor(rng.integers(0, 3, count))
        sample = Det3DDataSample()
        sample.gt_instances_3d = truth
        samples.append(sample)
        now = truth.bboxes_3d.gravity_center
        steps = torch.arange(FRAMES + 1.0)[None, :, None]
        inputs["trajectories"].append(now[:, None] - steps * torch.tensor([2.0, 0, 0]))
        inputs["trajectories_unaligned"].append(now[:, None] - steps * torch.tensor([0.0, 3.0, 0]))
    return inputs, samples


@pytest.fixture
def detector():
    return make_detector


@pytest.fixture
def batch():
    return make_batch


@pytest.fixture
def expert_checkpoint(tmp_path):
    """A file with the weights of an expert, and that expert."""
    expert = make_detector(lidar_prior=True)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save({"state_dict": expert.state_dict()}, tmp_path / "expert.pth")
    return tmp_path / "expert.pth", expert
