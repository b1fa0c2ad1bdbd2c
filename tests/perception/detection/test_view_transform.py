"""Frustum, lifting and the pooling index: round trips, cells, rounding, range of the ranks."""

import math
import pickle

import pytest
import torch

from perception.detection.grid import DepthBins, GridSpec
from perception.detection.view_transform import build_pool_index, frustum, lift_points

IMAGE_HW, STRIDE = (256, 704), 16


def rotation(angle, axis=2):
    c, s = math.cos(angle), math.sin(angle)
    i, j = [k for k in range(3) if k != axis]
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def pose(matrix, translation=(0.0, 0.0, 0.0)):
    a2b = torch.eye(4, dtype=torch.float64)
    a2b[:3, :3] = matrix
    a2b[:3, 3] = torch.tensor(translation, dtype=torch.float64)
    return a2b


def ring_rig(cameras=6):
    """cam2img (1, N, 3, 3), cam2lidar (1, N, 4, 4): level cameras around a point 0.3 m below the LiDAR."""
    forward = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)  # x right, y down, z forward
    cam2img = torch.tensor([[1266.0, 0, 816], [0, 1266, 491], [0, 0, 1]], dtype=torch.float64)
    poses = [pose(rotation(2 * math.pi * k / cameras) @ forward, (0.0, 0.5, -0.3)) for k in range(cameras)]
    return cam2img.expand(1, cameras, 3, 3).float(), torch.stack(poses)[None].float()


def real_rig(data_root):
    with open(next((data_root / "nuscenes_keyframe").glob("*.pkl")), "rb") as file:
        cameras = pickle.load(file)["data_list"][0]["images"].values()
    lidar2cam = torch.tensor([camera["lidar2cam"] for camera in cameras], dtype=torch.float64)
    cam2img = torch.tensor([camera["cam2img"] for camera in cameras], dtype=torch.float64)
    return cam2img[None].float(), torch.linalg.inv(lidar2cam)[None].float()


