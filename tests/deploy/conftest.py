"""A small network of the real parts, exported once for every test of this folder."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

# The detector's tests need mmdet3d; the policies' run without.
if not find_spec("mmdet3d"):
    collect_ignore = ["test_bench.py", "test_export.py"]
    names = ("decode", "detector", "geometry", "images", "isolation", "manifest")
    collect_ignore += [f"runtime/test_{name}.py" for name in names]

TASKS = [
    ["car"],
    ["truck", "construction_vehicle"],
    ["bus", "trailer"],
    ["barrier"],
    ["motorcycle", "bicycle"],
    ["pedestrian", "traffic_cone"],
]


class SmallBackbone(nn.Module):
    """Maps at strides 16 and 32."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.coarse = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU())

    def forward(self, x):
        fine = self.fine(x)
        return fine, self.coarse(fine)


def small_detector(history: int = 2, seed: int = 0, **changes):
    """A VCDDetector of a few thousand weights whose batch norms are not at their initial values."""
    from perception.datasets.preprocessor import BEVDataPreprocessor
    from perception.detection.bev_encoder import BEVEncoder, PreFusion
    from perception.detection.decode import DecodeSpec
    from perception.detection.depth_net import DepthNet
    from perception.detection.grid import DepthBins, GridSpec
    from perception.detection.head import CenterHead
    from perception.detection.neck import FinestFPN
    from perception.detection.vcd import VCDDetector

    torch.manual_seed(seed)
    grid = GridSpec(x=(-25.6, 25.6, 0.8), y=(-25.6, 25.6, 0.8))
    bins = DepthBins(low=1.0, high=30.0, step=1.0)
    arguments = dict(
        image_backbone=SmallBackbone(),
        image_neck=FinestFPN([16, 24], 32),
        depth_net=DepthNet(32, 32, 8, bins.count, aspp=(), num_blocks=1, camera_norm="fixed"),
        pre_fusion=PreFusion(8),
        bev_encoder=BEVEncoder((history + 1) * 8, (16, 24, 32), 1, 32, 32),
        head=CenterHead(in_channels=32, tasks=TASKS, grid=grid, shared_channels=16, branch_channels=16),
        grid=grid,
        depth_bins=bins,
        image_hw=(64, 96),
        history_frames=history,
        decoder=DecodeSpec(centre_range=(-30.0, -30.0, -10.0, 30.0, 30.0, 10.0)),
        data_preprocessor=BEVDataPreprocessor(),
    )
    detector = VCDDetector(**{**arguments, **changes})
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for task in detector.core.head.task_heads:  # scores around the threshold, so that there is something to decode
        nn.init.normal_(task.heatmap[-1].weight, std=0.3)
    return detector.eval()


@pytest.fixture(scope="session")
def detector():
    return small_detector()


@pytest.fixture(scope="session")
def onnx_path(detector, tmp_path_factory):
    from deploy.export import export

    path = tmp_path_factory.mktemp("export") / "apprentice.onnx"
    export(detector, path, cameras=3)
    return path


@pytest.fixture(scope="session")
def manifest(detector):
    from deploy.export import describe

    return describe(detector, "apprentice.onnx", rate_hz=2.0)


@pytest.fixture(scope="session")
def rig(manifest):
    from deploy.frames import surround_rig

    return surround_rig(manifest, 3)


@pytest.fixture
def frames(manifest, rig):
    from deploy.frames import drawn_frames

    return list(drawn_frames(manifest, rig, 6))


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def one_thread():
    """Tiny layers lose more to waiting threads than they gain, on a busy machine by far."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small():
    """Builds another small detector."""
    return small_detector
