"""One scene from a seed: town, traffic, light and rig; its images and sweeps on disk and its `SceneRecord`."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.geometry import quaternion, transform, yaw_pose
from perception.simulation.actors import Actor
from perception.simulation.ground import RESOLUTION, Ground, make_ground
from perception.simulation.lidar import count_inside, sweep
from perception.simulation.populate import Cast, Plots, populate
from perception.simulation.profiles import Profile
from perception.simulation.records import AnnotationRecord, CaptureRecord, SceneRecord, SensorRecord
from perception.simulation.render import Snapshot, Stage, pixel_directions, seen_samples
from perception.simulation.rig import KEYFRAME_PERIOD, OFFSETS, make_rig, small_rotation
from perception.simulation.scenery import decorate, pavement_mask
from perception.simulation.shading import Light, Shader
from perception.simulation.solids import Solids, SolidsBuilder, sample_surface
from perception.simulation.town import Town, make_town

ANNOTATED_WITHIN = 70.0  # metres from the ego
VISIBILITY_SAMPLES = 96
_EPOCH = 1_600_000_000  # seconds; every scene gets a stretch of its own behind it


@dataclass(frozen=True)
class World:
    """Everything of a scene that does not depend on the profile's image size: what stands where at any time."""

    town: Town
    ground: Ground
    cast: Cast
    static: Solids
    moving: Solids
    movers: list[int]  # actor index of each owner of `moving`
    light: Light
    rng: np.random.Generator  # what the sensors draw from
    sway: np.ndarray  # (2, 3) amplitude (rad), frequency (Hz), phase of the ego's roll and pitch

    def ego2global(self, time: float) -> np.ndarray:
        """Pose (4, 4) of the ego, with the body's slight roll and pitch."""
        x, y, z, yaw = self.cast.ego.at(time)
        amplitude, frequency, phase = self.sway.T
        roll, pitch = amplitude * np.sin(2 * np.pi * frequency * time + phase)
        ego2global = yaw_pose(x, y, z, yaw)
        ego2global[:3, :3] = ego2global[:3, :3] @ small_rotation(np.array([roll, pitch, 0.0]))
        return ego2global

    def mover_poses(self, time: float) -> np.ndarray:
        """(M, 4, 4) of the owners of `moving`."""
        return np.stack([self.cast.actors[k].pose(time) for k in self.movers]) if self.movers else np.zeros((0, 4, 4))


def build_world(seed: int, profile: Profile) -> World:
    """Draw a scene. The same seed and number of key frames give the same world."""
    town_rng, place_rng, scenery_rng, light_rng, paint_rng, sensor_rng = (
        np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(seed).spawn(6)
    )
    duration = KEYFRAME_PERIOD * (profile.keyframes - 1)
    light = Light.draw(light_rng)
    district = str(town_rng.choice(["downtown", "residential", "industrial", "park"], p=[0.35, 0.35, 0.15, 0.15]))
    town = make_town(town_rng, 3 if duration < 12 else 4, district)
    ground = make_ground(town, town_rng, [])
    plots = Plots(town.extent)
    pavement = pavement_mask(ground, plots)
    cast = populate(town, ground, plots, pavement, place_rng, duration, light.dusk)
    static, moving, movers = SolidsBuilder(), SolidsBuilder(), []
    for k, actor in enumerate(cast.actors):
        if actor.track.moves:
            moving.add(actor.mesh, actor.palette, actor.pose(0), k)
            movers.append(k)
        else:
            static.add(actor.mesh, actor.palette, actor.pose(0), k)
    decorate(town, ground, plots, pavement, static, scenery_rng, light.dusk)
    sway = np.stack(
        [light_rng.uniform(0.001, 0.006, 2), light_rng.uniform(0.4, 1.3, 2), light_rng.uniform(0, 6.3, 2)], -1
    )
    return World(town, ground, cast, static.build(paint_rng), moving.build(paint_rng), movers, light, sensor_rng, sway)


