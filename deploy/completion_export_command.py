"""`tutelage export` for scene completion: CONFIG CHECKPOINT OUT.onnx, a teacher or a distilled student."""

import argparse
from pathlib import Path

import numpy as np
import torch

from common.errors import ConfigError
from deploy.completion_export import export_completion
from deploy.onnx_common import export_parser, onnx_path, provenance
from deploy.runtime.completion import SceneCompleter

TOLERANCE = 1e-4  # m of predicted noise, in one evaluation
FLIPPED = 1e-3  # share of points that may lie within rounding of a voxel's border


def load_completion(config, checkpoint: str):
    """The config's `CompletionModel` with a checkpoint's (averaged) weights; of a distillation, the student."""
    from mmengine.registry import MODELS

    from common.engine.checkpoint import load_weights

    described = dict(config.model)
    if "checkpoint" in described:  # the student's checkpoint holds its teacher too
        described["checkpoint"] = None
    model = MODELS.build(described)
    load_weights(model, checkpoint)
    return (model.as_model() if hasattr(model, "as_model") else model).eval()


def first_sample(config) -> dict:
    """The first held-out sample of a config; of towns, which are made on first use, no more than it."""
    from mmengine.registry import DATASETS

    dataset = dict(config.test_dataloader.dataset)
    if "count" in dataset:
        dataset["count"] = 1
    return DATASETS.build(dataset)[0]


def refinement(config: str, checkpoint: str, options: list[str]):
    """The `Refiner` of a refinement's config and checkpoint; of the options of a completion those that it shares."""
    from mmengine.registry import MODELS

    from common.engine.checkpoint import load_weights
    from common.engine.config import load_config, parse_options

    shared = {key: value for key, value in parse_options(options).items() if key in ("profile", "radius", "towns")}
    model = MODELS.build(load_config(config, shared).model)
    load_weights(model, checkpoint)
    return model.refine.eval()


def refinement_parity(refiner, path: Path, points: np.ndarray) -> float:
    """Largest difference in metres of refined points (P, 3) between PyTorch and the exported graph."""
    with torch.no_grad():
        theirs = refiner(torch.from_numpy(points)[None])[0].numpy()
    return float(np.abs(SceneCompleter(path).refined(points) - theirs).max())


def parity(model, path: Path, scan: np.ndarray, seed: int) -> tuple[float, float]:
    """Largest difference of one evaluation's predicted noise between PyTorch and the exported graphs, and the share of
    a whole completion's points that differ by more than 1 mm, for the same noise."""
    from perception.completion.model import seeded_noise

    completer = SceneCompleter(path, refine=False)
    scans = torch.from_numpy(scan)[None]
    anchor = scans.repeat(1, model.profile.copies, 1)
    steps = model.steps
    noise = seeded_noise(torch.tensor([seed]), (steps + 1, *anchor.shape[1:]), anchor)[0]
    with torch.no_grad():
        theirs = model.complete(scans, torch.tensor([seed]))[0].numpy()
        x, seen = anchor + noise[:1], model.encoder(scans)
        single = model.predict(x, torch.tensor(0.5), seen)[0].numpy()
    ours = completer.predict(x[0].numpy(), 499, [(1.0, completer.encode(scan))])
    whole = completer(scan, noise=noise[0].numpy(), thin=False).raw
    return float(np.abs(ours - single).max()), float((np.abs(whole - theirs).max(1) > 1e-3).mean())


def parser() -> argparse.ArgumentParser:
    parse = export_parser("Export a completion: graphs and manifest.")
    parse.add_argument("--refinement", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="a refinement to export with it")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Export, then complete a scene with both; 1 if they differ by more than the limits."""
    args = parser().parse_args(argv)
    from common.engine.config import load_config, parse_options

    out = onnx_path(args.out)
    config = load_config(args.config, parse_options(args.cfg_options))
    model = load_completion(config, args.checkpoint)
    if model.sampler != "local":
        raise ConfigError(f"model.sampler={model.sampler!r}: the runtime samples by 'local'; test and export that")
    refiner = refinement(*args.refinement, args.cfg_options) if args.refinement else None
    sample = first_sample(config)
    profile, scan = model.profile, sample["scan"].numpy()
    manifest = export_completion(
        model.encoder, model.predict, out, scan, radius=profile.radius, near=profile.near,
        scan_points=profile.scan_points, copies=profile.copies, steps=model.steps, guidance=model.guidance,
        refiner=refiner, source=provenance(args.config, args.checkpoint),
    )  # fmt: skip
    names = [name for name in (manifest.model, manifest.encoder, manifest.refinement) if name]
    size = sum(out.with_name(name).stat().st_size for name in names) / 2**20
    print(f"{out}: {manifest.steps} steps, guidance {manifest.guidance:g}, {size:.1f} MiB")
    worst, flipped = parity(model, out, scan, sample["seed"])
    if refiner is not None:
        gap = refinement_parity(refiner, out, sample["scene"].numpy())
        worst = max(worst, gap)
        print(f"refined points differ by at most {gap:.2e} (limit {TOLERANCE:g})")
    print(
        f"predicted noise differs by at most {worst:.2e} (limit {TOLERANCE:g}); of a whole completion's points "
        f"{100 * flipped:.2f} % by more than 1 mm (limit {100 * FLIPPED:g} %)"
    )
    return 0 if worst <= TOLERANCE and flipped <= FLIPPED else 1
