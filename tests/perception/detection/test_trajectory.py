import math
from itertools import pairwise

import pytest
import torch

from perception.detection.grid import GridSpec
from perception.detection.trajectory import (
    point_loss,
    standardise,
    trajectory_loss,
    trajectory_mask,
    trajectory_masks,
)

GRID = GridSpec(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8))
SMALL = GridSpec(x=(-8.0, 8.0, 1.0), y=(-6.0, 6.0, 1.0))
EYE = torch.eye(4)
CAR = torch.tensor([[4.6, 1.9, 1.7]])


def pose(x, y, yaw):
    """lidar2global (4, 4) float64."""
    c, s = math.cos(yaw), math.sin(yaw)
    rows = [[c, -s, 0, x + 600], [s, c, 0, y + 1500], [0, 0, 1, 1.8], [0, 0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def carried(paths, poses, aligned=True):
    """Global centres (Q, T, 3) at t, t-1, ... in the current lidar frame, or each left in its own past frame."""
    out = []
    for k in range(paths.shape[1]):
        global2lidar = torch.linalg.inv(poses[0] if aligned else poses[k])
        out.append(paths[:, k] @ global2lidar[:3, :3].T + global2lidar[:3, 3])
    return torch.stack(out, 1).float()


def aug(yaw=0.3, scale=1.04, flip_x=True):
    c, s = scale * math.cos(yaw), scale * math.sin(yaw)
    f = -1 if flip_x else 1
    return torch.tensor([[f * c, -f * s, 0, 0], [s, c, 0, 0], [0, 0, scale, 0], [0, 0, 0, 1]], dtype=torch.float32)


def peaks(mask):
    """(y, x) of the cells where an object was drawn."""
    return {tuple(p) for p in (mask == 1).nonzero().tolist()}


EGO = [pose(-5.0 * k, 0.4 * k * k, 0.03 * k) for k in range(5)]  # 10 m/s at 2 Hz, turning


def parked(times=5):
    """Three static objects, (3, T, 3) global."""
    places = torch.tensor([[12.0, 5.0, 0.0], [-20.0, -13.0, 0.0], [9.0, -30.0, 0.0]], dtype=torch.float64)
    return (places + EGO[0][:3, 3])[:, None].expand(3, times, 3)


def test_a_static_object_draws_one_gaussian_however_many_frames_are_fused():
    sizes = CAR.repeat(3, 1)
    masks = [trajectory_mask(carried(parked(t), EGO), sizes, aug(), GRID, sizes_in="lidar") for t in (1, 3, 5)]
    assert len(peaks(masks[0])) == 3
    for mask in masks[1:]:
        torch.testing.assert_close(mask, masks[0], atol=0, rtol=0)


def test_unaligned_centres_smear_a_static_object_under_ego_motion():
    sizes = CAR.repeat(3, 1)
    one = trajectory_mask(carried(parked(1), EGO), sizes, aug(), GRID, sizes_in="lidar")
    released = trajectory_mask(carried(parked(), EGO, aligned=False), sizes, aug(), GRID, sizes_in="lidar")
    assert len(peaks(released)) >= 11  # up to 15 places instead of 3; some leave the grid
    assert (released > 0).sum() > 3 * (one > 0).sum()


def test_a_moving_object_leaves_one_blob_per_frame_spaced_by_its_own_motion():
    velocity, times = torch.tensor([9.6, 0.0, 0.0], dtype=torch.float64), 5  # 4.8 m = 6 cells every 0.5 s
    place = EGO[0][:3, 3] + torch.tensor([10.0, 20.3, 0.0])
    path = torch.stack([place - 0.5 * k * velocity for k in range(times)])[None]
    ego = [EGO[0] @ torch.linalg.inv(pose(0, 0, 0)) @ pose(-5.0 * k, 0, 0.02 * k) for k in range(times)]
    ego[0] = EGO[0]
    mask = trajectory_mask(carried(path, ego), CAR, EYE, GRID, sizes_in="lidar")
    columns = sorted(x for _, x in peaks(mask))
    assert len({y for y, _ in peaks(mask)}) == 1
    assert len(columns) == times and {b - a for a, b in pairwise(columns)} == {6}


def center_head(grid):
    from mmdet3d.models.dense_heads import CenterHead
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet3d")
    _, rows, columns = grid.shape
    low_high = [grid.x[0], grid.y[0], -5.0, grid.x[1], grid.y[1], 3.0]
    cell = [grid.x[2], grid.y[2], 8.0]
    tasks = [dict(num_class=1, class_names=["car"]), dict(num_class=2, class_names=["truck", "bus"])]
    return CenterHead(
        in_channels=8,
        share_conv_channel=8,
        tasks=tasks,
        common_heads=dict(reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2), vel=(2, 2)),
        bbox_coder=dict(
            type="CenterPointBBoxCoder", pc_range=low_high, voxel_size=cell[:2], out_size_factor=1, code_size=9
        ),
        separate_head=dict(type="SeparateHead", init_bias=-2.19, final_kernel=3),
        loss_cls=dict(type="mmdet.GaussianFocalLoss", reduction="mean"),
        loss_bbox=dict(type="mmdet.L1Loss", reduction="mean", loss_weight=0.25),
        train_cfg=dict(
            point_cloud_range=low_high,
            grid_size=[columns, rows, 1],
            voxel_size=cell,
            out_size_factor=1,
            dense_reg=1,
            gaussian_overlap=0.1,
            max_objs=500,
            min_radius=2,
            code_weights=[1.0] * 10,
        ),
    )


@pytest.mark.parametrize("cell", [0.8, 0.4])
def test_with_no_past_frame_the_mask_is_the_maximum_of_center_heads_targets(cell):
    from mmdet3d.structures import LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    grid = GridSpec(x=(-51.2, 51.2, cell), y=(-25.6, 25.6, cell))
    g = torch.Generator().manual_seed(0)
    instances, centers, sizes, augs = [], [], [], []
    for b in range(2):
        boxes = torch.zeros(40, 9)
        boxes[:, 0] = torch.rand(40, generator=g) * 110 - 50  # right of the low edge: CenterHead truncates there
        boxes[:, 1] = torch.rand(40, generator=g) * 60 - 25
        boxes[:, 3:6] = torch.rand(40, 3, generator=g) * torch.tensor([14.0, 3.0, 3.0]) + 0.3
        boxes[:, 6] = torch.rand(40, generator=g)
        augs.append(aug(yaw=0.2 * b, scale=1 + 0.03 * b, flip_x=bool(b)))
        centers.append(((boxes[:, :3]) @ torch.linalg.inv(augs[b])[:3, :3].T)[:, None])
        sizes.append(boxes[:, 3:6])
        instances.append(
            InstanceData(
                bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9), labels_3d=torch.randint(0, 3, (40,), generator=g)
            )
        )
    heatmaps, *_ = center_head(grid).get_targets(instances)
    wanted = torch.cat(heatmaps, 1).amax(1, keepdim=True)
    got = trajectory_masks(centers, sizes, torch.stack(augs), grid, sizes_in="bev")
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    assert 40 < (wanted == 1).sum() < 80  # some lie outside and draw nothing