def image_augmentation(angle=0.0, scale=0.44, flip=False):
    """(3, 3): resize, crop the lower 256 rows, flip, turn about the image's middle."""
    crop = torch.tensor([[scale, 0, -3.0], [0, scale, -140.0], [0, 0, 1]], dtype=torch.float64)
    mirror = torch.tensor([[-1.0, 0, 703], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    to_middle = torch.tensor([[1.0, 0, -352], [0, 1, -128], [0, 0, 1]], dtype=torch.float64)
    turn = torch.linalg.inv(to_middle) @ rotation(angle) @ to_middle
    return turn @ (mirror if flip else torch.eye(3, dtype=torch.float64)) @ crop


def check_round_trip(cam2img, cam2lidar):
    N = cam2img.shape[1]
    img_aug = torch.stack([image_augmentation(0.09 * (-1) ** k, 0.4 + 0.03 * k, k % 2 == 1) for k in range(N)])[None]
    bev_aug = (pose(rotation(0.35)) @ torch.diag(torch.tensor([-1.04, 1.04, 1.04, 1], dtype=torch.float64)))[None]
    cam = torch.rand(200, 3, dtype=torch.float64) * torch.tensor([40.0, 20, 58]) + torch.tensor([-20.0, -10, 1])
    for k in range(N):
        homogeneous = torch.cat([cam, torch.ones(200, 1)], 1)
        bev = (bev_aug[0] @ cam2lidar[0, k].double() @ homogeneous.mT).mT[:, :3]
        image = (img_aug[0, k] @ cam2img[0, k].double() @ (cam / cam[:, 2:]).mT).mT
        pixels = torch.cat([image[:, :2], cam[:, 2:]], 1).float().view(1, 1, 200, 3)
        lifted = lift_points(pixels, cam2img[:, k : k + 1], cam2lidar[:, k : k + 1], img_aug[:, k : k + 1], bev_aug)
        assert (lifted.view(200, 3) - bev).norm(dim=1).max() < 1e-4


def test_a_projected_point_is_lifted_back_to_itself_under_all_augmentations():
    check_round_trip(*ring_rig())


def test_a_projected_point_is_lifted_back_to_itself_with_real_calibration(data_root):
    check_round_trip(*real_rig(data_root))


def test_a_feature_pixel_stands_at_the_mean_of_its_blocks_pixels():
    points = frustum(IMAGE_HW, STRIDE, DepthBins())
    assert points.shape == (118, 16, 44, 3)
    blocks = torch.arange(704.0).view(44, 16).mean(1), torch.arange(256.0).view(16, 16).mean(1)
    torch.testing.assert_close(points[7, 5, :, 0], blocks[0])
    torch.testing.assert_close(points[7, :, 9, 1], blocks[1])


def test_stretched_sampling_reaches_both_borders_and_strays_by_half_a_block():
    stretched = frustum(IMAGE_HW, STRIDE, DepthBins(), sampling="stretched")
    torch.testing.assert_close(stretched[0, 0, :, 0], torch.arange(44) * 703 / 43)
    torch.testing.assert_close(stretched[0, :, 0, 1], torch.arange(16) * 17.0)
    gap = (stretched - frustum(IMAGE_HW, STRIDE, DepthBins())).abs().amax((0, 1, 2))
    assert gap.tolist() == pytest.approx([7.5, 7.5, 0])


def test_bins_are_lifted_at_their_lower_edge_or_at_their_middle():
    bins = DepthBins()
    edge, middle = (frustum(IMAGE_HW, STRIDE, bins, lift_at=at)[:, 3, 4, 2] for at in ("edge", "middle"))
    torch.testing.assert_close(edge, 1 + 0.5 * torch.arange(118))
    torch.testing.assert_close(middle, edge + 0.25)


def test_the_index_holds_every_point_in_the_grid_once_and_ascends_in_cells():
    grid = GridSpec(x=(-6.0, 10.0, 0.5), y=(-8.0, 4.0, 1.0), z=(-2.0, 2.0, 1.0))
    points = torch.randn(2, 3, 5, 2, 4, 3) * 5
    index = build_pool_index(points, grid)
    (Z, Y, X), (B, N, D, h, w) = grid.shape, points.shape[:-1]
    expected = set()
    for b, n, d, i, j in torch.cartesian_prod(*(torch.arange(k) for k in (B, N, D, h, w))).tolist():
        x, y, z = (
            math.floor((p - a[0]) / a[2])
            for p, a in zip(points[b, n, d, i, j].tolist(), (grid.x, grid.y, grid.z), strict=True)
        )
        if 0 <= x < X and 0 <= y < Y and 0 <= z < Z:
            camera = b * N + n
            expected.add(
                ((camera * D + d) * h * w + i * w + j, camera * h * w + i * w + j, ((b * Z + z) * Y + y) * X + x)
            )
    triples = list(zip(index.depth.tolist(), index.feature.tolist(), index.cell.tolist(), strict=True))
    assert len(triples) == len(expected) and set(triples) == expected and 0 < len(triples) < points[..., 0].numel()
    assert (index.cell.diff() >= 0).all()
    assert {t.dtype for t in (index.depth, index.feature, index.cell)} == {torch.int64}


def test_offsets_and_feature_order_describe_the_same_triples():
    grid = GridSpec(x=(-4.0, 4.0, 1.0), y=(-4.0, 4.0, 1.0))
    index = build_pool_index(torch.randn(2, 2, 6, 3, 3, 3) * 3, grid)
    for cell in range(index.num_cells):
        assert (index.cell[index.cell_offsets[cell] : index.cell_offsets[cell + 1]] == cell).all()
    assert index.cell_offsets[-1] == index.feature_offsets[-1] == len(index.cell)
    for feature in range(index.num_features):
        rows = index.by_feature[index.feature_offsets[feature] : index.feature_offsets[feature + 1]]
        assert (index.feature[rows] == feature).all()


def single_point_is_kept(point, rounding):
    grid = GridSpec(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8))
    return len(build_pool_index(torch.tensor(point).view(1, 1, 1, 1, 1, 3), grid, rounding).cell) == 1


@pytest.mark.parametrize("point", [(3.0, 4.0, -6.0), (3.0, 4.0, -12.9), (-51.9, 0.0, 0.0), (0.0, -51.3, 0.0)])
def test_a_point_just_below_the_low_edge_is_kept_by_truncation_alone(point):
    assert not single_point_is_kept(point, "floor")
    assert single_point_is_kept(point, "truncate")


@pytest.mark.parametrize(
    "point", [(3.0, 4.0, -13.1), (3.0, 4.0, 3.0), (51.2, 0.0, 0.0), (math.nan, 0.0, 0.0), (0.0, 1e30, 0.0)]
)
def test_a_point_outside_is_dropped_by_either_rounding(point):
    assert not single_point_is_kept(point, "floor") and not single_point_is_kept(point, "truncate")


def test_truncation_pools_a_third_more_points_of_the_real_rig(data_root):
    """The counts of a nuScenes rig: about 275,000 points in some 13,000 cells, at most some hundred in one cell."""
    cam2img, cam2lidar = real_rig(data_root)
    img_aug = torch.tensor([[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]]).expand(1, 6, 3, 3)
    pixels = frustum(IMAGE_HW, STRIDE, DepthBins(), sampling="stretched")
    points = lift_points(pixels, cam2img, cam2lidar, img_aug, torch.eye(4)[None])
    grid = GridSpec(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8))
    floor, truncate = (build_pool_index(points, grid, rounding) for rounding in ("floor", "truncate"))
    assert len(floor.cell) == pytest.approx(275_000, rel=0.03)
    assert len(truncate.cell) / len(floor.cell) == pytest.approx(353 / 275, rel=0.1)
    cells, counts = floor.cell.unique(return_counts=True)
    assert 12_000 < len(cells) < 14_000 and 400 < counts.max() < 700
    assert set(floor.depth.tolist()) < set(truncate.depth.tolist())


