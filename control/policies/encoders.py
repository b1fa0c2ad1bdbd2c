"""Observations to one feature vector per observed step. Letters: B batch, O observed steps, P points.

An encoder has `width`, of its output per step, `fit`, and `shape`, of one step of what it takes (None: any size)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ConfigError
from control.policies.normaliser import MeanStdNormaliser, MinMaxNormaliser


class StateEncoder(nn.Module):
    """(B, O, width) -> (B, O, width) in [-1, 1]."""

    def __init__(self, width: int):
        super().__init__()
        self.normaliser = MinMaxNormaliser(width)
        self.width, self.shape = width, (width,)

    def fit(self, values: Tensor) -> None:
        self.normaliser.fit(values)

    def forward(self, x: Tensor) -> Tensor:
        return self.normaliser(x)


class StandardStateEncoder(nn.Module):
    """(B, O, q) -> (B, O, width), in deviations from the data's mean, cut at `most`, with a `floor` under the
    deviations: for few demonstrations.

    columns: of the q numbers those that are seen, by default all; a policy that sees the objects in a cloud gets the
    robot's own and the goal's.
    """

    def __init__(self, width: int, columns: tuple[int, ...] | None = None, floor: float = 0.02, most: float = 5.0):
        super().__init__()
        self.columns, self.shape = list(columns or range(width)), (width,)
        if not all(0 <= column < width for column in self.columns):
            raise ConfigError(f"encoders.state.columns={columns}: the state has {width} numbers, 0 to {width - 1}")
        self.width = len(self.columns)
        self.normaliser = MeanStdNormaliser(self.width, floor, most)

    def fit(self, values: Tensor) -> None:
        self.normaliser.fit(values.reshape(-1, *self.shape)[:, self.columns])

    def forward(self, x: Tensor) -> Tensor:
        return self.normaliser(x[..., self.columns])


class _Block(nn.Module):
    """ResNet's basic block with group norm."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = (nn.GroupNorm(max(1, outputs // 16), outputs) for _ in range(2))
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(max(1, outputs // 16), outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class SpatialSoftmax(nn.Module):
    """Expected image position of every channel's activation: (B, C, h, w) -> (B, 2C), x then y in [-1, 1]
    (arXiv 1504.00702)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = x.flatten(2).softmax(-1).view_as(x)
        row = torch.linspace(-1, 1, x.shape[2], device=x.device, dtype=x.dtype)
        column = torch.linspace(-1, 1, x.shape[3], device=x.device, dtype=x.dtype)
        return torch.cat([(weight.sum(2) * column).sum(-1), (weight.sum(3) * row).sum(-1)], 1)


class ImageEncoder(nn.Module):
    """One camera: (B, O, H, W, 3) uint8 -> (B, O, width). ResNet-18 from scratch with group norm (batch norm and
    averaged weights do not mix) and a spatial softmax of 32 key points, as Diffusion Policy's.

    crop: side ratio of the random crop in training and of the centre crop otherwise; base: channels of the first stage
    (64 in ResNet-18); blocks per stage.
    """

    def __init__(self, width: int = 64, crop: float = 0.9, base: int = 64, blocks: int = 2, keypoints: int = 32):
        super().__init__()
        stages, inputs = [], base
        for i in range(4):
            outputs = base * 2**i
            for j in range(blocks):
                stages.append(_Block(inputs, outputs, 2 if i and not j else 1))
                inputs = outputs
        self.stem = nn.Sequential(
            nn.Conv2d(3, base, 7, 2, 3, bias=False),
            nn.GroupNorm(max(1, base // 16), base),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.stages = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.Conv2d(inputs, keypoints, 1), SpatialSoftmax(), nn.Linear(2 * keypoints, width))
        self.width, self.crop, self.shape = width, crop, (None, None, 3)

    def fit(self, values: Tensor) -> None:
        """Nothing: pixels have a known range."""

    def forward(self, x: Tensor) -> Tensor:
        B, O, H, W, _ = x.shape
        h, w = round(H * self.crop), round(W * self.crop)
        top, left = (H - h) // 2, (W - w) // 2
        if self.training:
            top, left = (int(torch.randint(0, most + 1, ())) for most in (H - h, W - w))
        x = x[:, :, top : top + h, left : left + w].permute(0, 1, 4, 2, 3).flatten(0, 1)
        weights = self.stem[0].weight.dtype
        return self.pool(self.stages(self.stem(x.to(weights) / 127.5 - 1))).unflatten(0, (B, O))


class PointEncoder(nn.Module):
    """(B, O, P, 3) metres -> (B, O, width): a per-point network, the maximum over points, a projection (DP3, arXiv
    2403.03954). Does not depend on the order of the points."""

    def __init__(self, width: int = 64, channels: tuple[int, ...] = (64, 128, 256)):
        super().__init__()
        layers, inputs = [], 3
        for outputs in channels:
            layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ReLU()]
            inputs = outputs
        self.points = nn.Sequential(*layers)
        self.project = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width))
        self.normaliser = MinMaxNormaliser(3)
        self.width, self.shape = width, (None, 3)

    def fit(self, values: Tensor) -> None:
        self.normaliser.fit(values)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.points(self.normaliser(x)).amax(-2))


class ObservationEncoder(nn.Module):
    """All observations of the last O steps as one vector: {name: (B, O, ...)} -> (B, O * sum of widths).

    encoders: name -> encoder with `width` and `fit`.
    """

    def __init__(self, encoders: dict[str, nn.Module], steps: int = 2):
        super().__init__()
        if not encoders or steps < 1:
            raise ConfigError(f"observation encoders {sorted(encoders)}, {steps} steps: at least one of each is needed")
        self.encoders, self.steps = nn.ModuleDict(encoders), steps
        self.width = steps * sum(encoder.width for encoder in encoders.values())

    def fit(self, observations: dict[str, Tensor]) -> None:
        """Ranges from {name: (count, ...)}."""
        for name, encoder in self.encoders.items():
            encoder.fit(observations[name])

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        self.check(observations)
        parts = [encoder(observations[name]) for name, encoder in self.encoders.items()]
        return torch.cat(parts, -1).flatten(1)

    def check(self, observations: dict[str, Tensor]) -> None:
        """Raises ValueError naming a missing observation or one with another number of steps."""
        for name in self.encoders:
            if name not in observations:
                raise ValueError(f"observation {name!r} is missing; the policy observes {', '.join(self.encoders)}")
            if observations[name].shape[1] != self.steps:
                raise ValueError(
                    f"observation {name!r} is {tuple(observations[name].shape)}, wanted {self.steps} steps (B, "
                    f"{self.steps}, ...), oldest first"
                )
