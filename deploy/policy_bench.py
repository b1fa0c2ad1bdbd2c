"""`tutelage bench OUT.onnx` of a policy: time of every control step, a control loop in real time, memory.

Both engines see the same observations in the same run, step by step in alternating order; a step that starts no call
counts as a step. The loop runs with a robot that only listens, so its misses are the policy's and the machine's.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.errors import ConfigError
from deploy.runtime.control_loop import ControlLoop
from deploy.runtime.deadline import percentiles
from deploy.runtime.errors import InputError, ManifestError, ProviderError
from deploy.runtime.exported import open_manifest, open_policy
from deploy.runtime.reactive import ReactiveManifest

WARM_UP = 20


def drawn_observations(manifest, count: int, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Observations inside the demonstrations' range (images: any bytes), a random walk of `count` steps."""
    random = np.random.default_rng(seed)
    position = {one.name: random.random(one.shape) for one in manifest.observations}
    for _ in range(count):
        step = {}
        for one in manifest.observations:
            position[one.name] = (position[one.name] + 0.02 * random.standard_normal(one.shape)).clip(0, 1)
            low, high = (0.0, 255.0) if one.dtype == "uint8" else (-1.0, 1.0)
            low, high = (np.asarray(one.low), np.asarray(one.high)) if one.low else (low, high)
            step[one.name] = (low + (high - low) * position[one.name]).astype(one.dtype)
        yield step


def torch_policy(config: str, checkpoint: str, options: list[str], manifest):
    """The same policy in PyTorch: of a diffusion policy or a planner the plan that was exported, with averaged
    weights."""
    from common.engine.config import load_config, parse_options

    loaded = load_config(config, parse_options(options))
    if isinstance(manifest, ReactiveManifest):
        from deploy.reactive_export_command import load_actor

        return load_actor(loaded, checkpoint)
    if "way" in manifest.source:
        from control.rl.rl100.collect import ChunkPolicy
        from deploy.rl100_export_command import load_policy as load_chunks

        policy = ChunkPolicy(load_chunks(loaded, checkpoint)[0], manifest.source["way"])
        policy.reset([0])
        return policy
    from control.policies.evaluation import actor
    from deploy.policy_export_command import load_policy, plans

    plan, known = manifest.source.get("plan", ""), plans(loaded)
    if plan not in known:
        raise ConfigError(f"{config} has the plans {', '.join(known)}; the export holds {plan!r}")
    policy = actor(load_policy(loaded, checkpoint), known[plan])
    policy.reset([0])
    return policy


def measure(
    path: str | Path, *, steps: int = 500, hz: float | None = None, threads: int = 1, against=None, providers=None
) -> dict:
    """Milliseconds of `steps` control steps after a warm-up, and of a loop of as many ticks (at most 10 s) at `hz`
    (default: the manifest's rate).

    against: a PyTorch policy that has been reset. Returns a dictionary that is JSON as it stands.
    """
    policy = open_policy(path, threads=threads, providers=providers)
    manifest = policy.manifest
    policy.warm_up()
    policy.reset(0)
    onnx, torch = [], []
    for i, observation in enumerate(drawn_observations(manifest, steps + WARM_UP)):
        runs = [(onnx, lambda o=observation: policy.select_action(o))]
        if against is not None:
            batched = {name: value[None] for name, value in observation.items()}
            runs.append((torch, lambda o=batched: against.select_action(o)))
        for times, run in runs if i % 2 else runs[::-1]:
            begin = time.perf_counter()
            run()
            if i >= WARM_UP:
                times.append(time.perf_counter() - begin)
    policy.reset(0)
    rate = hz or manifest.rate_hz
    ticks = max(1, min(steps, int(10 * rate)))
    observations = iter(list(drawn_observations(manifest, ticks + 1)))
    loop = ControlLoop(policy, lambda: next(observations), lambda action, tick: None,
                       np.zeros(manifest.action_dim, np.float32), rate)  # fmt: skip
    report = {
        "model": Path(path).name,
        "evaluations_per_action": manifest.evaluations / manifest.execute,
        "threads": threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "onnx": percentiles(onnx),
        "loop": {**loop.run(ticks).summary(), "hz": rate, "jitter_ms": 1e3 * float(np.std(loop.lateness))},
    }
    if torch:
        report["torch"] = percentiles(torch)
        report["torch_over_onnx"] = float(np.sum(torch) / np.sum(onnx))
    return report


def table(report: dict) -> str:
    """Markdown of a report of `measure`."""
    columns = ("mean_ms", "p50_ms", "p99_ms", "max_ms")
    rows = ["| ms per control step | mean | p50 | p99 | worst |", "|---|---:|---:|---:|---:|"]
    for engine in ("onnx", "torch"):
        if engine in report:
            rows.append(f"| {engine} | " + " | ".join(f"{report[engine][key]:.3f}" for key in columns) + " |")
    loop = report["loop"]
    rows += [
        "",
        f"{report['evaluations_per_action']:g} network evaluations per action, {report['threads']} threads, "
        f"{report['machine']}",
        f"loop at {loop['hz']:g} Hz: slowest call {loop['max_ms']:.3f} ms, p99 {loop['p99_ms']:.3f} ms of "
        f"{loop['period_ms']:.2f} ms, jitter {loop['jitter_ms']:.3f} ms, worst lateness "
        f"{loop['worst_lateness_ms']:.3f} ms, miss rate {loop['miss_rate']:.4f}",
    ]
    if "torch_over_onnx" in report:
        rows.append(f"PyTorch / ONNX, sum of all steps: {report['torch_over_onnx']:.2f}")
    return "\n".join(rows)


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="tutelage bench", description="Latency and deadline misses of a policy.")
    parse.add_argument("onnx", metavar="OUT.onnx")
    parse.add_argument("--against", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="PyTorch beside it, interleaved")
    parse.add_argument("--cfg-options", nargs="+", default=[], metavar="K=V", help="of CONFIG")
    parse.add_argument("--steps", type=int, default=500, metavar="N")
    parse.add_argument("--hz", type=float, help="rate of the control loop; default: the manifest's")
    parse.add_argument("--providers", nargs="+", metavar="P", help="default: TensorRT, CUDA, CPU as available")
    parse.add_argument("--threads", type=int, default=1, help="CPU threads of both engines")
    parse.add_argument("--out", metavar="FILE.json", help="default: OUT.bench.json")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.steps < 1:
        raise ConfigError(f"--steps {args.steps}: at least 1 is needed")
    against = None
    try:
        if args.against:
            import torch

            torch.set_num_threads(args.threads)
            against = torch_policy(*args.against, args.cfg_options, open_manifest(args.onnx))
        report = measure(args.onnx, steps=args.steps, hz=args.hz, threads=args.threads, against=against,
                         providers=args.providers)  # fmt: skip
    except (InputError, ManifestError, ProviderError) as error:
        raise ConfigError(str(error)) from error
    out = Path(args.out or Path(args.onnx).with_suffix(".bench.json"))
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    print(f"written to {out}")
    return 0
