"""A detector that takes frames from a robot's cameras and gives boxes, or says by name why it cannot."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .decode import decode
from .errors import InputError, MissingCameraError, PoseError, StaleCameraError
from .geometry import Lift, PoolIndex, PoseHistory, Rig, camera_vector, check_pose
from .images import Resampler
from .manifest import Manifest
from .session import Session


@dataclass(frozen=True)
class Detections:
    """Boxes of one frame.

    boxes (n, 9) float32: x, y, z of the bottom face, l, w, h (m), yaw (rad), vx, vy (m/s) in the LiDAR frame; scores
    (n,); labels (n,) indices into the classes; names (n,). start: the frame began a sequence. dropped: cameras left
    out of this frame. warnings: everything that was not as it should be. milliseconds: input, geometry, network,
    decode, total.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: list[str]
    timestamp: float
    start: bool
    dropped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict)


class StreamingDetector:
    """An exported BEV detector on one rig.

    Args: path of the ONNX file, its manifest beside it; providers, an explicit choice instead of TensorRT, CUDA, CPU by
    availability; max_age_s, how far a camera's time may lie from the frame's; max_gap_s, the longest pause between
    frames that keeps the history (default: three periods of the manifest's rate, at least 1 s), after a longer one a
    new sequence starts, with a warning; max_speed, the fastest the vehicle can be (m/s), a faster pose is an error;
    on_missing "error", or "degrade": a missing or stale camera's part of the BEV map is left empty and `dropped` and
    `warnings` say so; threads of the CPU provider.

    Every error leaves the state as it was before the frame.
    """

    def __init__(
        self,
        path: str | Path,
        rig: Rig,
        *,
        providers: list[str] | None = None,
        max_age_s: float = 0.15,
        max_gap_s: float | None = None,
        max_speed: float = 100.0,
        on_missing: str = "error",
        score_threshold: float | None = None,
        threads: int | None = None,
        warm_up: int = 1,
    ):
        if on_missing not in ("error", "degrade"):
            raise InputError(f"on_missing is {on_missing!r}: give 'error' or 'degrade'")
        self.path, self.manifest = Path(path), Manifest.load(path)
        self.session = Session(path, self.manifest, providers, threads)
        self.max_age_s, self.max_speed, self.on_missing = max_age_s, max_speed, on_missing
        self.max_gap_s = max(1.0, 3 / self.manifest.rate_hz) if max_gap_s is None else max_gap_s
        self.score_threshold = score_threshold
        self.rig = rig
        self._size_of = "the rig's raw_size" if rig.raw_size else "the network's size, as the rig has no raw_size"
        self._lift = Lift(self.manifest)
        self._poses = PoseHistory(self.manifest.history)
        self._last: tuple[float, np.ndarray] | None = None
        self._images = self.session.set_cameras(len(rig.cameras))
        self._resamplers = [
            rig.raw_size and Resampler(rig.raw_size, self.manifest.image_size, img_aug, self.manifest.resize_headroom)
            for img_aug in rig.img_aug
        ]
        self._index: PoolIndex
        self._partial: dict[tuple[int, ...], PoolIndex] = {}
        self._active: tuple[int, ...] = ()
        self._calibrate(rig)
        for _ in range(warm_up):
            self.session.run(self._poses.transforms(np.eye(4)), True)

    def reset(self) -> None:
        """Forget the past: the next frame starts a sequence."""
        self._poses.reset()
        self._last = None

    def calibrate(self, cam2lidar: Mapping[str, np.ndarray]) -> bool:
        """Take new camera poses (4x4 by camera name); cameras not named keep theirs. Returns whether any changed."""
        unknown = [name for name in cam2lidar if name not in self.rig.cameras]
        if unknown:
            raise InputError(f"cam2lidar names the cameras {unknown}, the rig has {self.rig.cameras}")
        poses = self.rig.cam2lidar.copy()
        for name, pose in cam2lidar.items():
            poses[self.rig.cameras.index(name)] = check_pose(pose, f"cam2lidar of {name}")
        if np.array_equal(poses, self.rig.cam2lidar):
            return False
        self._calibrate(replace(self.rig, cam2lidar=poses))
        return True

    def _calibrate(self, rig: Rig) -> None:
        index = self._lift.index(rig)
        self.session.set_geometry(camera_vector(rig), index)
        self.rig, self._index, self._partial, self._active = rig, index, {}, ()

    def step(
        self,
        images: Mapping[str, np.ndarray],
        timestamps: Mapping[str, float],
        lidar2global: np.ndarray,
        timestamp: float,
        cam2lidar: Mapping[str, np.ndarray] | None = None,
    ) -> Detections:
        """Boxes of one frame.

        Args: images, RGB (H, W, 3) uint8 by camera, of the rig's raw_size or the network's; timestamps of those images
        and timestamp of the frame (s, one clock); lidar2global (4, 4) pose of the LiDAR at `timestamp`; cam2lidar,
        where the ego's motion between exposure and frame is to be compensated (geometry.cam2lidar_at), this frame's
        camera poses: they stay in force until others are given.

        Raises: InputError for an image of another shape or dtype, an unknown camera or a bad time; MissingCameraError,
        StaleCameraError unless they degrade, and always if no camera is left; PoseError.
        """
        begin = time.perf_counter()
        pose = check_pose(lidar2global, "lidar2global")
        warnings = list(self.session.notes)
        start = self._check_time(timestamp, pose, warnings)
        bad = self._check_cameras(images, timestamps, timestamp, warnings)
        for i, name in enumerate(self.rig.cameras):
            if i in bad:
                self._images[0, i] = 0
            elif self._resamplers[i] is None:
                self._images[0, i] = images[name]
            else:
                self._resamplers[i](images[name], self._images[0, i])
        placed = time.perf_counter()
        rig = self.rig
        poses = PoseHistory(self.manifest.history) if start else self._poses
        try:
            if cam2lidar is not None:
                self.calibrate(cam2lidar)
            self._select(bad)
            transforms = poses.transforms(pose)
            prepared = time.perf_counter()
            outputs = self.session.run(transforms, start)
            ran = time.perf_counter()
            for name, value in outputs.items():
                if not np.isfinite(value).all():
                    raise InputError(f"the network's output '{name}' holds NaN or infinity: reset(), check the inputs")
        except Exception:
            if self.rig is not rig:
                self._calibrate(rig)
            raise
        found = decode(outputs, self.manifest, self.score_threshold)
        self.session.advance()
        poses.push(pose)
        self._poses, self._last = poses, (timestamp, pose)
        end = time.perf_counter()
        names = [self.manifest.classes[label] for label in found.labels]
        spans = {"input": placed - begin, "geometry": prepared - placed, "network": ran - prepared, "decode": end - ran}
        milliseconds = {name: 1e3 * span for name, span in {**spans, "total": end - begin}.items()}
        dropped = tuple(self.rig.cameras[i] for i in bad)
        return Detections(*found, names, timestamp, start, dropped, tuple(warnings), milliseconds)

    def _check_time(self, timestamp: float, pose: np.ndarray, warnings: list[str]) -> bool:
        """Whether this frame starts a sequence."""
        if not np.isfinite(timestamp):
            raise InputError(f"timestamp is {timestamp}: give the frame's time in seconds")
        if self._last is None:
            return True
        last, last_pose = self._last
        gap = timestamp - last
        if gap <= 0:
            raise InputError(
                f"timestamp {timestamp:.3f} s is not after the last frame's {last:.3f} s: call reset() to replay"
            )
        if gap > self.max_gap_s:
            warnings.append(f"{gap:.2f} s since the last frame (limit {self.max_gap_s:.2f} s): the history starts anew")
            return True
        if gap < 0.5 / self.manifest.rate_hz:
            warnings.append(
                f"{gap:.3f} s since the last frame, the network was trained on {1 / self.manifest.rate_hz:.3f} s: its "
                f"{self.manifest.history} past frames span less; give it every n-th frame"
            )
        speed = np.linalg.norm(pose[:3, 3] - last_pose[:3, 3]) / gap
        if speed > self.max_speed:
            raise PoseError(
                f"lidar2global moved {speed * gap:.1f} m in {gap:.2f} s ({speed:.0f} m/s, limit {self.max_speed:.0f}): "
                "localisation jumped; call reset() to go on from the new pose"
            )
        return False

    def _check_cameras(self, images, timestamps, timestamp: float, warnings: list[str]) -> tuple[int, ...]:
        """Positions of the cameras to leave out."""
        unknown = [name for name in images if name not in self.rig.cameras]
        if unknown:
            raise InputError(f"images names the cameras {unknown}, the rig has {self.rig.cameras}")
        want = (*(self.rig.raw_size or self.manifest.image_size), 3)
        missing, stale, problems = [], [], []
        for i, name in enumerate(self.rig.cameras):
            image, taken = images.get(name), timestamps.get(name)
            if image is None:
                missing.append(i)
                problems.append(f"{name} is missing")
                continue
            if not isinstance(image, np.ndarray) or image.shape != want or image.dtype != np.uint8:
                got = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
                raise InputError(f"image of {name} wants {want} uint8 RGB ({self._size_of}), got {got}")
            if taken is None or not np.isfinite(taken):
                raise InputError(f"timestamps has {taken} for {name}: give the exposure's time in seconds")
            age = timestamp - taken
            if abs(age) > self.max_age_s:
                stale.append(i)
                problems.append(f"{name} is {age:+.3f} s old (limit {self.max_age_s:g} s)")
        bad = tuple(sorted(missing + stale))
        if not bad:
            return bad
        cameras = tuple(self.rig.cameras[i] for i in bad)
        if self.on_missing == "error" or len(bad) == len(self.rig.cameras):
            mend = "wait for the camera, or build the detector with on_missing='degrade'"
            if self.on_missing == "degrade":
                mend = "no camera is left; wait for one"
            raise (MissingCameraError if missing else StaleCameraError)(f"{'; '.join(problems)}: {mend}", cameras)
        warnings.extend(f"{problem}: its part of the BEV map is empty" for problem in problems)
        return bad

    def _select(self, bad: tuple[int, ...]) -> None:
        """Bind the pool index without the bad cameras."""
        if bad == self._active:
            return
        if bad not in self._partial:
            self._partial[bad] = self._lift.without(self._index, list(bad)) if bad else self._index
        self.session.set_index(self._partial[bad])
        self._active = bad
