"""ConvNeXt (arXiv 2201.03545) as an image backbone, with the parameter names of the official checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import CheckpointError, ConfigError

ARCHITECTURES = {  # blocks per stage, channels per stage
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
}


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, two pointwise layers with GELU, layer scale, drop path: (B, C, H, W) -> the same."""

    def __init__(self, channels: int, drop_path: float, layer_scale: float):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), float(layer_scale)))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        residual = (self.gamma * self.pwconv2(F.gelu(self.pwconv1(residual)))).permute(0, 3, 1, 2)
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            residual = residual * (residual.new_empty(len(x), 1, 1, 1).bernoulli_(keep) / keep)
        return x + residual


class ConvNeXt(nn.Module):
    """Images (M, 3, H, W) -> tuple of normalised maps, stage i at stride 4 * 2**i (default: strides 16 and 32).

    Args: arch: "tiny", "small", "base" or a pair (blocks, channels); out_indices; drop_path: rate of the last block,
        rising linearly from 0 (VCD: 0.5 for base); layer_scale: initial value (VCD: 1.0); with_cp: recompute the blocks
        in the backward pass instead of keeping their activations.
    The last stage's output norm is the official final norm (`norm`), earlier outputs have their own (`norm2`, ...).
    """

    def __init__(
        self,
        arch: str | tuple[Sequence[int], Sequence[int]] = "tiny",
        out_indices: Sequence[int] = (2, 3),
        drop_path: float = 0.1,
        layer_scale: float = 1e-6,
        with_cp: bool = False,
    ):
        super().__init__()
        if isinstance(arch, str) and arch not in ARCHITECTURES:
            raise ConfigError(f"image_backbone.arch={arch!r}: choose one of {', '.join(ARCHITECTURES)}")
        depths, widths = ARCHITECTURES[arch] if isinstance(arch, str) else arch
        if not out_indices or min(out_indices) < 0 or max(out_indices) >= len(depths):
            raise ConfigError(f"image_backbone.out_indices={tuple(out_indices)}: stages are 0 to {len(depths) - 1}")
        self.out_indices, self.with_cp = tuple(sorted(out_indices)), with_cp
        self.out_channels = tuple(widths[i] for i in self.out_indices)
        blocks = sum(depths)
        rates = iter([drop_path * k / max(1, blocks - 1) for k in range(blocks)])
        self.downsample_layers, self.stages = nn.ModuleList(), nn.ModuleList()
        for i in range(max(out_indices) + 1):
            if i == 0:
                layers = [nn.Conv2d(3, widths[0], 4, stride=4), ChannelNorm(widths[0], eps=1e-6)]
            else:
                layers = [ChannelNorm(widths[i - 1], eps=1e-6), nn.Conv2d(widths[i - 1], widths[i], 2, stride=2)]
            self.downsample_layers.append(nn.Sequential(*layers))
            self.stages.append(nn.Sequential(*(Block(widths[i], next(rates), layer_scale) for _ in range(depths[i]))))
        self._norms = {i: "norm" if i == len(depths) - 1 else f"norm{i}" for i in self.out_indices}
        for i, name in self._norms.items():
            self.add_module(name, ChannelNorm(widths[i], eps=1e-6))
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, maps = images, []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = down(x)
            for block in stage:
                recompute = self.with_cp and self.training and torch.is_grad_enabled()
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            if i in self._norms:
                maps.append(getattr(self, self._norms[i])(x))
        return tuple(maps)

    def load_official(self, path: str | Path) -> dict[str, list[str]]:
        """Load a checkpoint of the official ImageNet release (`{"model": {...}}` or the state dict itself).

        Read with weights_only=True. Returns the keys left at their initial value ("fresh": the norms of inner outputs)
        and those not used ("ignored": the classifier, stages above the last output). Raises FileNotFoundError;
        CheckpointError, with names, for every other missing or unexpected key and for shapes that differ.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such checkpoint of the official release")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{path}: not a checkpoint of plain tensors ({error})") from error
        state = state.get("model", state) if isinstance(state, dict) else {}
        own = self.state_dict()
        inner = {name for i, name in self._norms.items() if name != "norm"}
        above = tuple(f"{part}.{i}." for i in range(len(self.stages), 4) for part in ("downsample_layers", "stages"))
        skip = ("head.", *above, *(("norm.",) if "norm" not in self._norms.values() else ()))
        fresh = sorted(key for key in own if key not in state and key.split(".")[0] in inner)
        ignored = sorted(key for key in state if key not in own and key.startswith(skip))
        missing = sorted(key for key in own if key not in state and key not in fresh)
        unexpected = sorted(key for key in state if key not in own and key not in ignored)
        shapes = [
            f"{key} {tuple(state[key].shape)}, wanted {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ]
        if missing or unexpected or shapes:
            parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
            found = "; ".join(
                f"{len(keys)} {what}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
                for what, keys in parts
                if keys
            )
            raise CheckpointError(f"{path} does not fit this ConvNeXt ({found}): check image_backbone.arch")
        self.load_state_dict({**own, **{key: state[key] for key in own if key in state}})
        return {"fresh": fresh, "ignored": ignored}