def test_sizes_of_the_lidar_frame_are_scaled_by_the_augmentation():
    centers, sizes, scaled = torch.zeros(1, 1, 3), torch.tensor([[10.0, 6.0, 3.0]]), aug(scale=2.0)
    a = trajectory_mask(centers, sizes, scaled, GRID, sizes_in="lidar")
    b = trajectory_mask(centers, 2 * sizes, scaled, GRID, sizes_in="bev")
    assert torch.equal(a, b) and a.sum() > trajectory_mask(centers, sizes, scaled, GRID, sizes_in="bev").sum()


def test_missing_and_outside_centres_draw_nothing():
    nan = torch.full((1, 1, 3), torch.nan)
    edge = torch.tensor([[[-51.2 - 1e-3, 0.0, 0.0]]])
    assert trajectory_mask(nan, CAR, EYE, GRID, sizes_in="bev").sum() == 0
    assert trajectory_mask(edge, CAR, EYE, GRID, sizes_in="bev").sum() == 0  # truncation would put it into cell 0
    assert trajectory_mask(edge + 2e-3, CAR, EYE, GRID, sizes_in="bev").max() == 1
    assert trajectory_mask(torch.zeros(1, 1, 3), torch.zeros(1, 3), EYE, GRID, sizes_in="bev").sum() == 0
    assert trajectory_mask(torch.zeros(0, 9, 3), torch.zeros(0, 3), EYE, GRID, sizes_in="bev").sum() == 0
    both = torch.cat([nan, torch.zeros(1, 1, 3)], 1)
    assert len(peaks(trajectory_mask(both, CAR, EYE, GRID, sizes_in="bev"))) == 1


