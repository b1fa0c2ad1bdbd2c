"""Occupancy reconstruction: mass, place, mask, loss."""

import math

import pytest
import torch

from perception.detection.grid import DepthBins, GridSpec
from perception.detection.occupancy import (
    occupancy_loss,
    occupancy_mask,
    occupancy_volume,
    squash,
)
from perception.detection.view_transform import build_pool_index, frustum, lift_points

GRID = GridSpec(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 1.0))
BINS = DepthBins(low=1.0, high=31.0, step=0.5)
IMAGE_HW = (64, 96)


def lift(pixels=None):
    """Two cameras, looking along +x and -y of the `lidar` frame: points (1, 2, 60, 4, 6, 3)."""
    cam2lidar = torch.eye(4).repeat(1, 2, 1, 1)
    cam2lidar[0, 0, :3, :3] = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    cam2lidar[0, 1, :3, :3] = torch.tensor([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]])
    cam2img = torch.tensor([[200.0, 0, 47], [0, 200, 33], [0, 0, 1]]).expand(1, 2, 3, 3)
    identity = torch.eye(3).expand(1, 2, 3, 3)
    pixels = frustum(IMAGE_HW, 16, BINS) if pixels is None else pixels
    return lift_points(pixels, cam2img, cam2lidar, identity, torch.eye(4)[None])


def cells_of(*points, grid=GRID):
    return grid.cells(torch.tensor(points))[0].tolist()


def box(x, y, z=-1.0, l=4.0, w=2.0, h=1.6):
    return [x, y, z, l, w, h, 0.3, 0.0, 0.0]


def mask_of(*boxes, grid=GRID):
    return occupancy_mask([torch.tensor(boxes)], grid)[0]


def test_the_volume_sums_to_one_per_feature_pixel_when_the_grid_covers_everything():
    covering = GridSpec(x=(-64.0, 64.0, 2.0), y=(-64.0, 64.0, 4.0), z=(-32.0, 32.0, 2.0))
    points = lift()
    depth = torch.randn(points.shape[:-1], dtype=torch.float64).softmax(2)
    volume = occupancy_volume(depth, build_pool_index(points, covering), covering)
    assert volume.shape == (1, 32, 32, 64)
    assert volume.sum().item() == pytest.approx(2 * 4 * 6)


def test_a_one_hot_pixel_fills_the_one_voxel_of_its_point():
    points = lift()
    index = build_pool_index(points, GRID)
    for n, i, j, k in [(0, 0, 0, 30), (1, 3, 5, 12), (0, 2, 4, 3)]:
        depth = torch.zeros(points.shape[:-1])
        depth[0, n, k, i, j] = 1
        volume = occupancy_volume(depth, index, GRID)
        assert volume.nonzero().tolist() == [[0, *cells_of(points[0, n, k, i, j].tolist())[0]]]
        assert volume.sum() == 1


def test_volume_and_mask_put_an_object_at_x_20_y_minus_5_into_the_same_voxel():
    pixels = frustum(IMAGE_HW, 16, BINS)
    pixels[..., 0], pixels[..., 1] = 47 + 200 * 5 / 20, 33 + 200 * 1 / 20  # right of and below the axis of camera 0
    points = lift(pixels)
    depth = torch.zeros(points.shape[:-1])
    depth[0, 0, 38, 0, 0] = 1  # 20 m
    torch.testing.assert_close(points[0, 0, 38, 0, 0], torch.tensor([20.0, -5.0, -1.0]), rtol=0, atol=1e-4)
    # A hair inside the cell, since 20 m and 1 m lie on cell borders
    volume = occupancy_volume(depth, build_pool_index(points + 0.01, GRID), GRID)[0]
    mask = mask_of(box(20.01, -4.99, -0.99))
    assert volume.nonzero().tolist() == (mask == 1).nonzero().tolist() == cells_of((20.01, -4.99, -0.99))


def test_the_gradient_of_the_volume_is_one_at_every_bin_inside():
    points = lift()
    depth = torch.rand(points.shape[:-1], requires_grad=True)
    occupancy_volume(depth, build_pool_index(points, GRID), GRID).sum().backward()
    _, inside = GRID.cells(points)
    assert 0 < inside.sum() < inside.numel()
    torch.testing.assert_close(depth.grad, inside.float())


def test_squashed_occupancy_lies_between_zero_and_a_half():
    values = squash(torch.linspace(0, 12, 50))
    assert values[0] == 0 and (values.diff() > 0).all() and values[-1] < 0.5
    assert squash(torch.tensor(math.log(3.0))).item() == pytest.approx(0.25)


def test_objects_in_all_four_quadrants_have_their_own_peak():
    places = [(20.1, 5.1), (-20.3, 5.1), (20.1, -30.3), (-20.3, -30.3)]
    mask = mask_of(*[box(x, y) for x, y in places])
    assert sorted((mask == 1).nonzero().tolist()) == sorted(cells_of(*[(x, y, -1.0) for x, y in places]))


