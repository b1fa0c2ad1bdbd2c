"""One training step of the published-size detectors: time and peak memory, on random images of the real shapes.

    python benchmarks/vcd_training_step.py [--device cpu|cuda] [--batch 8] [--precision float32 float16]

Loss, backward and AdamW's step of configs/perception/vcd/*_256x704_nus.py with random weights, history switched on,
40 boxes per sample. Loading is not in it.
"""

import argparse
import contextlib
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from benchmarks._report import describe_device, table, write_report
from benchmarks.bev_pool import rig
from common.engine.config import load_config
from perception.detection.distiller import Distiller
from perception.detection.vcd import VCDDetector

NETWORKS = {  # name: (config, expert's config)
    "baseline, ResNet-50": ("baseline_r50", None),
    "expert, ConvNeXt-B": ("expert_convnextb", None),
    "apprentice, ResNet-50 from ConvNeXt-B": ("apprentice_r50", "expert_convnextb"),
}
PATH = "configs/perception/vcd/{}_256x704_nus.py"
BOXES, HW = 40, (256, 704)


def detector(name: str, device: str) -> VCDDetector:
    """A network of NETWORKS in training mode, with its expert where it has one."""
    config, expert = NETWORKS[name]
    model = build(config)
    if expert:
        options = {k: v for k, v in load_config(PATH.format(config)).model.distiller.items() if k != "type"}
        model.distiller = Distiller(**{**options, "expert": {}})
        model.distiller.expert = build(expert).to(device).eval().requires_grad_(False)
    return model.to(device).train()


def build(config: str) -> VCDDetector:
    cfg = dict(load_config(PATH.format(config)).model)
    cfg.update(distiller=None, image_weights=None, history_at_start=True)
    cfg["image_backbone"] = {k: v for k, v in cfg["image_backbone"].items() if k != "init_cfg"}
    kind = cfg.pop("type")
    return kind(**cfg)


def batch(size: int, frames: int, device: str, seed: int = 0) -> tuple[dict, list]:
    """Inputs and samples as the preprocessor hands them over: six cameras, a LiDAR depth on 2 % of the pixels."""
    draw = torch.Generator().manual_seed(seed)
    cam2img, cam2lidar, img_aug, bev_aug = (t.expand(size, *t.shape[1:]).contiguous() for t in rig())
    depth = 60 * torch.rand(size, 6, *HW, generator=draw) * (torch.rand(size, 6, *HW, generator=draw) < 0.02)
    centres = 90 * torch.rand(size, BOXES, 3, generator=draw) - 45
    centres[..., 2] = -1.0
    pasts = centres[:, :, None] - torch.arange(frames + 1.0)[:, None] * torch.tensor([2.0, 0, 0])
    inputs = dict(
        imgs=torch.randn(size, 6, 3, *HW, generator=draw), cam2img=cam2img, cam2lidar=cam2lidar, img_aug=img_aug,
        bev_aug=bev_aug, lidar2global=torch.eye(4, dtype=torch.float64).repeat(size, 1, 1), lidar_depth=depth,
        start=torch.zeros(size, dtype=torch.bool),
    )  # fmt: skip
    inputs = {key: value.to(device) for key, value in inputs.items()}
    inputs["trajectories"] = inputs["trajectories_unaligned"] = list(pasts.to(device))
    samples = []
    for place in centres:
        truth = InstanceData()
        size_yaw = torch.tensor([4.0, 2, 1.6, 0.3, 1, 0]).repeat(BOXES, 1)
        truth.bboxes_3d = LiDARInstance3DBoxes(torch.cat([place, size_yaw], 1), box_dim=9)
        truth.labels_3d = torch.randint(0, 10, (BOXES,), generator=draw)
        sample = Det3DDataSample()
        sample.gt_instances_3d = truth
        samples.append(sample.to(device))
    return inputs, samples


def measure(model: VCDDetector, inputs: dict, samples: list, precision: str, steps: int) -> tuple[list[float], float]:
    """Milliseconds of every step after three to warm up; peak memory of the device in GiB (nan on the CPU)."""
    device = inputs["imgs"].device.type
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    half = precision != "float32"
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps + 3):
        begun = time.perf_counter()
        with torch.autocast(device, getattr(torch, precision)) if half else contextlib.nullcontext():
            losses = model.loss(inputs, samples)
        scaler.scale(sum(losses.values())).backward()
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return times[3:], memory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "float16", "bfloat16"])
    args = parser.parse_args()
    rows, first = [], {}
    for name in NETWORKS:
        torch.manual_seed(0)
        model = detector(name, args.device)
        inputs, samples = batch(args.batch, model.core.history_frames, args.device)
        for precision in args.precision:
            times, memory = measure(model, inputs, samples, precision, args.steps)
            middle = statistics.median(times)
            first.setdefault(precision, middle)
            spread = f"{middle:.0f} ({min(times):.0f} to {max(times):.0f})"
            ratio = f"{middle / first[precision]:.2f}"
            rows.append([name, precision, spread, f"{1e3 * args.batch / middle:.1f}", ratio, f"{memory:.1f}"])
            print(*rows[-1], flush=True)
        del model
    heads = ["network", "precision", "ms per step, median (range)", "samples per second", "times the baseline's step",
             "peak GiB"]  # fmt: skip
    body = (
        f"Batches of {args.batch}, six 256 x 704 images, 8 past frames, 128 x 128 cells, {BOXES} boxes per sample, "
        f"random weights and images; {args.steps} steps after three to warm up. One training step: losses, backward, "
        "AdamW. The apprentice's step holds the expert's forward pass; the baseline and the expert train alone.\n\n"
        + table(heads, rows)
    )
    suffix = "" if args.device == "cpu" else "_cuda"
    path = write_report(f"vcd_training_step{suffix}", "A training step of VCD", body, seeds=[0],
                        device=describe_device(args.device))  # fmt: skip
    print(path.read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
