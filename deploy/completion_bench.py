"""`tutelage bench OUT.onnx` of a scene completion: seconds per scan, part by part, and PyTorch beside it.

Both engines complete the same prepared scans from the same noise in alternating order in the same run.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np

from common.errors import ConfigError
from deploy.runtime.completion import SceneCompleter
from deploy.runtime.completion_manifest import CompletionManifest
from deploy.runtime.deadline import percentiles
from deploy.runtime.errors import InputError, ManifestError, ProviderError

RINGS, FLOOR = 32, -1.8  # of a drawn scan: beams, m of the ground below the sensor


def drawn_scan(manifest: CompletionManifest, seed: int, points: int = 16_384) -> np.ndarray:
    """(points, 3) on a plane and a wall in the manifest's range: a scan's density without any file."""
    random = np.random.default_rng(seed)
    azimuth = random.uniform(0, 2 * np.pi, points)
    distance = manifest.near + (manifest.radius - manifest.near) * random.integers(RINGS, size=points) / RINGS
    ground = np.stack([distance * np.cos(azimuth), distance * np.sin(azimuth), np.full(points, FLOOR)], 1)
    wall = random.random(points) < 0.3
    ground[wall, 1] = 0.6 * manifest.radius
    ground[wall, 2] = random.uniform(FLOOR, 2.0, int(wall.sum()))
    return (ground + 0.02 * random.standard_normal(ground.shape)).astype(np.float32)


def torch_completion(config: str, checkpoint: str, options: list[str], completer: SceneCompleter):
    """(scan (n, 3), noise (N, 3)) -> (N, 3) by PyTorch, with the steps and guidance of the export."""
    import torch

    from common.engine.config import load_config, parse_options
    from deploy.completion_export_command import load_completion
    from perception.completion.model import guided_denoiser
    from perception.completion.sampling import lidiff_local, sample_local, start

    model = load_completion(load_config(config, parse_options(options)), checkpoint)

    @torch.no_grad()
    def complete(scan: np.ndarray, noise: np.ndarray) -> np.ndarray:
        scans = torch.from_numpy(scan)[None]
        seen, empty = model.encoder(scans), model.encoder.empty(1) if completer.guidance != 1 else None
        denoise = guided_denoiser(model.predict, seen, empty, completer.guidance)
        x = start(scans.repeat(1, completer.manifest.copies, 1), lidiff_local(), torch.from_numpy(noise)[None])
        return sample_local(denoise, x, completer.steps)[0].numpy()

    return complete


def measure(completer: SceneCompleter, scans: list[np.ndarray], repeats: int, against=None) -> dict:
    """Milliseconds of every part over `repeats` completions after one that is not counted.

    against: of `torch_completion`. Returns a dictionary that is JSON as it stands.
    """
    parts: dict[str, list[float]] = {}
    torch, equal, points = [], [], []
    for i in range(repeats + 1):
        random, begin = np.random.default_rng(i), time.perf_counter()
        scan = completer.prepare(scans[i % len(scans)], random)
        thinning = time.perf_counter() - begin
        noise = random.standard_normal((len(scan) * completer.manifest.copies, 3)).astype(np.float32)
        found = completer(scans[i % len(scans)], seed=i, noise=noise)
        if against is not None:
            begin = time.perf_counter()
            against(scan, noise)
            torch.append(time.perf_counter() - begin)
            equal.append(found.seconds["preparation"] + found.seconds["sampling"] - thinning)
        for name, seconds in found.seconds.items():
            parts.setdefault(name, []).append(seconds)
        points.append(len(found.points))
    whole = np.sum(list(parts.values()), 0)
    report = {
        "evaluations": found.evaluations,
        "points": float(np.mean(points)),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "parts": {name: percentiles(values[1:]) for name, values in parts.items()},
        "whole": percentiles(whole[1:]),
    }
    if torch:
        report["torch"] = percentiles(torch[1:])
        report["torch_over_onnx"] = float(np.sum(torch[1:]) / np.sum(equal[1:]))
    return report


def table(report: dict) -> str:
    """Markdown of a report of `measure`."""
    columns = ("mean_ms", "p50_ms", "p99_ms", "max_ms")
    lines = {**report["parts"], "whole completion": report["whole"]}
    if "torch" in report:
        lines["PyTorch, encoder and sampling"] = report["torch"]
    rows = ["| ms per scan | mean | p50 | p99 | worst |", "|---|---:|---:|---:|---:|"]
    rows += [f"| {name} | " + " | ".join(f"{one[key]:.1f}" for key in columns) + " |" for name, one in lines.items()]
    rows += ["", f"{report['evaluations']} evaluations, {report['points']:.0f} points on average, {report['machine']}"]
    if "torch_over_onnx" in report:
        rows.append(f"PyTorch / ONNX, tables, encoder and sampling of all scans: {report['torch_over_onnx']:.2f}")
    return "\n".join(rows)


def read_scan(path: Path) -> np.ndarray:
    """(P, 3) of a KITTI-like file. Raises: InputError."""
    if not path.is_file() or not path.stat().st_size or path.stat().st_size % 16:
        raise InputError(f"{path}: wanted a file of float32 x, y, z, reflectance")
    return np.fromfile(path, np.float32).reshape(-1, 4)[:, :3]


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="tutelage bench", description="Seconds per scan of a scene completion.")
    parse.add_argument("onnx", metavar="OUT.onnx")
    parse.add_argument("--scan", nargs="+", type=Path, default=[], metavar="FILE.bin", help="default: drawn scans")
    parse.add_argument("--against", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="PyTorch beside it, interleaved")
    parse.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V", help="of CONFIG")
    parse.add_argument("--scans", type=int, default=20, metavar="N", help="completions to time")
    parse.add_argument("--providers", nargs="+", metavar="P", help="default: TensorRT, CUDA, CPU as available")
    parse.add_argument("--threads", type=int, default=1, help="CPU threads of both engines")
    parse.add_argument("--out", metavar="FILE.json", help="default: OUT.bench.json")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.scans < 1:
        raise ConfigError(f"--scans {args.scans}: at least 1 is needed")
    try:
        completer = SceneCompleter(args.onnx, providers=args.providers, threads=args.threads)
        scans = [read_scan(path) for path in args.scan] or [drawn_scan(completer.manifest, seed) for seed in range(4)]
        against = None
        if args.against:
            import torch

            torch.set_num_threads(args.threads)
            against = torch_completion(*args.against, args.cfg_options, completer)
        report = measure(completer, scans, args.scans, against)
    except (InputError, ManifestError, ProviderError) as error:
        raise ConfigError(str(error)) from error
    print(table(report))
    out = Path(args.out) if args.out else Path(args.onnx).with_suffix(".bench.json")
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {out}")
    return 0
