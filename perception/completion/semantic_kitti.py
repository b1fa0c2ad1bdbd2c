"""SemanticKITTI sequences as completion data: the map of a sequence, once, and a sample per scan (LiDiff, CVPR 2024).

Layout: ROOT/SEQ/{velodyne/*.bin, labels/*.label, poses.txt, calib.txt}. The map lies beside them as map_clean.npz.
"""

import hashlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import DataError
from common.geometry import invert, transform
from perception.completion.cells import BITS, keys

TRAIN, VALIDATION = ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"), ("08",)
FIRST_MOVING = 252  # labels from here on move; 0 and 1 are unlabelled and outliers
OWN_CAR = 3.5  # m: nearer points are the car itself
CELL = 0.1  # m, of the map


def read_scan(path: Path) -> np.ndarray:
    """(P, 4) float32 x, y, z in metres and reflectance. Raises: FileNotFoundError, DataError."""
    size = path.stat().st_size
    if not size or size % 16:
        raise DataError(f"{path}: {size} bytes are no whole number of points of 16 bytes: the file is cut short")
    points = np.fromfile(path, np.float32).reshape(-1, 4)
    if not np.isfinite(points).all():
        raise DataError(f"{path}: {int((~np.isfinite(points)).any(1).sum())} points are not finite")
    return points


def read_labels(path: Path, points: int) -> np.ndarray:
    """(P,) semantic classes, the low 16 bits of each label. Raises: DataError for another number of points."""
    labels = np.fromfile(path, np.uint32) & 0xFFFF
    if len(labels) != points:
        raise DataError(
            f"{path}: {len(labels)} labels for {points} points of the scan: the files do not belong together"
        )
    return labels


def static(labels: np.ndarray) -> np.ndarray:
    """(P,) bool: labelled, and of a class that does not move."""
    return (labels > 1) & (labels < FIRST_MOVING)


def read_poses(folder: Path) -> np.ndarray:
    """(N, 4, 4) velodyne2first: Tr^-1 P_i Tr with the camera poses P_i and Tr, velodyne to camera.

    Raises: DataError when a file is missing or of another form.
    """
    for name in ("poses.txt", "calib.txt"):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing: SemanticKITTI's odometry comes with poses.txt and calib.txt")
    rows = [line.split() for line in (folder / "calib.txt").read_text().splitlines() if line.startswith("Tr:")]
    if len(rows) != 1 or len(rows[0]) != 13:
        raise DataError(f"{folder / 'calib.txt'}: wanted one line 'Tr:' of 12 numbers")
    try:
        velodyne2camera = _square(np.array(rows[0][1:], float)[None])[0]
    except ValueError as error:
        raise DataError(f"{folder / 'calib.txt'}: wanted one line 'Tr:' of 12 numbers ({error})") from error
    try:
        numbers = [line.split() for line in (folder / "poses.txt").read_text().splitlines() if line.strip()]
        cameras = _square(np.array(numbers, float).reshape(-1, 12))
    except ValueError as error:
        raise DataError(f"{folder / 'poses.txt'}: wanted 12 numbers a line ({error})") from error
    for name, found in (("calib.txt", velodyne2camera), ("poses.txt", cameras)):
        if not np.isfinite(found).all():
            raise DataError(f"{folder / name} holds numbers that are not finite")
    return invert(velodyne2camera) @ cameras @ velodyne2camera


def _square(rows: np.ndarray) -> np.ndarray:
    """(N, 12) -> (N, 4, 4)."""
    bottom = np.broadcast_to([[[0.0, 0, 0, 1]]], (len(rows), 1, 4))
    return np.concatenate([rows.reshape(-1, 3, 4), bottom], 1)


