"""From a list of samples to the batch of docs/conventions.md, on the model's device."""

import torch
from mmdet3d.registry import MODELS
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # R, G, B
IMAGENET_STD = (58.395, 57.12, 57.375)
LISTS = ("points", "trajectories", "trajectories_unaligned")
SHAPES = {  # per sample; letters must agree within a sample and between samples
    "imgs": "N3HW", "cam2img": "N33", "cam2lidar": "N44", "img_aug": "N33", "bev_aug": "44", "lidar2global": "44",
    "start": "", "lidar_depth": "NHW",
}  # fmt: skip
OPTIONAL = ("lidar_depth",)


@MODELS.register_module()
class BEVDataPreprocessor(BaseDataPreprocessor):
    """Stacks, moves and normalises. Images are RGB and so are `mean` and `std` (the released code swaps one of them).

    Args: mean, std: per channel R, G, B, in 0..255.
    Returns of forward: {'inputs': dict, 'data_samples': list or None} as in docs/conventions.md.
    Raises: ValueError naming sample, key, got and wanted shape.
    """

    def __init__(self, mean=IMAGENET_MEAN, std=IMAGENET_STD, non_blocking: bool = False):
        super().__init__(non_blocking=non_blocking)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """`data` from pseudo_collate: {'inputs': {key: list of tensors}, 'data_samples': list}."""
        inputs = data["inputs"]
        if isinstance(inputs, (list, tuple)):  # default_collate is not used: samples may come as a list of dicts
            inputs = {key: [sample[key] for sample in inputs] for key in inputs[0]}
        check_samples(inputs)
        batch = {}
        for key, values in inputs.items():
            if key in LISTS:
                batch[key] = self.cast_data(list(values))
            else:
                batch[key] = self.cast_data(torch.stack(list(values)))
        batch["imgs"] = (batch["imgs"].float() - self.mean) / self.std
        samples = data.get("data_samples")
        return {"inputs": batch, "data_samples": self.cast_data(samples) if samples is not None else None}


def check_samples(inputs: dict[str, list[Tensor]]) -> None:
    """Raise ValueError unless every key has the shape of docs/conventions.md, the same in every sample."""
    sizes: dict[str, tuple[int, str]] = {}
    count = len(inputs.get("imgs", ()))
    for key, letters in SHAPES.items():
        if key not in inputs:
            if key in OPTIONAL:
                continue
            raise ValueError(f"inputs lack '{key}' (they hold {sorted(inputs)}): end the pipeline with PackBEVInputs")
        if len(inputs[key]) != count:
            raise ValueError(f"inputs['{key}'] has {len(inputs[key])} samples, inputs['imgs'] {count}")
        for number, value in enumerate(inputs[key]):
            where = f"inputs['{key}'][{number}]"
            if value.ndim != len(letters):
                raise ValueError(f"{where} has shape {tuple(value.shape)}, wanted ({', '.join(letters)})")
            for letter, got in zip(letters, value.shape, strict=True):
                wanted, since = (int(letter), "") if letter.isdigit() else sizes.setdefault(letter, (got, where))
                if got != wanted:
                    raise ValueError(
                        f"{where} has shape {tuple(value.shape)}, wanted ({', '.join(letters)}), {letter} = {wanted}"
                        + (f" as {since}" if since else "")
                        + ": all samples of a batch need the same cameras and image size"
                    )
