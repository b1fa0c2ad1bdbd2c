"""Clouds in, noise out: features, matches by corners, and what is known without a scan."""

import pytest
import torch

from common.errors import ConfigError
from perception.completion.network import Encoder, NoisePredictor, VoxelSpec, cloud

SPEC = VoxelSpec(0.25, 3, radius=5.0)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_features_are_metres_or_shares_of_the_radius_with_the_place_in_the_voxel():
    points = torch.tensor([[[0.30, 0.0, 0.0], [0.20, 0.0, 0.0], [2.0, 1.0, -1.1]]])
    plain = cloud(points, VoxelSpec(0.25, 3))
    torch.testing.assert_close(plain.features[plain.tables.point2voxel[0]], torch.tensor([0.25, 0.0, 0.0]))
    rich = cloud(points, SPEC)
    torch.testing.assert_close(
        rich.features[rich.tables.point2voxel[2]], torch.tensor([0.4, 0.2, -0.22, 0.0, 0.0, -0.4])
    )
    assert rich.features.shape[1] == SPEC.inputs == 6 and plain.features.shape[1] == 3


def test_released_weights_are_matched_by_the_corners_of_cells():
    corners = VoxelSpec(0.25, 3, match="corners")
    tables = cloud(drawn(1, 50, 3), SPEC).tables
    for level in range(3):
        gap = SPEC.places(tables, level) - corners.places(tables, level)
        assert torch.equal(gap, torch.full_like(gap, 2**level / 2 - 0.5))
    with pytest.raises(ConfigError, match="match='edges'"):
        VoxelSpec(match="edges")


def test_a_cloud_prepared_once_gives_what_its_points_give_and_keeps_its_matches():
    torch.manual_seed(0)
    encoder, denoiser = Encoder(SPEC, (8, 8, 12)), NoisePredictor(SPEC, (8, 8, 12), (12, 8))
    x, t = drawn(2, 60, 3), torch.tensor([0.5, 0.001])[:, None, None]
    seen, prepared = encoder(drawn(2, 20, 3, seed=1)), cloud(x, SPEC)
    first = denoiser(prepared, t, seen)
    assert first.shape == x.shape and torch.equal(first, denoiser(x, t, seen))
    assert prepared.matches(seen) is prepared.matches(seen)
    empty = encoder.empty(2)
    assert len(empty.sizes) == 2 and (denoiser(prepared, t, empty) - first).abs().max() > 1e-4
    assert prepared.matches(empty) is not prepared.matches(seen)


def test_one_level_for_all_samples_is_that_level_for_each():
    torch.manual_seed(0)
    encoder, denoiser = Encoder(SPEC, (8, 8, 12)), NoisePredictor(SPEC, (8, 8, 12), (12, 8))
    x, seen = drawn(2, 60, 3), encoder(drawn(2, 20, 3, seed=1))
    assert torch.equal(denoiser(x, torch.tensor(0.3), seen), denoiser(x, torch.full((2, 1, 1), 0.3), seen))


def test_levels_and_widths_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="3 levels and 2 widths"):
        Encoder(SPEC, (8, 8))
