"""The runtime's tables are the training code's, number for number."""

import numpy as np
import pytest
import torch

from common.nn.sparse import tables as torch_tables
from common.nn.sparse.conv import voxel_mean as torch_mean
from deploy.runtime.errors import InputError
from deploy.runtime.sparse import build_tables, match, voxel_mean


@pytest.mark.parametrize(("points", "voxel"), [(1, 0.2), (40, 0.3), (3000, 0.1), (3000, 0.37)])
def test_tables_of_a_cloud_are_those_of_the_training_code(points, voxel):
    cloud = np.random.default_rng(points).normal(size=(points, 3)).astype(np.float32) * 3
    ours, theirs = build_tables(cloud, voxel, 4), torch_tables.stacked_tables(torch.from_numpy(cloud)[None], voxel, 4)
    assert np.array_equal(ours.point2voxel, theirs.point2voxel.numpy())
    for one, other in zip(ours.levels, theirs.levels, strict=True):
        assert np.array_equal(one.coords, other.coords.numpy())
        assert np.array_equal(one.neighbours, other.neighbours.numpy())
        if one.child is not None:
            assert np.array_equal(one.child, other.child.reshape(-1).numpy())
            assert np.array_equal(one.place, other.place.numpy())
    mean = voxel_mean(cloud, ours.point2voxel, len(ours.levels[0].coords))
    np.testing.assert_allclose(mean, torch_mean(torch.from_numpy(cloud), theirs.of_points).numpy(), atol=1e-5)


def test_matches_are_those_of_the_training_code_also_where_several_are_equally_near():
    draws = np.random.default_rng(0)
    query, reference = draws.integers(-6, 6, (5000, 3)) + 0.5, draws.integers(-6, 6, (60, 3)).astype(float)
    sample = torch.zeros(5000, dtype=torch.long)
    theirs = torch_tables.match(torch.tensor(query).float(), sample, torch.tensor(reference).float(), [60])
    assert np.array_equal(match(query, reference), theirs.numpy())


def test_bad_clouds_are_refused_by_name():
    with pytest.raises(InputError, match="no points"):
        build_tables(np.zeros((0, 3), np.float32), 0.1, 2)
    with pytest.raises(InputError, match="1 points are not finite"):
        build_tables(np.array([[0, 0, np.nan]], np.float32), 0.1, 2)
    with pytest.raises(InputError, match="crop the points"):
        build_tables(np.array([[0, 0, 5000]], np.float32), 0.05, 2)
