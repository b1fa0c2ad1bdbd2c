"""`tutelage export CONFIG CHECKPOINT OUT.onnx`: a trained detector as one ONNX file, manifest and parity report.

The graph takes images as cameras give them and normalises inside; geometry (camera vector, pool index) and the BEV
history are inputs, so a new calibration or another rig needs no new export. Training-only parts are absent: no expert,
no losses, no LiDAR. State goes in and comes out.
"""

import argparse
import inspect
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export import Dim

from common.errors import ConfigError
from deploy.frames import drawn_frames, normalisation, surround_rig
from deploy.onnx_common import OPSET, onnx_path, provenance, quiet
from deploy.runtime.geometry import Lift, camera_vector
from deploy.runtime.manifest import FRUSTUMS, LIFTS, Manifest, TaskNMS, TensorSpec, sha256
from deploy.runtime.session import INPUTS, OUTPUTS
from perception.datasets.transforms.images import LoadAndAugmentImages
from perception.detection.core import EXPORTED_POOLS

MEANING = {
    "images": "RGB, 0 to 255, one per camera in the rig's order; rows from the top",
    "camera": "fx, fy, cx, cy [px]; img_aug 2x3; bev_aug b00, b01, b10, b11, b22; cam2lidar 3x4 [m]",
    "depth_index": "element of (N, D, h, w) of every pooled point",
    "feature_index": "element of (N, h, w) of every pooled point",
    "cell_index": "element of (Z, Y, X) of every pooled point, ascending",
    "history": "past BEV maps as next_history gave them, newest first",
    "cur2past": "planar transform of the current bev frame to each past map's [m]; newest first",
    "start": "this frame begins a sequence: the history is ignored",
    "heatmap": "logits per class, in class order",
    "reg": "x, y offset within the cell [cells], per task",
    "height": "z of the box centre [m], per task",
    "dim": "log of l, w, h [m], per task",
    "rot": "sin, cos of the yaw, per task",
    "vel": "vx, vy [m/s], per task",
    "next_history": "history for the next frame",
}


class ExportGraph(nn.Module):
    """A `BEVCore` behind normalisation: images (1, N, H, W, 3) uint8 RGB instead of normalised (1, N, 3, H, W)."""

    def __init__(self, core: nn.Module, mean, std):
        super().__init__()
        self.core = core
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, images, camera, depth_index, feature_index, cell_index, history, cur2past, start) -> tuple:
        """Outputs in the order of `deploy.runtime.session.OUTPUTS`."""
        normal = (images.permute(0, 1, 4, 2, 3).to(torch.float32) - self.mean) / self.std
        out = self.core(normal, camera, depth_index, feature_index, cell_index, history, cur2past, start)
        out.setdefault("next_history", history.clone())  # a network without history
        return tuple(out[name] for name in OUTPUTS)


def describe(
    detector, path: str | Path, *, rate_hz: float, resize_headroom: float = 0.0, source: dict | None = None
) -> Manifest:
    """The manifest of a `VCDDetector` before it has an ONNX file: hash and tensors are empty.

    Raises: ConfigError if the detector cannot run on cameras alone, or if its geometry is none that the runtime knows.
    """
    core = detector.core
    if core.lidar_prior:
        raise ConfigError("model.lidar_prior is True: an expert needs LiDAR at run time; export its apprentice")
    if getattr(detector, "history_resample", "exact") != "exact":
        raise ConfigError(
            "model.history_resample must be 'exact' for export: the graph's state holds raw maps with poses"
        )
    mean, std = normalisation(detector)
    spec, tasks = detector.decoder, core.head.tasks
    suppression = [
        TaskNMS(type="circle", radius=float(spec.circle_radius[names[0]]), post=spec.max_per_task)
        if names[0] in spec.circle_radius
        else TaskNMS(
            type="rotate",
            iou=float(spec.iou.get(names[0], 0.2)),
            scale=tuple(float(spec.factors.get(name, 1.0)) for name in names),
            post=spec.max_per_task,
        )
        for names in tasks
    ]
    bins = core.depth_bins
    manifest = Manifest(
        model=Path(path).name,
        sha256="",
        opset=0,
        inputs=(),
        outputs=(),
        classes=tuple(name for names in tasks for name in names),
        tasks=tuple(tuple(names) for names in tasks),
        grid={axis: tuple(getattr(core.grid, axis)) for axis in "xyz"},
        depth_bins=(bins.low, bins.high, bins.step),
        lift_at="edge",
        frustum=FRUSTUMS[0],
        rounding=core.rounding,
        stride=core.stride,
        image_size=tuple(core.image_hw),
        resize_headroom=float(resize_headroom),
        mean=tuple(mean),
        std=tuple(std),
        history=core.history_frames,
        channels=_channels(core),
        max_per_task=spec.peaks_per_task,
        score_threshold=spec.score_threshold,
        center_range=tuple(float(v) for v in spec.centre_range),
        nms=tuple(suppression),
        rate_hz=float(rate_hz),
        source={**(source or {}), "pool": core.exported_pool},
    )
    wanted = core.frustum.cpu().numpy()
    for frustum in FRUSTUMS:
        for lift_at in LIFTS:
            candidate = replace(manifest, frustum=frustum, lift_at=lift_at)
            if np.allclose(Lift(candidate).frustum, wanted, atol=1e-4):
                return candidate
    raise ConfigError(
        f"core.frustum is none of {FRUSTUMS} lifted at {LIFTS}: teach deploy.runtime.geometry.Lift the new one"
    )


