"""Profiles and rigs: scaled cameras are the native camera, scaled and cut."""

import numpy as np
import pytest

from perception.simulation.profiles import PROFILES, Profile, profile
from perception.simulation.rig import CAMERA_MOUNTS, beam_elevations, make_rig, scaled_intrinsics

NATIVE = PROFILES["full"]


@pytest.mark.parametrize("name", PROFILES)
def test_a_scaled_camera_sees_the_native_pixel_scaled_and_cut(name):
    spec = PROFILES[name]
    for mount in CAMERA_MOUNTS:
        point = np.array([0.3, 0.2, 2.0])
        native = scaled_intrinsics(*mount.intrinsics, NATIVE) @ point / 2.0
        scaled = scaled_intrinsics(*mount.intrinsics, spec) @ point / 2.0
        expected = (native[:2] + 0.5) * spec.scale - 0.5 - [0, spec.crop_top]
        assert scaled[:2] == pytest.approx(expected, abs=1e-9)


def test_small_is_the_crop_that_detectors_make_of_nuscenes():
    assert (PROFILES["small"].scale, PROFILES["small"].crop_top) == (0.44, 140)


def test_the_nominal_rig_is_the_vehicle_of_the_data_set():
    rig = {sensor.channel: sensor for sensor in make_rig(NATIVE)}
    assert rig["CAM_FRONT"].cam2img[0, 0] == pytest.approx(1266.4)
    assert rig["CAM_BACK"].cam2img[0, 0] == pytest.approx(809.2)
    forward = rig["CAM_FRONT"].sensor2ego[:3, :3] @ [0, 0, 1]
    assert forward == pytest.approx([1, 0, 0], abs=0.02)
    assert rig["LIDAR_TOP"].sensor2ego[:3, :3] @ [0, 1, 0] == pytest.approx([1, 0, 0], abs=0.03)


def test_two_scenes_have_different_but_close_rigs():
    one, two = (make_rig(NATIVE, np.random.default_rng(seed)) for seed in (0, 1))
    for a, b in zip(one, two, strict=True):
        angle = np.arccos(np.clip((np.trace(a.sensor2ego[:3, :3].T @ b.sensor2ego[:3, :3]) - 1) / 2, -1, 1))
        assert 0 < angle < np.deg2rad(6)
        assert a.sensor2ego[:3, :3] @ a.sensor2ego[:3, :3].T == pytest.approx(np.eye(3), abs=1e-12)


def test_beams_span_the_field_of_view_of_nuscenes():
    elevation = np.rad2deg(beam_elevations())
    assert (len(elevation), elevation[0], elevation[-1]) == (32, pytest.approx(-30.67), pytest.approx(10.67))


def test_a_picture_taller_than_the_cameras_is_refused_with_the_limit():
    with pytest.raises(ValueError, match="set height to at most 396"):
        Profile(name="odd", width=704, height=500, keyframes=2)


def test_an_unknown_profile_or_field_is_named():
    with pytest.raises(ValueError, match="'huge'; choose one of tiny, small, full"):
        profile("huge")
    with pytest.raises(ValueError, match="no field 'frames'"):
        profile("tiny", frames=3)
