"""Our CenterHead and decoder against mmdet3d's."""

import numpy as np
import pytest
import torch
from mmdet3d.models.dense_heads import CenterHead as StockHead
from mmdet3d.models.task_modules.coders import CenterPointBBoxCoder
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from common.errors import ConfigError
from perception.detection.decode import DecodeSpec, circle_nms, decode, peaks, scale_nms
from perception.detection.grid import GridSpec
from perception.detection.head import BRANCHES, CenterHead

GRID = GridSpec(x=(-51.2, 51.2, 1.6), y=(-51.2, 51.2, 1.6))
TASKS = [["car", "truck"], ["barrier"], ["pedestrian", "traffic_cone"]]
RANGE = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]


def stock_head(in_channels=8):
    return StockHead(
        in_channels=in_channels,
        tasks=[dict(num_class=len(t), class_names=t) for t in TASKS],
        bbox_coder=dict(
            type="mmdet3d.CenterPointBBoxCoder", pc_range=RANGE[:2], voxel_size=[1.6, 1.6], out_size_factor=1,
            post_center_range=[-61.2, -61.2, -10, 61.2, 61.2, 10], max_num=50, score_threshold=0.1, code_size=9,
        ),
        common_heads={name: (size, 2) for name, size in BRANCHES.items()},
        loss_cls=dict(type="mmdet.GaussianFocalLoss", reduction="mean"),
        loss_bbox=dict(type="mmdet.L1Loss", reduction="mean", loss_weight=0.25),
        separate_head=dict(type="mmdet3d.SeparateHead", init_bias=-2.19, final_kernel=3, head_conv=16),
        share_conv_channel=16,
        train_cfg=dict(
            grid_size=[64, 64, 1], voxel_size=[1.6, 1.6, 8], point_cloud_range=RANGE, out_size_factor=1,
            dense_reg=1, gaussian_overlap=0.1, max_objs=500, min_radius=2, code_weights=[1.0] * 10,
        ),
        test_cfg=dict(nms_type="rotate"),
    )  # fmt: skip


def our_head(in_channels=8, **kwargs):
    return CenterHead(in_channels=in_channels, tasks=TASKS, grid=GRID, shared_channels=16, branch_channels=16, **kwargs)


def some_boxes(rng, count):
    """(Q, 9) with the bottom centre, inside the grid, and labels."""
    boxes = np.concatenate(
        [
            rng.uniform(-50, 50, (count, 2)), rng.uniform(-2, 0, (count, 1)), rng.uniform(0.4, 11, (count, 3)),
            rng.uniform(-3, 3, (count, 1)), rng.normal(0, 3, (count, 2)),
        ], 1,
    )  # fmt: skip
    return torch.tensor(boxes, dtype=torch.float32), torch.tensor(rng.integers(0, 5, count))


@pytest.fixture
def heads():
    torch.manual_seed(0)
    stock, ours = stock_head(), our_head()
    ours.load_state_dict(stock.state_dict())
    return stock.eval(), ours.eval()


def instances(boxes, labels):
    data = InstanceData()
    data.bboxes_3d, data.labels_3d = LiDARInstance3DBoxes(boxes, box_dim=9), labels
    return data


def gravity(boxes):
    box = LiDARInstance3DBoxes(boxes, box_dim=9)
    return torch.cat([box.gravity_center, box.tensor[:, 3:]], 1)


def test_parameter_names_are_those_of_mmdet3d_and_outputs_agree(heads):
    stock, ours = heads
    bev = torch.randn(2, 8, 64, 64)
    theirs, out = stock([bev]), ours(bev)
    first = 0
    for t, task in enumerate(TASKS):
        torch.testing.assert_close(out["heatmap"][:, first : first + len(task)], theirs[t][0]["heatmap"])
        first += len(task)
        for name in BRANCHES:
            torch.testing.assert_close(out[name][:, t], theirs[t][0][name])


def test_targets_and_losses_equal_mmdet3d(heads):
    stock, ours = heads
    rng = np.random.default_rng(3)
    batch = [some_boxes(rng, 30), some_boxes(rng, 1), (torch.zeros(0, 9), torch.zeros(0, dtype=torch.long))]
    bev = torch.randn(3, 8, 64, 64)
    targets = ours.targets([gravity(b) for b, _ in batch], [label for _, label in batch])
    heatmaps, *_ = stock.get_targets([instances(b, label) for b, label in batch])
    torch.testing.assert_close(targets.heatmap, torch.cat(heatmaps, 1), atol=1e-6, rtol=0)
    theirs = stock.loss_by_feat(stock([bev]), [instances(b, label) for b, label in batch])
    mine = ours.loss(ours(bev), targets)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-5)