class _Recorder:
    """Writes the captures of one scene and counts what each object shows."""

    def __init__(self, name: str, world: World, rig: list[SensorRecord], profile: Profile, root: Path, threads: int):
        self.name, self.world, self.profile, self.root = name, world, profile, root
        self.cameras = [sensor for sensor in rig if sensor.modality == "camera"]
        self.lidar = rig[-1]
        self.stage = Stage(world.static, world.moving, world.ground, threads)
        self.shader = Shader(world.light, world.rng)
        self.views = {c.channel: pixel_directions(c.cam2img, c.width, c.height) for c in self.cameras}
        self.base = (_EPOCH + zlib.crc32(name.encode()) % 1_000_000 * 100) * 1_000_000
        self.samples = [sample_surface(actor.mesh, VISIBILITY_SAMPLES, world.rng) for actor in world.cast.actors]
        self.captures: list[CaptureRecord] = []

    def stamp(self, time: float) -> int:
        return self.base + 1_000_000 + round(time * 1_000_000)

    def _file(self, channel: str, time: float, key: bool, ending: str) -> str:
        folder = f"{'samples' if key else 'sweeps'}/{channel}"
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        return f"{folder}/n900-{self.name}__{channel}__{self.stamp(time)}.{ending}"

    def _record(self, channel: str, filename: str, time: float, keyframe: int, key: bool) -> None:
        pose = self.world.ego2global(time)
        self.captures.append(CaptureRecord(channel, filename, self.stamp(time), pose, keyframe, key))

    def images(self, sweep_time: float, keyframe: int, key: bool) -> np.ndarray:
        """The six exposures around a sweep. Returns, for key frames, the share (N,) of every actor that is seen."""
        seen = np.zeros((len(self.samples), VISIBILITY_SAMPLES), bool)
        for camera in self.cameras:
            time = sweep_time + OFFSETS[camera.channel]
            snapshot = self.stage.at(self.world.mover_poses(time))
            cam2global = self.world.ego2global(time) @ camera.sensor2ego
            directions = (self.views[camera.channel] @ cam2global[:3, :3].T).astype(np.float32)
            origin = cam2global[:3, 3]
            hits = snapshot.cast(origin, directions)
            shape, focal = (camera.height, camera.width), camera.cam2img[0, 0]
            image = self.shader.image(snapshot, hits, origin, directions, shape, focal, self.world.rng)
            filename = self._file(camera.channel, time, key, "jpg")
            jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.profile.jpeg_quality])[1]
            (self.root / filename).write_bytes(jpeg.tobytes())
            self._record(camera.channel, filename, time, keyframe, key)
            if key:
                self._look(seen, snapshot, camera, cam2global, time)
        return seen.mean(1)

    def _look(
        self, seen: np.ndarray, snapshot: Snapshot, camera: SensorRecord, cam2global: np.ndarray, time: float
    ) -> None:
        """Mark in `seen` (N, S) the surface samples of the actors that this exposure shows."""
        actors, here = self.world.cast.actors, cam2global[:2, 3]
        reach = ANNOTATED_WITHIN + 5
        near = [k for k, a in enumerate(actors) if np.linalg.norm(a.track.at(time)[:2] - here) < reach]
        if near:
            points = np.stack([transform(actors[k].pose(time), self.samples[k]) for k in near])
            owner = np.repeat(near, VISIBILITY_SAMPLES)
            shape = (camera.height, camera.width)
            found = seen_samples(snapshot, camera.cam2img, shape, cam2global, points.reshape(-1, 3), owner)
            seen[near] |= found.reshape(len(near), VISIBILITY_SAMPLES)

    def sweep(self, time: float, keyframe: int, key: bool) -> tuple[np.ndarray, np.ndarray]:
        """One sweep. Returns the points (P, 5) as written, and lidar2global."""
        snapshot = self.stage.at(self.world.mover_poses(time))
        lidar2global = self.world.ego2global(time) @ self.lidar.sensor2ego
        cloud, _ = sweep(snapshot, lidar2global, self.lidar.sensor2ego, self.profile.lidar_columns, self.world.rng)
        filename = self._file(self.lidar.channel, time, key, "pcd.bin")
        cloud.tofile(self.root / filename)
        self._record(self.lidar.channel, filename, time, keyframe, key)
        return cloud, lidar2global


