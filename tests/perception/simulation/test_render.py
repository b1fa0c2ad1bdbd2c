"""Rays against closed forms: ground, kerbs, boxes, moving objects, shadows, rings, visibility."""

import numpy as np
import pytest

from common.geometry import invert, transform, yaw_pose
from perception.simulation.ground import KERB, ROAD, WALK, Ground, noise_tile
from perception.simulation.lidar import MAX_RANGE, count_inside, sweep
from perception.simulation.meshes import BODY, FACADE, LAMP, box
from perception.simulation.profiles import PROFILES
from perception.simulation.render import GROUND, SKY, Stage, pixel_directions, seen_samples
from perception.simulation.rig import beam_elevations, make_rig
from perception.simulation.shading import Light, Shader
from perception.simulation.solids import SolidsBuilder, make_palette, sample_surface

EYE = np.array([20.0, 20.0, 1.5])
CAMERA = np.array(
    [[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]
)  # cam axes of a camera that looks along x


def flat_ground(labels=None) -> Ground:
    labels = np.full((400, 400), ROAD, np.uint8) if labels is None else labels
    texture = np.full((*labels.shape, 3), 120, np.uint8)
    return Ground(labels, [texture, texture[::4, ::4].copy(), texture[::16, ::16].copy()])


def stage_of(static=(), moving=(), ground=None) -> Stage:
    rng = np.random.default_rng(0)
    soups = []
    for objects in (static, moving):
        builder = SolidsBuilder()
        for mesh, pose, instance in objects:
            builder.add(mesh, make_palette(rng), pose, instance)
        soups.append(builder.build(rng))
    return Stage(*soups, ground or flat_ground())


def directions(*rows) -> np.ndarray:
    d = np.array(rows, np.float64)
    return (d / np.linalg.norm(d, axis=1, keepdims=True)).astype(np.float32)


def test_a_ray_meets_the_road_at_height_over_slope():
    distance, kerb = flat_ground().intersect(EYE, directions((1, 0, -0.3), (0, 1, -1), (1, 0, 0.1)))
    assert distance[:2] == pytest.approx([1.5 / 0.3 * np.hypot(1, 0.3), 1.5 * np.sqrt(2)], rel=1e-5)
    assert np.isinf(distance[2]) and not kerb.any()


def test_a_ray_meets_the_kerbs_side_where_the_road_ends():
    labels = np.full((400, 400), ROAD, np.uint8)
    labels[:, 300:] = WALK  # from x = 30 m on
    ground = flat_ground(labels)
    slope = (1.5 - 0.5 * KERB) / 10.0  # aimed at half the kerb's height at x = 30
    distance, kerb = ground.intersect(EYE, directions((1, 0, -slope), (1, 0, -1.5 / 9), (1, 0, -(1.5 - KERB) / 15)))
    at = EYE[0] + distance / np.hypot(1, [slope, 1.5 / 9, (1.5 - KERB) / 15])
    assert kerb.tolist() == [True, False, False]
    assert at == pytest.approx([30, 29, 35], abs=0.02)


def test_the_nearer_of_a_still_a_moving_object_and_the_ground_is_seen():
    wall = (box(0, 0, 0, 1, 6, 3, BODY), yaw_pose(30, 20, 0, 0), 4)
    stage = stage_of([wall], [(box(0, 0, 0, 1, 1, 2, BODY), np.eye(4), 7)])
    rays = directions((1, 0, 0), (1, 0.2, 0), (1, 0, -1), (0, 0, 1))
    hits = stage.at(np.stack([yaw_pose(25, 20, 0, 0)])).cast(EYE, rays)
    snapshot = stage.at(np.stack([yaw_pose(25, 20, 0, 0)]))
    assert hits.distance[:3] == pytest.approx([4.5, 9.5 * np.hypot(1, 0.2), 1.5 * np.sqrt(2)], rel=1e-5)
    assert hits.surface[2:].tolist() == [GROUND, SKY]
    assert snapshot.instance_of(hits.surface).tolist() == [7, 4, -1, -1]
    assert hits.normal[0] == pytest.approx([-1, 0, 0], abs=1e-6)


def test_a_moving_object_is_hit_where_it_stands_at_that_moment():
    stage = stage_of([], [(box(0, 0, 0, 2, 1, 2, BODY), np.eye(4), 0)])
    for x, yaw, half in ((26.0, 0.0, 1.0), (33.0, np.pi / 2, 0.5)):
        hits = stage.at(np.stack([yaw_pose(x, 20, 0, yaw)])).cast(EYE, directions((1, 0, 0)))
        assert hits.distance[0] == pytest.approx(x - half - EYE[0], abs=1e-4)


def test_a_point_behind_a_wall_lies_in_its_shadow():
    stage = stage_of([(box(0, 0, 0, 0.2, 4, 4, BODY), yaw_pose(25, 20, 0, 0), 0)])
    sun = np.array([1.0, 0, 1.0]) / np.sqrt(2)  # over the wall, shining towards -x: the shadow ends at x = 21
    points = np.array([[23.0, 20, 0.01], [20.0, 20, 0.01], [27.0, 20, 0.01]], np.float32)
    assert stage.at(np.zeros((0, 4, 4))).hidden(points, sun).tolist() == [True, False, False]


def test_pixel_rays_project_back_onto_their_pixels():
    camera = make_rig(PROFILES["tiny"])[0]
    rays = pixel_directions(camera.cam2img, camera.width, camera.height)
    uv = rays @ camera.cam2img.T
    uv = (uv[:, :2] / uv[:, 2:]).reshape(camera.height, camera.width, 2)
    assert uv[17, 230] == pytest.approx([230, 17], abs=1e-9)
    assert uv[-1, -1] == pytest.approx([camera.width - 1, camera.height - 1], abs=1e-9)


def test_rings_keep_their_elevation_and_ranges_their_noise():
    lidar = make_rig(PROFILES["small"])[-1]
    ego2global = yaw_pose(20, 20, 0, 0.4)
    lidar2global = ego2global @ lidar.sensor2ego
    wall = (box(0, 0, 0, 0.2, 30, 4, BODY), yaw_pose(32, 20, 0, 0), 3)
    cloud, instance = sweep(
        stage_of([wall]).at(np.zeros((0, 4, 4))), lidar2global, lidar.sensor2ego, 360, np.random.default_rng(0)
    )
    radius = np.linalg.norm(cloud[:, :3], axis=1)
    assert np.arcsin(cloud[:, 2] / radius) == pytest.approx(beam_elevations()[cloud[:, 4].astype(int)], abs=1e-5)
    assert radius.max() < MAX_RANGE + 0.2
    x = transform(lidar2global, cloud[instance == 3, :3].astype(np.float64))[:, 0]
    flat = np.abs(x - 31.9) < 0.15  # the wall's face (not its top edge)
    assert flat.mean() > 0.95
    assert 0.01 < np.std(x[flat]) < 0.03
    assert (cloud[:, 3] >= 0).all() and (cloud[:, 3] <= 255).all()


def test_points_are_counted_in_turned_boxes_from_the_bottom_up():
    box2global = np.stack([yaw_pose(10, 10, 0.5, np.pi / 4)])
    local = np.array([[1.9, 0, 0.1], [2.1, 0, 0.1], [0, 0.9, 1.4], [0, 0, -0.1], [0, 0, 1.6], [-1.9, -0.9, 0.0]])
    points = transform(box2global[0], local + [0, 0, 1e-9])
    assert count_inside(points, np.eye(4), box2global, np.array([[4.0, 2.0, 1.5]])).tolist() == [3]


@pytest.mark.parametrize(("wall_width", "low", "high"), [(None, 1.0, 1.0), (1.0, 0.3, 0.7), (30.0, 0.0, 0.0)])
def test_the_visible_share_is_what_stands_free_of_the_occluder(wall_width, low, high):
    mesh = box(0, 0, 0, 0.5, 2, 2, BODY)
    objects = [(mesh, yaw_pose(32, 20, 0, 0), 0)]
    if wall_width is not None:  # half way, in front of the left half (or of all)
        shift = 0.5 if wall_width == 1.0 else 0.0
        objects.append((box(0, shift, 0, 0.1, wall_width, 6, BODY), yaw_pose(26, 20, 0, 0), 1))
    cam2global = CAMERA.copy()
    cam2global[:3, 3] = EYE
    cam2img = np.array([[400.0, 0, 200], [0, 400, 100], [0, 0, 1]])
    points = transform(objects[0][1], sample_surface(mesh, 400, np.random.default_rng(0)))
    snapshot = stage_of(objects).at(np.zeros((0, 4, 4)))
    seen = seen_samples(snapshot, cam2img, (200, 400), cam2global, points, np.zeros(400, int))
    assert low <= seen.mean() <= high


def test_what_is_outside_the_image_is_not_visible():
    mesh = box(0, 0, 0, 0.5, 2, 2, BODY)
    cam2global = CAMERA.copy()
    cam2global[:3, 3] = EYE
    cam2img = np.array([[400.0, 0, 200], [0, 400, 100], [0, 0, 1]])
    pose = yaw_pose(10, 20, 0, 0)  # behind the camera
    points = transform(pose, sample_surface(mesh, 50, np.random.default_rng(0)))
    snapshot = stage_of([(mesh, pose, 0)]).at(np.zeros((0, 4, 4)))
    assert not seen_samples(snapshot, cam2img, (200, 400), cam2global, points, np.zeros(50, int)).any()


def test_an_object_is_drawn_on_the_pixels_onto_which_its_box_projects():
    camera = make_rig(PROFILES["tiny"])[0]
    cam2global = yaw_pose(10, 20, 0, 0) @ camera.sensor2ego
    pose, size = yaw_pose(26, 20, 0, 0.3), np.array([4.0, 2.0, 1.6])
    stage = stage_of([(box(0, 0, 0, *size, BODY), pose, 0)])
    rays = pixel_directions(camera.cam2img, camera.width, camera.height) @ cam2global[:3, :3].T
    snapshot = stage.at(np.zeros((0, 4, 4)))
    hits = snapshot.cast(cam2global[:3, 3], rays.astype(np.float32))
    mask = (snapshot.instance_of(hits.surface) == 0).reshape(camera.height, camera.width)
    corner = np.array([[x, y, z] for x in (-2, 2) for y in (-1, 1) for z in (0, 1.6)])
    uv = transform(invert(cam2global), transform(pose, corner)) @ camera.cam2img.T
    uv = uv[:, :2] / uv[:, 2:]
    rows, cols = np.nonzero(mask)
    assert [cols.min(), rows.min()] == pytest.approx(uv.min(0), abs=1.01)
    assert [cols.max(), rows.max()] == pytest.approx(uv.max(0), abs=1.01)


def test_shadowed_road_is_darker_than_lit_road_and_the_sky_is_brightest():
    rng = np.random.default_rng(0)
    light = next(light for light in (Light.draw(rng) for _ in range(99)) if not light.dusk)
    light = Light(
        **{**vars(light), "sun": np.array([1, 0, 1.0]) / np.sqrt(2), "sun_colour": np.ones(3, np.float32) * 2}
    )
    stage = stage_of([(box(0, 0, 0, 0.2, 4, 4, BODY), yaw_pose(25, 20, 0, 0), 0)])
    snapshot = stage.at(np.zeros((0, 4, 4)))
    rays = np.repeat(directions((2, 0, -1.5), (-2, 0, -1.5), (-1, 0, 0.4)), 64, 0)
    hits = snapshot.cast(EYE, rays)
    image = Shader(light, rng).image(snapshot, hits, EYE, rays, (3, 64), 100.0, rng)
    shadow, lit, sky = image.reshape(3, 64, 3).mean((1, 2))
    assert shadow + 20 < lit < sky


def test_a_quarter_of_the_scenes_has_the_low_warm_sun_and_long_exposure_of_dusk():
    rng = np.random.default_rng(0)
    lights = [Light.draw(rng) for _ in range(400)]
    dusk, day = [l for l in lights if l.dusk], [l for l in lights if not l.dusk]
    assert 0.18 < len(dusk) / len(lights) < 0.32
    assert max(l.sun[2] for l in dusk) < np.sin(np.deg2rad(17)) < min(l.sun[2] for l in day)
    assert (
        min(l.sun_colour[0] / l.sun_colour[2] for l in dusk) > 2 > max(l.sun_colour[0] / l.sun_colour[2] for l in day)
    )
    assert np.mean([l.exposure for l in dusk]) > 1.2 * np.mean([l.exposure for l in day])
    assert np.mean([l.ambient.mean() for l in dusk]) < 0.8 * np.mean([l.ambient.mean() for l in day])


def shot(dusk: bool, part: int, palette, exposure: float = 1.0) -> np.ndarray:
    """A wall of one part, 10 m ahead and square to the view, in the same dim light: (200, 288, 3)."""
    grey = np.full(3, 0.05, np.float32)
    light = Light(
        sun=np.array([0, 0, 1.0]), sun_colour=0 * grey, ambient=20 * grey, zenith=grey, horizon=grey, exposure=exposure,
        haze=1e9, dusk=dusk, clouds=0.0,
    )  # fmt: skip
    builder = SolidsBuilder()
    builder.add(box(0, 0, 0, 1, 40, 30, part), palette, yaw_pose(30.5, 20, 0, 0))
    rng = np.random.default_rng(0)
    stage = Stage(builder.build(rng), SolidsBuilder().build(rng), flat_ground())
    snapshot = stage.at(np.zeros((0, 4, 4)))
    y, z = np.meshgrid(np.linspace(1.8, -1.8, 288), np.linspace(2.6, 0.1, 200))
    rays = directions(*np.stack([np.ones(y.size), y.ravel(), z.ravel()], -1))
    shader = Shader(light, np.random.default_rng(1))
    return shader.image(snapshot, snapshot.cast(EYE, rays), EYE, rays, y.shape, 100.0, rng).astype(float)


def test_at_dusk_lamps_are_lit_some_windows_shine_and_the_sensor_is_noisier():
    palettes = [make_palette(np.random.default_rng(3), dusk=dusk) for dusk in (False, True)]
    lamp_day, lamp_dusk = (shot(False, LAMP, palette).mean() for palette in palettes)
    assert lamp_dusk > lamp_day + 40
    day, dusk = (shot(at_dusk, FACADE, palettes[0]).mean(2) for at_dusk in (False, True))
    panes = day < np.median(day) / 2
    shining = dusk > day + 20
    assert 0.1 < panes.mean() < 0.6
    assert shining[panes].mean() == pytest.approx(4 / 11, abs=0.08)
    assert not shining[~panes].any()
    lamps = [shot(at_dusk, LAMP, palettes[0]) for at_dusk in (False, True)]  # as red as green, up to the noise
    noise = [(lamp[..., 0] - lamp[..., 1]).std() for lamp in lamps]
    assert noise == pytest.approx([255 * np.sqrt(2) * 0.008, 255 * np.sqrt(2) * 0.016], rel=0.05)
    assert shot(False, BODY, palettes[0], exposure=1.4).mean() > shot(False, BODY, palettes[0]).mean() + 5


def test_noise_tiles_without_a_seam():
    tile = noise_tile(np.random.default_rng(0), 256, (16, 64), (0.1, 0.1))
    inside = np.abs(np.diff(tile, axis=1)).max()
    assert np.abs(tile[:, 0] - tile[:, -1]).max() <= 1.5 * inside
    assert tile.mean() == pytest.approx(1, abs=0.1)