def test_an_unknown_velocity_counts_nothing_and_spoils_nothing():
    head, bev = our_head().eval(), torch.randn(1, 8, 64, 64)
    boxes, labels = some_boxes(np.random.default_rng(0), 6)
    out = head(bev)
    known = head.loss(out, head.targets([gravity(boxes)], [labels]))
    blind = boxes.clone()
    blind[:, 7:] = torch.nan
    without = head.loss(out, head.targets([gravity(blind)], [labels]))
    head.code_weights = (1.0,) * 8 + (0.0,) * 2
    masked = head.loss(out, head.targets([gravity(boxes)], [labels]))
    assert without["task0.loss_bbox"] < known["task0.loss_bbox"]
    torch.testing.assert_close(without["task0.loss_bbox"], masked["task0.loss_bbox"])


def test_a_box_just_below_the_low_edge_draws_no_target():
    box = torch.tensor([[-51.3, 0.0, 0, 4, 2, 1.5, 0, 0, 0]])
    targets = our_head().targets([box], [torch.tensor([0])])
    assert targets.heatmap.max() == 0
    assert len(targets.cell) == 0


def test_decoding_the_targets_gives_the_boxes_back():
    rng = np.random.default_rng(0)
    boxes = torch.tensor(
        [[x, y, -1.0, 4.5, 1.9, 1.6, rng.uniform(-3, 3), 1.5, -2] for x in (-30, 5) for y in (-20, 33)]
    )
    boxes = boxes.float()
    labels = torch.tensor([0, 1, 2, 4])
    head = our_head()
    targets = head.targets([gravity(boxes)], [labels])
    out = {name: torch.zeros(1, 3, size, 64, 64) for name, size in BRANCHES.items()}
    columns = targets.code.split(list(BRANCHES.values()), 1)
    for name, column in zip(BRANCHES, columns, strict=True):
        for task, cell, value in zip(targets.task, targets.cell, column, strict=True):
            out[name][0, task, :, cell // 64, cell % 64] = value
    out["heatmap"] = torch.logit(targets.heatmap.clamp(1e-4, 1 - 1e-4))
    spec = DecodeSpec(score_threshold=0.9)
    found, _, got = decode(out, TASKS, GRID, spec)[0]
    order = np.lexsort(found[:, :2].T.numpy())
    wanted = np.lexsort(boxes[:, :2].T.numpy())
    torch.testing.assert_close(found[order], boxes[wanted], atol=1e-4, rtol=0)
    assert got[order].tolist() == labels[wanted].tolist()


def test_peaks_equal_the_stock_coder(heads):
    out = heads[1](torch.randn(2, 8, 64, 64))
    coder = CenterPointBBoxCoder(
        pc_range=RANGE[:2], voxel_size=[1.6, 1.6], out_size_factor=1, post_center_range=[-99] * 3 + [99] * 3, max_num=50
    )
    theirs = coder.decode(
        out["heatmap"][:, :2].sigmoid(), out["rot"][:, 0, :1], out["rot"][:, 0, 1:], out["height"][:, 0],
        out["dim"][:, 0].exp(), out["vel"][:, 0], reg=out["reg"][:, 0],
    )  # fmt: skip
    boxes, scores, labels = peaks(out, 0, 0, TASKS, GRID, DecodeSpec(peaks_per_task=50))
    for b in range(2):
        torch.testing.assert_close(boxes[b], theirs[b]["bboxes"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scores[b], theirs[b]["scores"])
        assert labels[b].tolist() == theirs[b]["labels"].int().tolist()


def test_scale_nms_separates_pedestrians_that_plain_iou_would_keep():
    boxes = torch.tensor([[0, 0, 0, 0.7, 0.7, 1.8, 0, 0, 0], [0.8, 0, 0, 0.7, 0.7, 1.8, 0, 0, 0]]).float()
    scores, local = torch.tensor([0.9, 0.8]), torch.tensor([0, 0])
    names = ["pedestrian", "traffic_cone"]
    assert scale_nms(boxes, scores, local, names, DecodeSpec()).tolist() == [0]
    assert sorted(scale_nms(boxes, scores, local, names, DecodeSpec(factors={})).tolist()) == [0, 1]


def test_circle_nms_uses_the_distance_and_not_its_square():
    centres, scores = torch.tensor([[0.0, 0], [1.5, 0], [5, 0]]), torch.tensor([0.5, 0.9, 0.1])
    assert circle_nms(centres, scores, 2.0).tolist() == [1, 2]  # 1.5 m apart; 2.25 m^2 would survive a radius of 2
    assert circle_nms(centres, scores, 1.4).tolist() == [1, 0, 2]


def test_code_weights_of_the_wrong_length_are_refused():
    with pytest.raises(ConfigError, match="code_weights has 8 entries; the box code has 10"):
        our_head(code_weights=(1.0,) * 8)
