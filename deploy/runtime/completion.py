"""A completed scene from one scan, by numpy and onnxruntime alone: tables, few-step sampling, output filter.

completer = SceneCompleter("completion.onnx")
scene = completer(scan)                      # (n, 3) metres, sensor at the origin -> (N, 3)
print(scene.points.shape, scene.seconds)
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime as ort

from .completion_manifest import CompletionManifest
from .errors import InputError, ManifestError
from .session import choose_providers
from .sparse import VoxelTables, build_tables, match, voxel_mean
from .thinning import spread


@dataclass(frozen=True)
class CompletedScene:
    """points (N', 3) after the output filter and, where asked for, refinement; raw (N, 3) before both; seconds:
    preparation (thinning, tables, encoder), sampling (all evaluations) and refinement; evaluations of the denoiser."""

    points: np.ndarray
    raw: np.ndarray
    seconds: dict[str, float]
    evaluations: int


class Host:
    """What a manifest asks of the machine beside the graphs: thinning, tables, features, matches, output filter."""

    def __init__(self, manifest: CompletionManifest):
        self.manifest = manifest

    def prepare(self, scan: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """(scan_points, 3): points in range, drawn evenly over space as far as there are enough."""
        points, m = self.checked(scan), self.manifest
        distance = np.linalg.norm(points, axis=1)
        points = points[(distance > m.near) & (distance < m.radius)]
        if not len(points):
            raise InputError(
                f"no point of the scan lies between {m.near} and {m.radius} m: is the sensor at the origin?"
            )
        return spread(points, m.scan_points, random)

    @staticmethod
    def checked(scan: np.ndarray) -> np.ndarray:
        """(P, 3) float32 of a scan (P, 3) or (P, 4). Raises: InputError."""
        scan = np.asarray(scan, np.float32)
        if scan.ndim != 2 or scan.shape[1] not in (3, 4):
            raise InputError(f"the scan is {scan.shape}, wanted (P, 3) or (P, 4): x, y, z in metres, reflectance")
        points = scan[:, :3]
        if not np.isfinite(points).all():
            raise InputError(f"{int((~np.isfinite(points)).any(1).sum())} points of the scan are not finite")
        if not len(points):
            raise InputError("the scan has no point")
        return points

    def keep(self, x: np.ndarray, scan: np.ndarray) -> np.ndarray:
        """(N,) bool: within the radius, and at heights that the scan makes likely."""
        z = scan[:, 2]
        low, high = z.mean() - 2 * z.std(), z.max()
        return (np.linalg.norm(x, axis=1) < self.manifest.radius) & (x[:, 2] > low) & (x[:, 2] < high)

    def _features(self, points: np.ndarray, tables: VoxelTables) -> np.ndarray:
        m, features = self.manifest, points
        if m.feature_radius is not None:
            cells = points / np.float32(m.voxel)
            features = np.concatenate([points / np.float32(m.feature_radius), cells - np.round(cells)], 1)
        return voxel_mean(features, tables.point2voxel, len(tables.levels[0].coords))

    def tables(self, points: np.ndarray) -> tuple[VoxelTables, dict[str, np.ndarray]]:
        """Tables of points (P, 3), and the graphs' inputs that follow from them."""
        tables = build_tables(points, self.manifest.voxel, self.manifest.levels)
        feed = {"features": self._features(points, tables)}
        for l, level in enumerate(tables.levels):
            feed[f"neighbours{l}"] = level.neighbours
            if level.child is not None:
                feed[f"child{l}"], feed[f"place{l}"] = level.child, level.place
        return tables, feed

    def places(self, coords: np.ndarray, level: int) -> np.ndarray:
        """What a level's voxels are matched by, in voxels of level 0."""
        return (coords + 0.5) * 2**level - 0.5 if self.manifest.match == "centres" else coords * 2**level

    def matched(self, tables: VoxelTables, places: np.ndarray) -> dict[str, np.ndarray]:
        """match0, match1, ...: for every level the row of places (R, 3) nearest to each voxel."""
        return {f"match{l}": match(self.places(one.coords, l), places) for l, one in enumerate(tables.levels)}


class SceneCompleter(Host):
    """Runs an exported encoder and denoiser.

    Args: path of OUT.onnx; OUT.encoder.onnx and OUT.json stand beside it. steps, guidance: others than the manifest's;
    refine: six points for each by the exported refinement, by default where there is one.
    Raises: ManifestError, also where a refinement is asked for that was not exported; ProviderError.
    """

    def __init__(
        self, path: str | Path, *, steps: int | None = None, guidance: float | None = None,
        refine: bool | None = None, providers: list[str] | None = None, threads: int | None = None,
    ):  # fmt: skip
        super().__init__(CompletionManifest.load(path))
        manifest = self.manifest
        if refine and manifest.refinement is None:
            raise ManifestError(f"{path} was exported without a refinement: export it with --refinement")
        self.steps = manifest.steps if steps is None else steps
        if not 1 <= self.steps < manifest.train_steps:
            raise InputError(f"steps={self.steps}: choose 1 to {manifest.train_steps - 1}")
        self.guidance = manifest.guidance if guidance is None else guidance
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        chosen = choose_providers(providers)

        def session(name: str) -> ort.InferenceSession:
            return ort.InferenceSession(str(Path(path).with_name(name)), options, providers=chosen)

        self._encoder, self._denoiser = session(manifest.encoder), session(manifest.model)
        self._refiner = session(manifest.refinement) if manifest.refinement and refine is not False else None
        self._empty = self.encode(np.zeros((1, 3), np.float32)) if self.guidance != 1 else None

    def __call__(
        self, scan: np.ndarray, *, seed: int = 0, noise: np.ndarray | None = None, thin: bool = True
    ) -> CompletedScene:
        """Complete a scan (P, 3), or (P, 4) with reflectance, in metres.

        seed: of the thinning and of the noise; noise (N, 3) standard normal instead. thin: crop to the range and take
        `scan_points` of the points; False for a scan that is prepared already.
        Raises: InputError for a scan of another shape, with points that are not finite, or none in range.
        """
        m, random = self.manifest, np.random.default_rng(seed)
        begin = time.perf_counter()
        points = self.prepare(scan, random) if thin else self.checked(scan)
        anchor = np.tile(points, (m.copies, 1))
        noise = random.standard_normal(anchor.shape) if noise is None else np.asarray(noise)
        if noise.shape != anchor.shape:
            raise InputError(f"noise is {noise.shape}, wanted {anchor.shape}: {m.copies} copies of the scan's points")
        conditions = [(1.0, self.encode(points))]
        if self._empty is not None:  # out = empty + w (seen - empty)
            conditions = [(self.guidance, conditions[0][1]), (1 - self.guidance, self._empty)]
        prepared = time.perf_counter()
        levels = np.append(np.round(np.linspace(m.train_steps - 1, 0, self.steps + 1))[:-1], -1).astype(int)
        sigma = np.append(np.asarray(m.sigma), 0.0).astype(np.float32)  # the last entry, index -1: clean
        x = anchor + sigma[levels[0]] * noise.astype(np.float32)
        for now, then in pairwise(levels):
            clean = x - sigma[now] * self.predict(x, now, conditions)
            x = clean + sigma[then] * ((x - clean) / sigma[now])
        sampled = time.perf_counter()
        kept = x[self.keep(x, points)]
        kept = kept if len(kept) else x  # a filter that leaves nothing says nothing
        if self._refiner is not None:
            kept = self.refined(kept)
        seconds = {"preparation": prepared - begin, "sampling": sampled - prepared}
        if self._refiner is not None:
            seconds["refinement"] = time.perf_counter() - sampled
        return CompletedScene(kept, x, seconds, self.steps * len(conditions))

    def encode(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (R, E) of a scan and what their voxels are matched by (R, 3)."""
        tables, feed = self.tables(points)
        wanted = {node.name for node in self._encoder.get_inputs()}
        (encoded,) = self._encoder.run(None, {name: value for name, value in feed.items() if name in wanted})
        return encoded, self.places(tables.levels[-1].coords, len(tables.levels) - 1)

    def predict(self, x: np.ndarray, index: int, conditions: list) -> np.ndarray:
        """(P, 3) predicted noise of points (P, 3) at an index of the schedule: the sum over conditions, (weight, what
        `encode` returned)."""
        tables, feed = self.tables(x)
        feed |= {"point2voxel": tables.point2voxel, "index": np.array([index], np.float32)}
        total = np.float32(0)
        for weight, (encoded, places) in conditions:
            more = {**self.matched(tables, places), "encoded": encoded}
            total = total + np.float32(weight) * self._denoiser.run(None, {**feed, **more})[0]
        return total

    def refined(self, x: np.ndarray) -> np.ndarray:
        """(6 P, 3): what the refinement makes of points (P, 3)."""
        tables, feed = self.tables(x)
        feed["point2voxel"] = tables.point2voxel
        (offsets,) = self._refiner.run(None, {node.name: feed[node.name] for node in self._refiner.get_inputs()})
        return (x[:, None] + offsets).reshape(-1, 3)