def _channels(core) -> int:
    """Channels C of one BEV map of the history."""
    return core.depth_net.context.out_channels * core.grid.shape[0]


def example(manifest: Manifest, cameras: int = 6) -> tuple[Tensor, ...]:
    """One frame's inputs in the order of `INPUTS`, on a rig of surrounding cameras."""
    rig = surround_rig(manifest, cameras)
    frame = next(drawn_frames(manifest, rig, 1))
    index = Lift(manifest).index(rig)
    _, rows, columns = manifest.bev_shape
    k = manifest.history
    return (
        torch.from_numpy(frame.images[None]),
        torch.from_numpy(camera_vector(rig)),
        *(torch.from_numpy(np.ascontiguousarray(column)) for column in index),
        torch.randn(1, k, manifest.channels, rows, columns, generator=torch.Generator().manual_seed(0)),
        torch.eye(3).repeat(1, k, 1, 1),
        torch.tensor([False]),
    )


def export(
    detector,
    path: str | Path,
    *,
    opset: int = OPSET,
    rate_hz: float = 2.0,
    resize_headroom: float = 0.0,
    cameras: int = 6,
    pool: str | None = None,
    source: dict | None = None,
) -> Manifest:
    """Write `path` (one ONNX file, weights inside) and its manifest beside it; returns the manifest.

    Args: detector, a `VCDDetector`; cameras, how many the traced example has. The number stays free in the graph where
    the network allows it, and the manifest says whether it did. resize_headroom: see deploy/runtime/images.py. pool:
    how the graph sums into cells, a key of `perception.detection.core.EXPORTED_POOLS` (default: the core's own).

    Raises: ConfigError for a detector that cannot be exported; RuntimeError if the graph lost an accumulation.
    """
    if opset < OPSET:
        raise ConfigError(f"opset {opset}: torch's exporter writes {OPSET} or later; leave --opset out")
    if pool is not None:
        if pool not in EXPORTED_POOLS:
            raise ConfigError(f"pool {pool!r}: choose one of {sorted(EXPORTED_POOLS)}")
        detector.core.exported_pool = pool
    path = Path(path)
    manifest = describe(detector, path, rate_hz=rate_hz, resize_headroom=resize_headroom, source=source)
    graph = ExportGraph(detector.core, manifest.mean, manifest.std).eval().cpu()
    inputs = example(manifest, cameras)
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), quiet():
        program = _trace(graph, inputs)
        torch.onnx.export(
            program,
            f=str(path),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    _name_dimensions(model)
    check_accumulation(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    manifest = replace(
        manifest,
        sha256=sha256(path),
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        inputs=_specs(model.graph.input),
        outputs=_specs(model.graph.output),
    )
    manifest.save(path.with_suffix(".json"))
    return manifest


def _trace(graph: nn.Module, inputs: tuple[Tensor, ...]):
    """The traced program, with P free, and N where no part of the network insists on the example's."""
    points, cameras = Dim("P", min=256, max=1 << 30), Dim("N", min=1, max=64)
    free = {name: {0: points} if name.endswith("_index") else None for name in INPUTS}
    try:
        shapes = {**free, "images": {1: cameras}, "camera": {1: cameras}}
        return torch.export.export(
            graph, inputs, dynamic_shapes=shapes, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
    except UserError as error:
        if "Constraints violated (N)" not in str(error):
            raise
    return torch.export.export(
        graph, inputs, dynamic_shapes=free, strict=False, prefer_deferred_runtime_asserts_over_guards=True
    )


def check_accumulation(model: onnx.ModelProto) -> None:
    """Raises RuntimeError unless the pooling's scatters accumulate: exporters have dropped that in silence."""
    scatters = [node for node in model.graph.node if node.op_type in ("ScatterElements", "ScatterND", "Scatter")]
    for node in scatters:
        reduction = next((entry.s.decode() for entry in node.attribute if entry.name == "reduction"), "none")
        if reduction != "add":
            raise RuntimeError(
                f"{node.op_type} '{node.name}' has reduction {reduction!r}: points of one cell would be lost"
            )
    if not scatters:
        raise RuntimeError("the graph has no scatter: the BEV pooling is missing")


def _name_dimensions(model: onnx.ModelProto) -> None:
    """Free dimensions get the letters of the conventions: N cameras, P points."""
    for value in model.graph.input:
        letter = {"images": "N", "camera": "N"}.get(value.name, "P")
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = letter
    del model.graph.value_info[:]  # they carry the old names


def _specs(values) -> tuple[TensorSpec, ...]:
    dtypes = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64", onnx.TensorProto.UINT8: "uint8",
              onnx.TensorProto.BOOL: "bool"}  # fmt: skip
    return tuple(
        TensorSpec(
            name=value.name,
            shape=tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
            dtype=dtypes[value.type.tensor_type.elem_type],
            meaning=MEANING[value.name],
        )
        for value in values
    )


def build_detector(config, checkpoint: str | Path | None, *, ema: bool | None = None):
    """The detector of a config in eval mode, without its expert, with a checkpoint's weights."""
    import mmdet3d.models  # noqa: F401  fills the registry
    from mmengine.registry import MODELS, init_default_scope

    from common.engine.checkpoint import load_weights

    init_default_scope("mmdet3d")
    model = config.model.copy()
    model.pop("distiller", None)
    detector = MODELS.build(model)
    if checkpoint is not None:
        load_weights(detector, checkpoint, ema=ema)
    return detector.eval()


def resize_headroom(config) -> float:
    """How far above the network's scale the config's test pipeline averages images down, before it looks them up."""
    dataset = config.get("test_dataloader", {}).get("dataset", {})
    for step in dataset.get("pipeline", []):
        if getattr(step["type"], "__name__", step["type"]) == "LoadAndAugmentImages":
            default = inspect.signature(LoadAndAugmentImages).parameters["resize"].default
            return max(0.0, float(step.get("resize", default)[1]))
    return 0.0


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="tutelage export", description="Write ONNX, manifest and parity report.")
    parse.add_argument("config")
    parse.add_argument("checkpoint")
    parse.add_argument("out", metavar="OUT.onnx")
    parse.add_argument("--opset", type=int, default=OPSET)
    parse.add_argument(
        "--rate", type=float, default=2.0, metavar="HZ", help="frames per second the history was trained at"
    )
    parse.add_argument("--pool", choices=sorted(EXPORTED_POOLS), help="scatter for TensorRT; default: the core's")
    parse.add_argument("--parity-frames", type=int, default=10, metavar="N")
    parse.add_argument(
        "--drawn", action="store_true", help="check parity on drawn frames, without the config's data set"
    )
    parse.add_argument("--weights", choices=("auto", "ema", "raw"), default="auto", help="auto: EMA where there is one")
    parse.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Export, then stream frames through both; 1 if they differ by more than the tolerance."""
    args = parser().parse_args(argv)
    from common.engine.config import load_config, parse_options
    from deploy.parity import check, streams

    onnx_path(args.out)
    config = load_config(args.config, parse_options(args.cfg_options))
    detector = build_detector(config, args.checkpoint, ema={"auto": None, "ema": True, "raw": False}[args.weights])
    manifest = export(
        detector,
        args.out,
        opset=args.opset,
        rate_hz=args.rate,
        resize_headroom=resize_headroom(config),
        pool=args.pool,
        source=provenance(args.config, args.checkpoint),
    )
    size = Path(args.out).stat().st_size / 2**20
    print(f"{args.out}: opset {manifest.opset}, {size:.1f} MiB; manifest {Path(args.out).with_suffix('.json').name}")
    report = check(detector, args.out, streams(manifest, args.parity_frames, None if args.drawn else config))
    report.save(Path(args.out).with_suffix(".parity.json"))
    print(report.table())
    if not report.passed:
        print(f"tutelage export: {args.out} differs from PyTorch by more than {report.tolerance:g}", file=sys.stderr)
    return 0 if report.passed else 1
