"""Geometry stays in full precision under autocast: half of it would move points and Gaussians by decimetres."""

import pytest
import torch

from perception.detection.grid import GridSpec
from perception.detection.trajectory import point_loss, trajectory_masks

GRID = GridSpec(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8))


@pytest.fixture
def half():
    """bfloat16 autocast; a matrix product shows that it is on."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.eye(3) @ torch.eye(3)).dtype == torch.bfloat16
        yield


def turned(inputs):
    """The batch with image and BEV augmentations that no half float holds."""
    c, s = 1.03 * torch.tensor(0.37).cos(), 1.03 * torch.tensor(0.37).sin()
    inputs["bev_aug"][:, :2, :2] = torch.tensor([[c, -s], [s, c]])
    inputs["img_aug"][..., 0, 2] = -3.7
    inputs["cam2lidar"][..., :3, 3] = torch.tensor([0.313, 1.171, -0.337])
    return inputs


def test_lifted_points_are_the_same(detector, batch, half):
    inputs = turned(batch(0)[0])
    core = detector().eval().core
    with torch.no_grad():
        lifted = core.lift(inputs)
        with torch.autocast("cpu", enabled=False):
            wanted = core.lift(inputs)
    assert lifted.depth_logits.dtype == torch.bfloat16 != wanted.depth_logits.dtype
    assert lifted.points.dtype == torch.float32
    torch.testing.assert_close(lifted.points, wanted.points, rtol=0, atol=0)
    torch.testing.assert_close(lifted.nearest, wanted.nearest, rtol=0, atol=0)


def test_trajectory_masks_and_the_point_losss_places_are_the_same(half):
    bev_aug = torch.eye(4)[None].repeat(2, 1, 1)
    bev_aug[:, :2, :2] = torch.tensor([[0.93, -0.37], [0.37, 0.93]])
    centres = [40 * torch.randn(30, 3, 3), 40 * torch.randn(9, 3, 3)]
    sizes = [1 + 4 * torch.rand(30, 3), 1 + 4 * torch.rand(9, 3)]
    maps = torch.randn(2, 2, 4, 128, 128)
    mask = trajectory_masks(centres, sizes, bev_aug, GRID, sizes_in="lidar")
    loss = point_loss(*maps, centres, bev_aug, GRID)
    with torch.autocast("cpu", enabled=False):
        torch.testing.assert_close(
            mask, trajectory_masks(centres, sizes, bev_aug, GRID, sizes_in="lidar"), rtol=0, atol=0
        )
        torch.testing.assert_close(loss, point_loss(*maps, centres, bev_aug, GRID), rtol=0, atol=0)
    assert mask.sum() > 10 and loss > 0
