"""Export of a scene completion: scan encoder, noise predictor and refinement as graphs, with a manifest.

The graphs take integer tables that the host builds (`deploy/runtime/sparse.py`) and hold gathers and products only; the
numbers of points and voxels are free. One scan at a time: a graph's norms are over the voxels of one sample.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from common.errors import ConfigError
from common.nn.sparse.tables import Rows
from deploy.onnx_common import OPSET, quiet
from deploy.runtime.completion import Host
from deploy.runtime.completion_manifest import CompletionManifest
from deploy.runtime.manifest import sha256
from perception.completion.network import Encoder, NoisePredictor, Refiner
from perception.completion.sampling import STEPS, lidiff_local


class GraphLevel:
    """What the networks ask of a level inside a graph."""

    samples = 1

    def __init__(self, neighbours: Tensor, child: Tensor | None = None, place: Tensor | None = None):
        self.neighbours, self.place = neighbours, place
        self.child = None if child is None else child.reshape(-1, 8)


def graph_levels(count: int, tables: dict[str, Tensor]) -> list[GraphLevel]:
    """Levels from the graph's inputs neighbours0, child0, place0, neighbours1, ..."""
    return [
        GraphLevel(tables[f"neighbours{l}"], tables.get(f"child{l}"), tables.get(f"place{l}")) for l in range(count)
    ]


class EncoderGraph(nn.Module):
    """features, then per level neighbours and child -> encoded (R, E)."""

    named = 1

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.net, self.levels = encoder.net, encoder.spec.levels
        self.inputs = ["features", *table_names(self.levels, place=False)]

    def forward(self, features: Tensor, *tables: Tensor) -> Tensor:
        levels = graph_levels(self.levels, dict(zip(self.inputs[1:], tables, strict=True)))
        return self.net(features, levels)


class DenoiserGraph(nn.Module):
    """features, index, encoded, point2voxel, a match per level, tables -> noise (P, 3)."""

    named = 4

    def __init__(self, denoiser: NoisePredictor):
        super().__init__()
        self.net, self.levels = denoiser.net, denoiser.spec.levels
        self.matches = [f"match{l}" for l in range(self.levels)]
        self.inputs = ["features", "index", "encoded", "point2voxel", *self.matches, *table_names(self.levels)]

    def forward(self, features: Tensor, index: Tensor, encoded: Tensor, point2voxel: Tensor, *more: Tensor) -> Tensor:
        given = dict(zip(self.inputs[4:], more, strict=True))
        matches = [Rows(given[name], None, None) for name in self.matches]
        sample = torch.zeros_like(encoded[:, 0], dtype=torch.long)
        levels = graph_levels(self.levels, given)
        return self.net(features, index, encoded, sample, matches, levels, Rows(point2voxel, None, None))


class RefinerGraph(nn.Module):
    """features, point2voxel, tables -> offsets (P, 6, 3)."""

    named = 2

    def __init__(self, refiner: Refiner):
        super().__init__()
        self.net, self.levels = refiner.net, refiner.spec.levels
        self.inputs = ["features", "point2voxel", *table_names(self.levels)]

    def forward(self, features: Tensor, point2voxel: Tensor, *tables: Tensor) -> Tensor:
        levels = graph_levels(self.levels, dict(zip(self.inputs[2:], tables, strict=True)))
        return self.net(features, levels, Rows(point2voxel, None, None))


def table_names(levels: int, place: bool = True) -> list[str]:
    """Inputs of a graph that hold the tables."""
    names = []
    for l in range(levels):
        names.append(f"neighbours{l}")
        if l + 1 < levels:
            names += [f"child{l}", *([f"place{l}"] if place else [])]
    return names


def write_graph(graph: nn.Module, feed: dict[str, np.ndarray], path: Path, output: str) -> None:
    """Trace a graph on an example and write it. Raises RuntimeError for an invalid graph."""
    inputs = tuple(torch.from_numpy(np.ascontiguousarray(feed[name])) for name in graph.inputs)
    free = [{} if name == "index" else {0: Dim.DYNAMIC} for name in graph.inputs]
    fixed = graph.named  # the rest are the forward's *arguments, one tuple
    with quiet(), torch.no_grad():
        torch.onnx.export(
            graph.eval(), inputs, str(path), input_names=graph.inputs, output_names=[output], opset_version=OPSET,
            dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=(*free[:fixed], tuple(free[fixed:])),
        )  # fmt: skip
    onnx.checker.check_model(onnx.load(path))


def export_completion(
    encoder: Encoder, denoiser: NoisePredictor, path: str | Path, example: np.ndarray, *, radius: float, near: float,
    scan_points: int, copies: int, steps: int, guidance: float = 1.0, refiner: Refiner | None = None,
    source: dict | None = None,
) -> CompletionManifest:  # fmt: skip
    """Write `path` (the denoiser), its encoder, its refinement where there is one, and its manifest, which it returns.

    example: a scan (n, 3) in range, for tracing. Raises: ConfigError for networks of different voxels.
    """
    spec = encoder.spec
    for name, one in (("denoiser", denoiser), ("refinement", refiner)):
        if one is not None and spec != one.spec:
            raise ConfigError(f"the encoder has {spec}, the {name} {one.spec}: export networks of one kind of voxels")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.stem + ".encoder.onnx")
    levels = (torch.arange(STEPS, dtype=torch.float64) + 1) / STEPS
    manifest = CompletionManifest(
        model=path.name, sha256="", encoder=beside.name, encoder_sha256="", opset=OPSET, voxel=spec.voxel,
        levels=spec.levels, feature_radius=spec.radius, match=spec.match, radius=radius, near=near,
        scan_points=scan_points, copies=copies, steps=steps, guidance=guidance, train_steps=STEPS,
        sigma=tuple(lidiff_local().sigma(levels).tolist()), source=source or {},
    )  # fmt: skip
    host = Host(manifest)
    points = np.asarray(example, np.float32)
    seen, feed = host.tables(points)
    write_graph(EncoderGraph(encoder.cpu().eval()), feed, beside, "encoded")
    with torch.no_grad():
        encoded = encoder(torch.from_numpy(points)[None]).features.numpy()
    tables, feed = host.tables(points + 0.3 * np.random.default_rng(0).standard_normal(points.shape).astype(np.float32))
    places = host.places(seen.levels[-1].coords, spec.levels - 1)
    feed |= host.matched(tables, places) | {"encoded": encoded, "point2voxel": tables.point2voxel}
    write_graph(DenoiserGraph(denoiser.cpu().eval()), {**feed, "index": np.array([500], np.float32)}, path, "noise")
    hashes = {"sha256": sha256(path), "encoder_sha256": sha256(beside)}
    if refiner is not None:
        file = path.with_name(path.stem + ".refinement.onnx")
        write_graph(RefinerGraph(refiner.cpu()), {**feed, "point2voxel": tables.point2voxel}, file, "offsets")
        hashes |= {"refinement": file.name, "refinement_sha256": sha256(file)}
    done = CompletionManifest(**{**vars(manifest), **hashes})
    done.save(path.with_suffix(".json"))
    return done