def test_the_samples_of_a_batch_do_not_mix():
    centers = [torch.zeros(1, 2, 3), torch.zeros(0, 2, 3), torch.full((2, 2, 3), 20.0)]
    sizes = [CAR, torch.zeros(0, 3), CAR.repeat(2, 1)]
    augs = torch.stack([EYE, EYE, aug()])
    got = trajectory_masks(centers, sizes, augs, GRID, sizes_in="bev")
    assert got.shape == (3, 1, 128, 128) and got[1].sum() == 0
    for b in range(3):
        assert torch.equal(got[b, 0], trajectory_mask(centers[b], sizes[b], augs[b], GRID, sizes_in="bev"))


def maps(seed=0, batch=2, channels=4, grid=SMALL, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, batch, channels, *grid.shape[1:], generator=g, dtype=dtype)
    return student, 3 * teacher + 5


def box_mask(batch=2):
    mask = torch.zeros(batch, 1, *SMALL.shape[1:], dtype=torch.float64)
    mask[:, :, 3:6, 4:9] = torch.rand(batch, 1, 3, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return mask


def test_the_loss_is_its_formula():
    student, teacher = maps()
    mask = box_mask()
    mean, std = teacher.mean((0, 2, 3)), (teacher.var((0, 2, 3), correction=0) + 1e-5).sqrt()
    normal = (teacher - mean[:, None, None]) / std[:, None, None]
    wanted = (mask**2 * (student - normal) ** 2).sum() / mask.sum()
    assert trajectory_loss(student, teacher, mask).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_twice_the_mask_is_twice_the_loss():
    student, teacher = maps()
    loss = trajectory_loss(student, teacher, box_mask())
    assert trajectory_loss(student, teacher, 2 * box_mask()).item() == pytest.approx(2 * loss.item(), rel=1e-12)


def test_samples_without_objects_enter_the_loss_only_through_the_teachers_statistics():
    student, teacher = maps()
    more_student, more_teacher = torch.cat([student, student.flip(0)]), torch.cat([teacher, teacher.flip(0)])
    mask = torch.cat([box_mask(), torch.zeros_like(box_mask())])
    loss = trajectory_loss(student, teacher, box_mask())  # the added teacher maps have the same statistics
    assert trajectory_loss(more_student, more_teacher, mask).item() == pytest.approx(loss.item(), rel=1e-12)


def test_the_student_gets_no_gradient_outside_the_mask_and_the_teacher_none_at_all():
    student, teacher = (x.requires_grad_() for x in maps())
    mask = box_mask()
    trajectory_loss(student, teacher, mask).backward()
    outside = (mask == 0).expand_as(student)
    assert torch.count_nonzero(student.grad[outside]) == 0 and (student.grad[~outside] != 0).all()
    assert teacher.grad is None


def test_an_empty_mask_costs_nothing_and_still_has_a_gradient_of_zero():
    student, teacher = maps()
    loss = trajectory_loss(student.requires_grad_(), teacher, torch.zeros_like(box_mask()))
    loss.backward()
    assert loss == 0 and torch.count_nonzero(student.grad) == 0


def test_a_student_equal_to_its_teacher_has_a_loss_unless_it_is_standardised_too():
    _, teacher = maps()
    assert trajectory_loss(teacher, teacher, box_mask()) > 1
    assert trajectory_loss(standardise(teacher), teacher, box_mask()) == 0


def test_standardised_channels_have_mean_0_and_variance_1_and_a_constant_channel_stays_finite():
    _, teacher = maps(dtype=torch.float32)
    teacher[:, 0] = 7
    normal = standardise(teacher)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(normal[:, 1:].var((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert normal[:, 0].abs().max() == 0


def test_half_precision_maps_are_compared_in_float32():
    student, teacher = maps(dtype=torch.float32)
    half, mask = (student.half(), 300 * teacher.half()), box_mask().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = trajectory_loss(*half, mask)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(trajectory_loss(*(x.double() for x in half), mask.double()).item(), rel=1e-3)


CELLS = [(1, 2), (10, 14), (0, 15), (11, 0)]  # (y, x), corners of the grid among them


def cell_centres(cells, grid=SMALL):
    return torch.tensor(
        [[[grid.x[0] + (x + 0.5) * grid.x[2], grid.y[0] + (y + 0.5) * grid.y[2], 0.7]] for y, x in cells]
    )


@pytest.mark.parametrize("flip", [False, True])
def test_the_point_form_equals_the_mask_form_for_single_cells(flip):
    student, teacher = maps()
    mask = torch.zeros_like(box_mask())
    for y, x in CELLS:
        mask[:, 0, y, x] = 1
    bev_aug = torch.diag(torch.tensor([-1.0 if flip else 1.0, 1, 1, 1]))
    centers = [cell_centres(CELLS) @ bev_aug[:3, :3].T] * 2  # the flip is its own inverse
    got = point_loss(student, teacher, centers, bev_aug.expand(2, 4, 4), SMALL)
    # float32 centres in metres: positions to 1e-6 cells
    assert got.item() == pytest.approx(trajectory_loss(student, teacher, mask).item(), rel=1e-5)


def test_the_point_form_weighs_objects_equally_and_skips_what_is_missing_or_outside():
    student, teacher = maps(batch=1)
    centers = cell_centres([(3, 4), (3, 4), (8, 9)]).repeat(1, 3, 1)
    centers[0, 1:] = torch.nan  # seen once
    centers[1, :] = 100.0  # outside at all times
    difference = (student - standardise(teacher)).square().sum(1)[0]
    wanted = (difference[3, 4] + difference[8, 9]) / 2
    assert point_loss(student, teacher, [centers], EYE[None], SMALL).item() == pytest.approx(wanted.item(), rel=1e-5)
    none = [torch.zeros(0, 3, 3)]
    assert point_loss(student.requires_grad_(), teacher, none, EYE[None], SMALL).item() == 0
    assert point_loss(student, teacher, [centers[1:2]], EYE[None], SMALL).item() == 0


def test_the_point_form_interpolates_between_cell_centres():
    student, teacher = maps(batch=1)
    between = cell_centres([(3, 4)]) + torch.tensor([0.25, 0.5, 0.0])
    d = (student - standardise(teacher))[0]
    mixed = 0.5 * (0.75 * d[:, 3, 4] + 0.25 * d[:, 3, 5]) + 0.5 * (0.75 * d[:, 4, 4] + 0.25 * d[:, 4, 5])
    got = point_loss(student, teacher, [between], EYE[None], SMALL)
    assert got.item() == pytest.approx(mixed.square().sum().item(), rel=1e-5)


def test_a_frozen_batch_norm_teacher_does_not_change_while_the_student_trains():
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4)).eval()
    student = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4)).train()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    optimizer, losses = torch.optim.SGD(student.parameters(), 0.1), []
    images = torch.randn(2, 3, *SMALL.shape[1:])
    for _ in range(60):
        loss = trajectory_loss(student(images), teacher(images), box_mask().float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_wrong_shapes_are_named():
    student, teacher = maps()
    with pytest.raises(ValueError, match="same grid"):
        trajectory_loss(student, teacher[..., :-1], box_mask())
    with pytest.raises(ValueError, match="mask is"):
        trajectory_loss(student, teacher, box_mask()[:, 0])
    with pytest.raises(ValueError, match="sample 0: centers"):
        trajectory_mask(torch.zeros(2, 3), CAR, EYE, GRID, sizes_in="bev")
    with pytest.raises(ValueError, match="'bev' or 'lidar'"):
        trajectory_mask(torch.zeros(1, 1, 3), CAR, EYE, GRID, sizes_in="ego")
    with pytest.raises(ValueError, match="same number"):
        point_loss(student, teacher, [torch.zeros(1, 1, 3), torch.zeros(1, 2, 3)], EYE.expand(2, 4, 4), SMALL)