def test_the_mask_is_the_maximum_of_windowed_gaussians():
    """Against loops. A cube of side s has CenterHead's radius s (sqrt(1.6) - 0.4) / 2 at overlap 0.1."""
    grid = GridSpec(x=(-8.0, 12.0, 0.5), y=(-6.0, 6.0, 1.0), z=(-5.0, 3.0, 1.0))
    boxes = [box(-7.2, 5.3, -0.2, 10, 10, 10), box(3.3, 0.4, -4.6, 1, 1, 1), box(5.1, 1.4, 0.3, 10, 10, 10)]
    want = torch.zeros(grid.shape)
    for x, y, z, side, *_ in boxes:
        metres = side * (math.sqrt(1.6) - 0.4) / 2
        radius = [max(2, int(metres / axis[2])) for axis in (grid.z, grid.y, grid.x)]
        centre = [
            math.floor((p - axis[0]) / axis[2]) for p, axis in zip((z, y, x), (grid.z, grid.y, grid.x), strict=True)
        ]
        for cell in torch.cartesian_prod(*(torch.arange(n) for n in grid.shape)).tolist():
            offset = [a - b for a, b in zip(cell, centre, strict=True)]
            if all(abs(o) <= r for o, r in zip(offset, radius, strict=True)):
                value = math.exp(-sum(o**2 / (2 * ((2 * r + 1) / 6) ** 2) for o, r in zip(offset, radius, strict=True)))
                want[tuple(cell)] = max(want[tuple(cell)].item(), value)
    torch.testing.assert_close(mask_of(*boxes, grid=grid), want, rtol=1e-5, atol=1e-7)


def test_a_flat_long_box_takes_the_larger_vertical_radius():
    mask = mask_of(box(0.1, 0.1, -1.0, 30, 1, 12))
    z, y, x = cells_of((0.1, 0.1, -1.0))[0]
    # (l, h) = (30, 12) m gives 7 cells of 1 m, which reaches both ends; (w, h) = (1, 12) would end after 2
    assert (mask[:, y, x] > 0).all()
    assert (mask[z, y] > 0).sum() == 5  # (l, w) = (30, 1): the smallest radius, 2 cells


def test_an_object_centred_outside_the_grid_draws_nothing():
    assert not mask_of(box(51.3, 0.0), box(0.0, -60.0), box(0.0, 0.0, 3.1)).any()


def test_each_sample_draws_its_own_objects_and_may_have_none():
    first, second = torch.tensor([box(10.0, 10.0)]), torch.tensor([box(-30.0, 4.0), box(7.0, -7.0)])
    masks = occupancy_mask([first, first[:0], second], GRID)
    torch.testing.assert_close(masks[0], mask_of(*first.tolist()))
    torch.testing.assert_close(masks[2], mask_of(*second.tolist()))
    assert not masks[1].any()


def test_equal_depth_has_no_loss_and_other_depth_has():
    points = lift()
    index = build_pool_index(points, GRID)
    volume = occupancy_volume(torch.rand(points.shape[:-1]).softmax(2), index, GRID)
    other = occupancy_volume(torch.randn(points.shape[:-1]).softmax(2), index, GRID)
    mask = mask_of(box(10.0, 0.0))[None]
    assert occupancy_loss(volume, volume, mask) == 0
    want = (mask * (torch.sigmoid(volume) - torch.sigmoid(other)).abs()).sum() / mask.sum()
    assert occupancy_loss(volume, other, mask).item() == pytest.approx(want.item()) and want > 0


def test_an_empty_mask_has_zero_loss_and_finite_zero_gradients():
    student = torch.rand(1, 2, 3, 4, requires_grad=True)
    loss = occupancy_loss(student, torch.rand(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
    loss.backward()
    assert loss == 0 and (student.grad == 0).all()


def test_the_teacher_gets_no_gradient_and_the_scale_of_the_mask_does_not_matter():
    student, teacher = torch.rand(2, 1, 2, 3, 4).unbind()
    mask, teacher = torch.rand(1, 2, 3, 4), teacher.requires_grad_()
    loss = occupancy_loss(student.requires_grad_(), teacher, mask)
    loss.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    assert occupancy_loss(student, teacher, 3 * mask).item() == pytest.approx(loss.item())


def test_the_gradient_with_respect_to_depth_logits_matches_finite_differences():
    points = torch.rand(1, 1, 4, 2, 2, 3) * 6 - 3
    grid = GridSpec(x=(-3.0, 3.0, 1.5), y=(-3.0, 3.0, 3.0), z=(-3.0, 3.0, 3.0))
    index = build_pool_index(points, grid)
    logits = torch.randn(1, 1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = occupancy_volume(torch.randn_like(logits).softmax(2), index, grid)
    mask = torch.rand(teacher.shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: occupancy_loss(occupancy_volume(x.softmax(2), index, grid), teacher, mask), logits
    )


def test_mismatched_volumes_and_grids_are_named():
    points = lift()
    index = build_pool_index(points, GRID)
    with pytest.raises(ValueError, match=r"the index wants \(1, 2, 60, 4, 6\)"):
        occupancy_volume(torch.zeros(1, 2, 59, 4, 6), index, GRID)
    with pytest.raises(ValueError, match="build it with build_pool_index"):
        occupancy_volume(torch.zeros(points.shape[:-1]), index, GridSpec(x=(0.0, 1.0, 1.0), y=(0.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match=r"mask \(1, 1, 2, 3\)"):
        occupancy_loss(torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3), torch.zeros(1, 1, 2, 3))
