"""`tutelage bench OUT.onnx [--against CONFIG CHECKPOINT]`: latency, jitter, deadline misses, memory, parity.

Both engines see the same frames in the same run, one after the other, in alternating order; timings of different runs
of a shared machine do not compare. Memory is the peak resident set of a process of its own per engine.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.errors import ConfigError
from deploy.frames import Frame, drawn_frames, surround_rig, with_poses
from deploy.runtime.deadline import DeadlineLoop, percentiles
from deploy.runtime.detector import StreamingDetector
from deploy.runtime.errors import InputError, ManifestError, ProviderError
from deploy.runtime.geometry import Lift, Rig, camera_vector
from deploy.runtime.manifest import Manifest

WARM_UP = 3
PARTS = ("input", "geometry", "network", "decode", "total")


def measure(
    path: str | Path,
    rig: Rig,
    *,
    frames: int = 50,
    hz: float | None = None,
    against: Callable[[Frame], dict[str, float]] | None = None,
    providers: list[str] | None = None,
    threads: int | None = None,
    moving_cameras: bool = False,
) -> dict:
    """Latencies in milliseconds of `frames` frames after a warm-up, and a loop at `hz` (default: the manifest's rate).

    against: runs one frame in PyTorch and returns seconds by part. moving_cameras: the camera poses change with every
    frame (ego motion compensated), so the pool index is rebuilt each time.
    Returns a dictionary that is JSON as it stands.
    """
    detector = StreamingDetector(path, rig, providers=providers, threads=threads, max_gap_s=1e9)
    manifest = detector.manifest
    hz = manifest.rate_hz if hz is None else hz
    onnx: dict[str, list[float]] = {name: [] for name in PARTS}
    torch: dict[str, list[float]] = {}
    boxes = []
    stream = list(drawn_frames(manifest, rig, frames + WARM_UP))
    for i, frame in enumerate(stream):
        runs = [lambda frame=frame, i=i: detector.step(**_arguments(rig, frame, i if moving_cameras else None))]
        if against is not None:
            runs.append(lambda frame=frame: against(frame))
        results = [run() for run in (runs if i % 2 else runs[::-1])]
        found, *other = results if i % 2 else results[::-1]
        if i < WARM_UP:
            continue
        for name in PARTS:
            onnx[name].append(1e-3 * found.milliseconds[name])
        boxes.append(len(found.boxes))
        for name, seconds in (other[0] if other else {}).items():
            torch.setdefault(name, []).append(seconds)
    report = {
        "model": Path(path).name,
        "provider": detector.session.provider,
        "threads": threads or os.cpu_count(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "cameras": len(rig.cameras),
        "moving_cameras": moving_cameras,
        "boxes_per_frame": float(np.mean(boxes)),
        "onnx": {name: percentiles(values) for name, values in onnx.items()},
        "torch": {name: percentiles(values) for name, values in torch.items()},
        "host_share": float(1 - np.sum(onnx["network"]) / np.sum(onnx["total"])),
        "warnings": list(found.warnings),
    }
    if torch:
        ratio = np.array(torch["total"]) / np.array(onnx["total"])
        report["torch_over_onnx"] = {"total_p50": float(np.median(ratio))}
        report["torch_over_onnx"]["network_p50"] = float(
            np.median(np.array(torch["network"]) / np.array(onnx["network"]))
        )
    detector.reset()
    loop = DeadlineLoop(1 / hz).run(lambda i: detector.step(**_arguments(rig, stream[i], None)), min(frames, 30))
    report["deadline"] = loop.summary()
    return report


def _arguments(rig: Rig, frame: Frame, moved: int | None) -> dict:
    arguments = frame.arguments(rig)
    if moved is None:
        del arguments["cam2lidar"]
    else:
        poses = frame.cam2lidar.copy()
        poses[:, 1, 3] += 0.01 * (moved % 5)
        arguments["cam2lidar"] = dict(zip(rig.cameras, poses, strict=True))
    return arguments


class TorchStream:
    """Frames through PyTorch: the network on the runtime's inputs, and the evaluation path as a whole."""

    def __init__(self, detector, manifest: Manifest, rig: Rig, threads: int | None = None):
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self._torch = torch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.detector = detector.eval().to(self.device)
        self.rig, self.history = rig, None
        _, rows, columns = manifest.bev_shape
        k = manifest.history
        index = [torch.from_numpy(np.ascontiguousarray(column)).to(self.device) for column in Lift(manifest).index(rig)]
        self._fixed = (torch.from_numpy(camera_vector(rig)).to(self.device), *index)
        self._maps = torch.zeros(1, k, manifest.channels, rows, columns, device=self.device)
        self._motion = torch.eye(3, device=self.device).repeat(1, k, 1, 1)

    @classmethod
    def load(cls, config: str, checkpoint: str, manifest: Manifest, rig: Rig, threads: int | None) -> "TorchStream":
        """Of a config file and a checkpoint."""
        from common.engine.config import load_config
        from deploy.export import build_detector

        return cls(build_detector(load_config(config), checkpoint), manifest, rig, threads)

    def __call__(self, frame: Frame) -> dict[str, float]:
        """Seconds: "network" (the exported graph's own work), "total" (evaluation: geometry, network, decoding)."""
        from deploy.parity import batch, normalise
        from perception.detection.decode import decode

        torch, core = self._torch, self.detector.core
        with torch.no_grad():
            begin = self._now()
            images = normalise(self.detector, frame.images).to(self.device)
            inputs = batch(with_poses(self.rig, frame), frame, images)
            features = self.detector.features(inputs, None if frame.start else self.history, use_history=True)
            self.history = features.history
            decode(core.head(features.bev), core.head.tasks, core.grid, self.detector.decoder)
            whole = self._now()
            start = torch.tensor([frame.start], device=self.device)
            core(normalise(self.detector, frame.images).to(self.device), *self._fixed, self._maps, self._motion, start)
            end = self._now()
        return {"network": end - whole, "total": whole - begin}

    def _now(self) -> float:
        if self.device.type == "cuda":
            self._torch.cuda.synchronize()
        return time.perf_counter()


def _resident(peak: bool = True) -> float:
    """Peak (or present) resident set of this process in MiB, from /proc; NaN where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    key = "VmHWM:" if peak else "VmRSS:"
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), float("nan"))


def _run_alone(results, kind: str, path: str, rig: Rig, frames: int, against, providers, threads) -> None:
    manifest = Manifest.load(path)
    if kind == "onnx":
        import onnxruntime  # noqa: F401

        before = _resident(peak=False)
        detector = StreamingDetector(path, rig, providers=providers, threads=threads, max_gap_s=1e9)
        step = lambda frame: detector.step(**_arguments(rig, frame, None))  # noqa: E731
    else:
        import deploy.export  # noqa: F401  torch and what the detector imports

        before = _resident(peak=False)
        step = TorchStream.load(*against, manifest, rig, threads)
    for frame in drawn_frames(manifest, rig, frames):
        step(frame)
    results.put({"peak_mib": _resident(), "imports_mib": before})


def memory(
    kind: str, path: str | Path, rig: Rig, *, frames: int = 5, against=None, providers=None, threads=None
) -> dict:
    """Peak resident set in MiB of a fresh process that streams frames through one engine ("onnx" or "torch"), and what
    its imports alone take."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    arguments = (results, kind, str(path), rig, frames, against, providers, threads)
    process = context.Process(target=_run_alone, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the {kind} process for the memory measurement ended with code {process.exitcode}")
    return results.get()


def parity(detector, path: str | Path, rig: Rig, *, frames: int = 10, providers=None, threads=None) -> dict:
    """`deploy.parity.check` of one stream that begins a second sequence half-way, as JSON. worst: of all outputs."""
    from deploy.parity import check

    stream = list(drawn_frames(Manifest.load(path), rig, frames, restart=frames // 2))
    found = check(detector, path, [("bench", rig, stream)], providers=providers, threads=threads)
    only = found.streams[0]
    counts = {"frames": only.frames, "starts": only.starts, "tolerance": found.tolerance}
    return {"passed": found.passed, "worst": max(only.difference.values()), **counts}


def table(report: dict) -> str:
    """Markdown of a report of `measure`."""
    columns = ("p50_ms", "p90_ms", "p99_ms", "max_ms")
    rows = ["| ms per frame | p50 | p90 | p99 | max |", "|---|---|---|---|---|"]
    for engine in ("onnx", "torch"):
        for name, values in report[engine].items():
            rows.append(f"| {engine} {name} | " + " | ".join(f"{values[key]:.2f}" for key in columns) + " |")
    loop = report["deadline"]
    torch_on = f", PyTorch on {report['torch_device']}" if "torch_device" in report else ""
    rows += [
        "",
        f"ONNX on {report['provider']}{torch_on}, {report['threads']} threads, {report['cameras']} cameras, "
        f"{report['machine']}; "
        f"host work {100 * report['host_share']:.1f} % of a frame, {report['boxes_per_frame']:.0f} boxes per frame",
        f"deadline {loop['period_ms']:.0f} ms: {loop['misses']} of {loop['n']} missed, {loop['skipped']} skipped, "
        f"worst lateness {loop['worst_lateness_ms']:.1f} ms",
    ]
    if "torch_over_onnx" in report:
        ratio = report["torch_over_onnx"]
        rows.append(
            f"PyTorch / ONNX, median of frames: total {ratio['total_p50']:.2f}, network {ratio['network_p50']:.2f}"
        )
    if "parity" in report:
        found = report["parity"]
        rows.append(
            f"parity over {found['frames']} frames, {found['starts']} starts: outputs differ by at most "
            f"{found['worst']:.1e} (tolerance {found['tolerance']:g}): {'passed' if found['passed'] else 'FAILED'}"
        )
    for engine, values in report.get("memory", {}).items():
        rows.append(f"peak memory {engine}: {values['peak_mib']:.0f} MiB (imports {values['imports_mib']:.0f} MiB)")
    return "\n".join(rows)


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="tutelage bench",
        description="Latency, deadline misses and memory of an export; with --against also parity (else exit 1).",
    )
    parse.add_argument("onnx", metavar="OUT.onnx")
    parse.add_argument("--against", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="PyTorch beside it, interleaved")
    parse.add_argument("--frames", type=int, default=50, metavar="N")
    parse.add_argument("--hz", type=float, help="rate of the deadline loop; default: the manifest's")
    parse.add_argument("--rig", metavar="RIG.json", help="default: six drawn cameras that deliver the network's size")
    parse.add_argument("--moving-cameras", action="store_true", help="rebuild the geometry with every frame")
    parse.add_argument("--providers", nargs="+", metavar="P", help="default: TensorRT, CUDA, CPU as available")
    parse.add_argument("--threads", type=int, help="CPU threads of both engines; default: all cores")
    parse.add_argument("--no-memory", action="store_true", help="skip the memory measurement (a process per engine)")
    parse.add_argument("--out", metavar="FILE.json", help="default: OUT.bench.json")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    threads = args.threads or os.cpu_count()
    if args.frames < 1:
        raise ConfigError(f"--frames {args.frames}: at least 1 is needed")
    try:
        manifest = Manifest.load(args.onnx)
        fixed = manifest.input("images").shape[1]
        rig = Rig.load(args.rig) if args.rig else surround_rig(manifest, fixed if isinstance(fixed, int) else 6)
        if args.against and rig.raw_size:
            raise ConfigError(f"{args.rig}: raw_size must be null beside --against, PyTorch takes network-sized images")
        against = TorchStream.load(*args.against, manifest, rig, threads) if args.against else None
        report = measure(
            args.onnx,
            rig,
            frames=args.frames,
            hz=args.hz,
            against=against,
            providers=args.providers,
            threads=threads,
            moving_cameras=args.moving_cameras,
        )
        if not args.no_memory:
            same = {"against": args.against, "providers": args.providers, "threads": threads}
            engines = ("onnx", "torch") if args.against else ("onnx",)
            report["memory"] = {engine: memory(engine, args.onnx, rig, **same) for engine in engines}
        if against is not None:
            report["torch_device"] = str(against.device)
            report["parity"] = parity(against.detector, args.onnx, rig, providers=args.providers, threads=threads)
    except (InputError, ManifestError, ProviderError) as error:
        raise ConfigError(str(error)) from error
    out = Path(args.out or Path(args.onnx).with_suffix(".bench.json"))
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    print(f"written to {out}")
    return 0 if report.get("parity", {"passed": True})["passed"] else 1