class Map:
    """Points without repetition: the first in each cell of a grid stays, as it was measured."""

    def __init__(self, cell: float = CELL):
        self.cell, self._seen, self._parts = cell, np.zeros(0, np.int64), []

    def add(self, points: np.ndarray) -> None:
        """Add points (P, 3) in the map's frame. Raises ValueError beyond 100 km."""
        cells = np.floor(points / self.cell).astype(np.int64) + (1 << BITS - 1)
        if len(cells) and (cells.min() < 0 or cells.max() >> BITS):
            raise ValueError("the map's points reach farther than a hundred kilometres: are the poses in metres?")
        fresh, first = np.unique(keys(cells), return_index=True)
        new = ~np.isin(fresh, self._seen, assume_unique=True)
        self._parts.append(points[np.sort(first[new])])
        self._seen = np.union1d(self._seen, fresh[new])

    @property
    def points(self) -> np.ndarray:
        return np.concatenate(self._parts) if self._parts else np.zeros((0, 3))


@dataclass(frozen=True)
class Sequence:
    """One sequence: scans in order, and velodyne2first of each."""

    folder: Path
    scans: tuple[Path, ...]
    poses: np.ndarray

    @classmethod
    def load(cls, folder: str | Path) -> "Sequence":
        """A scan's name is the number of its pose's line, so that a part of a sequence may be given. Raises: DataError
        when there is no scan, or one without a pose."""
        folder = Path(folder)
        scans = tuple(sorted((folder / "velodyne").glob("*.bin")))
        if not scans:
            raise DataError(f"{folder / 'velodyne'} holds no scan (*.bin)")
        poses = read_poses(folder)
        unnumbered = [one.name for one in scans if not one.stem.isdecimal()]
        if unnumbered:
            raise DataError(f"{folder / 'velodyne' / unnumbered[0]}: wanted scans named by their number, 000000.bin ..")
        numbers = [int(one.stem) for one in scans]
        if max(numbers) >= len(poses):
            raise DataError(f"{folder / 'poses.txt'} has {len(poses)} poses, none for {scans[-1].name}")
        return cls(folder, scans, poses[numbers])

    def labelled(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (P, 3) of a scan, and which of them stand still (P,)."""
        path = self.scans[index]
        points = read_scan(path)
        label = self.folder / "labels" / f"{path.stem}.label"
        if not label.is_file():
            raise DataError(f"{label} is missing: completion needs labels to leave out what moves")
        return points[:, :3], static(read_labels(label, len(points)))

    def map(self, progress: bool = True) -> np.ndarray:
        """(M, 3) float32 in the first scan's frame, built once and kept as map_clean.npz; built anew where scans,
        labels, poses or this module's rules have changed. Raises: DataError where it cannot be kept."""
        path, digest = self.folder / "map_clean.npz", self._fingerprint()
        if path.is_file():
            try:
                with np.load(path) as stored:
                    if str(stored["fingerprint"]) == digest:
                        return stored["points"]
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise DataError(f"{path} is damaged ({error}): remove it, and it is built again") from error
        if not os.access(self.folder, os.W_OK):
            raise DataError(f"{self.folder}: its map is kept there, but the folder cannot be written to")
        built = Map()
        for index in tqdm(range(len(self.scans)), desc=f"map {self.folder.name}", disable=not progress, unit="scan"):
            points, still = self.labelled(index)
            far = np.linalg.norm(points, axis=1) > OWN_CAR
            built.add(transform(self.poses[index], points[still & far].astype(np.float64)))
        points = built.points.astype(np.float32)
        beside = path.with_name(f".{path.stem}.{os.getpid()}.npz")  # several processes may build it at once
        np.savez(beside, points=points, fingerprint=digest)
        os.replace(beside, path)
        return points

    def _fingerprint(self) -> str:
        state = [(one.name, one.stat().st_size) for one in self.scans]
        labels = [self.folder / "labels" / f"{one.stem}.label" for one in self.scans]
        state += [(one.name, one.stat().st_mtime_ns) for one in labels if one.is_file()]
        rules = (FIRST_MOVING, OWN_CAR, CELL)
        return hashlib.sha256(repr((state, rules)).encode() + self.poses.tobytes()).hexdigest()

    def sample(self, index: int, whole: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """The scan's points that stand still, and the map's within `reach` metres of it, both in the scan's frame."""
        points, still = self.labelled(index)
        near = np.linalg.norm(whole - self.poses[index][:3, 3], axis=1) < reach
        return points[still], transform(invert(self.poses[index]), whole[near].astype(np.float64)).astype(np.float32)