def visibility_level(share: float) -> int:
    """nuScenes' level of a visible share: 1 for 0-40 %, 2 for 40-60 %, 3 for 60-80 %, 4 for 80-100 %."""
    return 1 + sum(share >= edge for edge in (0.4, 0.6, 0.8))


def annotate(
    actors: list[Actor], ego: np.ndarray, time: float, shares: np.ndarray, cloud: np.ndarray, lidar2global: np.ndarray
) -> list[AnnotationRecord]:
    """The boxes of one key frame within 70 m of the ego (2,), also those without a point; instances are the actors'
    indices. `shares` (N,) is what the six images show of every actor (see `_Recorder._look`); `cloud` (P, 5) the key
    sweep as written, `lidar2global` its pose."""
    near = [k for k, actor in enumerate(actors) if np.linalg.norm(actor.track.at(time)[:2] - ego) <= ANNOTATED_WITHIN]
    if not near:
        return []
    poses = np.stack([actors[k].pose(time) for k in near])
    sizes = np.stack([actors[k].size for k in near])
    counts = count_inside(cloud, lidar2global, poses, sizes)
    records = []
    for k, pose, (l, w, h), count in zip(near, poses, sizes, counts, strict=True):
        centre = pose[:3, 3] + [0, 0, h / 2]
        records.append(
            AnnotationRecord(
                k, actors[k].category, actors[k].attribute(time), centre, np.array([w, l, h]), quaternion(pose[:3, :3]),
                visibility_level(shares[k]), int(count),
            )
        )  # fmt: skip
    return records


def simulate_scene(
    *,
    name: str,
    seed: int,
    profile: Profile,
    root: Path,
    progress: Callable[[int], object] | None = None,
    threads: int = 1,
) -> SceneRecord:
    """Simulate a scene, write its images and sweeps under root/samples and root/sweeps, and return its record.

    Args: name, e.g. scene-0061, part of the file names; seed, of this scene alone; progress, called with 1 after every
        key frame; threads of the ray caster (the pool runs one process per core, so 1).
    Returns: the record; `drivable` has row 0 at the largest y, as nuScenes' map masks, at 0.1 m; the global frame's
        origin is the map's lower-left corner. The same arguments give the same bytes.
    """
    root = Path(root)
    world = build_world(seed, profile)
    rig = make_rig(profile, world.rng)
    recorder = _Recorder(name, world, rig, profile, root, threads)
    keyframe_times, annotations = [], []
    for k in range(profile.keyframes):
        time = KEYFRAME_PERIOD * k
        if k:
            for n in range(profile.lidar_sweeps):
                recorder.sweep(time - KEYFRAME_PERIOD * (1 - (n + 1) / (profile.lidar_sweeps + 1)), k, False)
            for n in range(profile.camera_sweeps):
                recorder.images(time - KEYFRAME_PERIOD * (1 - (n + 1) / (profile.camera_sweeps + 1)), k, False)
        shares = recorder.images(time, k, True)
        cloud, lidar2global = recorder.sweep(time, k, True)
        ego = world.ego2global(time)[:2, 3]
        annotations.append(annotate(world.cast.actors, ego, time, shares, cloud, lidar2global))
        keyframe_times.append(recorder.stamp(time))
        if progress is not None:
            progress(1)
    captures = sorted(recorder.captures, key=lambda capture: (capture.timestamp, capture.channel))
    return SceneRecord(
        name=name,
        description=f"{world.town.district}, {'dusk' if world.light.dusk else 'day'}",
        location=f"simulated-{world.town.district}",
        sensors=rig,
        captures=captures,
        keyframe_times=keyframe_times,
        annotations=annotations,
        drivable=world.ground.drivable,
        drivable_resolution=RESOLUTION,
    )
