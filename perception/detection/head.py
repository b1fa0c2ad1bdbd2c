"""CenterHead (CenterPoint, arXiv 2006.11275) with vectorised targets; parameter names are those of mmdet3d's head.

Letters: B batch, T tasks, Q objects of a sample, Y X BEV cells. Box code: dx, dy (cell fractions), z of the centre (m),
log l, w, h, sin yaw, cos yaw, vx, vy.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ConfigError
from perception.detection.gaussian import cell_radius, draw_gaussians
from perception.detection.grid import GridSpec
from perception.detection.layers import make_norm

BRANCHES = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
CODE_SIZE = sum(BRANCHES.values())


class ConvNormReLU(nn.Module):
    """3x3 convolution, norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: str = "BN"):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = make_norm(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class SeparateHead(nn.Module):
    """The branches of one task: each a 3x3 conv-norm-ReLU and a final 3x3 convolution."""

    def __init__(self, in_channels: int, num_classes: int, channels: int, norm: str, heatmap_bias: float):
        super().__init__()
        for name, size in {**BRANCHES, "heatmap": num_classes}.items():
            last = nn.Conv2d(channels, size, 3, padding=1)
            setattr(self, name, nn.Sequential(ConvNormReLU(in_channels, channels, norm), last))
        nn.init.constant_(self.heatmap[-1].bias, heatmap_bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: getattr(self, name)(x) for name in (*BRANCHES, "heatmap")}


@dataclass
class Targets:
    """Of one batch. heatmap (B, classes, Y, X); per object O of all samples and tasks: batch, task, cell (O,) int64,
    code (O, 10), NaN where the velocity is unknown."""

    heatmap: Tensor
    batch: Tensor
    task: Tensor
    cell: Tensor
    code: Tensor


class CenterHead(nn.Module):
    """Args: tasks, lists of class names whose concatenation is the class order; grid gives cells and ranges."""

    def __init__(
        self,
        *,
        in_channels: int,
        tasks: list[list[str]],
        grid: GridSpec,
        shared_channels: int = 64,
        branch_channels: int = 64,
        norm: str = "BN",
        gaussian_overlap: float = 0.1,
        min_radius: int = 2,
        heatmap_bias: float = -2.19,
        box_weight: float = 0.25,
        code_weights: tuple[float, ...] = (1.0,) * CODE_SIZE,
    ):
        super().__init__()
        if len(code_weights) != CODE_SIZE:
            raise ConfigError(f"head.code_weights has {len(code_weights)} entries; the box code has {CODE_SIZE}")
        self.tasks, self.grid = [list(task) for task in tasks], grid
        self.class_names = [name for task in self.tasks for name in task]
        self.gaussian_overlap, self.min_radius, self.box_weight = gaussian_overlap, min_radius, box_weight
        self.code_weights = code_weights
        self.shared_conv = ConvNormReLU(in_channels, shared_channels, norm)
        self.task_heads = nn.ModuleList(
            SeparateHead(shared_channels, len(task), branch_channels, norm, heatmap_bias) for task in self.tasks
        )

    def forward(self, bev: Tensor) -> dict[str, Tensor]:
        """(B, C, Y, X) -> heatmap (B, classes, Y, X) logits in class order; the others (B, T, k, Y, X)."""
        shared = self.shared_conv(bev)
        parts = [head(shared) for head in self.task_heads]
        out = {name: torch.stack([part[name] for part in parts], 1) for name in BRANCHES}
        return {"heatmap": torch.cat([part["heatmap"] for part in parts], 1), **out}

    def targets(self, boxes: list[Tensor], labels: list[Tensor]) -> Targets:
        """Args: boxes, per sample (Q, 9) x, y, z of the centre, l, w, h, yaw, vx, vy; labels (Q,) class indices."""
        _, rows, columns = self.grid.shape
        device = boxes[0].device
        task_of_class = torch.tensor([t for t, task in enumerate(self.tasks) for _ in task], device=device)
        low = torch.tensor([self.grid.x[0], self.grid.y[0]], device=device)
        size = torch.tensor([self.grid.x[2], self.grid.y[2]], device=device)
        heatmap = torch.zeros(len(boxes), len(self.class_names), rows, columns, device=device)
        found = []
        for b, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            position = (box[:, :2].float() - low) / size
            cell = torch.floor(position).long()
            good = ((cell >= 0) & (cell < cell.new_tensor([columns, rows]))).all(-1) & (box[:, 3:5] > 0).all(-1)
            box, label, position, cell = box[good].float(), label[good].long(), position[good], cell[good]
            radius = cell_radius(box[:, 3:5], size, self.gaussian_overlap, self.min_radius)
            heatmap[b] = draw_gaussians(cell.float(), radius, label, heatmap.shape[1:])
            yaw = box[:, 6:7]
            code = [position - cell, box[:, 2:3], box[:, 3:6].log(), yaw.sin(), yaw.cos(), box[:, 7:9]]
            flat = cell[:, 1] * columns + cell[:, 0]
            found.append((torch.full_like(label, b), task_of_class[label], flat, torch.cat(code, 1)))
        return Targets(heatmap, *(torch.cat(column) for column in zip(*found, strict=True)))

    def loss(self, out: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Per task: Gaussian focal loss / number of peaks + box_weight * L1 of the box code / number of objects."""
        losses, first = {}, 0
        code = torch.cat([out[name] for name in BRANCHES], 2).flatten(3)
        weights = code.new_tensor(self.code_weights)
        for t, names in enumerate(self.tasks):
            last = first + len(names)
            target = targets.heatmap[:, first:last]
            heat = gaussian_focal_loss(out["heatmap"][:, first:last].float(), target)
            losses[f"task{t}.loss_heatmap"] = heat / target.eq(1).sum().clamp_min(1)
            mine = targets.task == t
            wanted = targets.code[mine]
            known = ~wanted.isnan()
            got = code[targets.batch[mine], t, :, targets.cell[mine]]
            error = (got - wanted.nan_to_num()).abs() * known * weights
            losses[f"task{t}.loss_bbox"] = self.box_weight * error.sum() / (mine.sum() + 1e-4)
            first = last
        return losses


def gaussian_focal_loss(logits: Tensor, target: Tensor, alpha: float = 2.0, gamma: float = 4.0) -> Tensor:
    """Summed penalty-reduced focal loss (CornerNet, eq. 1); target 1 marks a peak. Stable in the logits."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = -p.log() * (1 - p) ** alpha * target.eq(1)
    negative = -(1 - p).log() * p**alpha * (1 - target) ** gamma
    return (positive + negative).sum()