@pytest.mark.parametrize("side", [8192, 65536])
def test_ranks_beyond_float32_and_int32_are_exact(side):
    grid = GridSpec(x=(0.0, float(side), 1.0), y=(0.0, float(side), 1.0))
    cells = torch.tensor([[side - 1, side - 1], [side - 2, side - 1], [side - 1, side - 2], [1, side // 2 + 1]])
    points = torch.cat([cells + 0.5, torch.zeros(4, 1)], 1).view(1, 1, 4, 1, 1, 3)
    index = build_pool_index(points, grid)
    assert index.cell.tolist() == sorted((cells[:, 1] * side + cells[:, 0]).tolist())
    assert index.num_cells == side * side > 2**24


def test_bad_arguments_name_the_argument_and_the_choice():
    with pytest.raises(ValueError, match=r"image_hw is \(250, 704\), stride 16"):
        frustum((250, 704), 16, DepthBins())
    with pytest.raises(ValueError, match="sampling is 'centre': choose 'block_centre' or 'stretched'"):
        frustum(IMAGE_HW, 16, DepthBins(), sampling="centre")
    with pytest.raises(ValueError, match="lift_at is 'top'"):
        frustum(IMAGE_HW, 16, DepthBins(), lift_at="top")
    with pytest.raises(ValueError, match="rounding is 'round'"):
        build_pool_index(torch.zeros(1, 1, 1, 1, 1, 3), GridSpec(x=(0.0, 1.0, 1.0), y=(0.0, 1.0, 1.0)), "round")
    cam2img, cam2lidar = ring_rig(2)
    with pytest.raises(ValueError, match=r"img_aug is \(1, 2, 4, 4\), wanted \(1, 2, 3, 3\)"):
        lift_points(torch.zeros(1, 1, 1, 3), cam2img, cam2lidar, torch.zeros(1, 2, 4, 4), torch.eye(4)[None])
