"""Tables of occupied voxels against brute force."""

import pytest
import torch

from common.nn.sparse.tables import CENTRE, OFFSETS, build_tables, match, pack, rows, stacked_tables, unpack


def clouds(seed=0, samples=2, points=300, width=3.0):
    return (torch.rand(samples, points, 3, generator=torch.Generator().manual_seed(seed)) - 0.5) * width


def table_of(level):
    """(sample, x, y, z) -> row."""
    return {(int(s), *xyz): row for row, (s, xyz) in enumerate(zip(level.sample, level.coords.tolist(), strict=True))}


def test_packed_keys_come_back_and_sort_by_sample_then_coordinates():
    coords, sample = torch.tensor([[-3, 5, 0], [7, -32767, 32765], [-3, 5, -1]]), torch.tensor([1, 0, 0])
    keys = pack(coords, sample)
    assert all(torch.equal(a, b) for a, b in zip(unpack(keys), (coords, sample), strict=True))
    assert keys.argsort().tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="from 0 to 40000, wanted within"):
        pack(torch.tensor([[0, 0, 40000]]), torch.tensor([0]))


@pytest.mark.parametrize("level", range(4))
def test_neighbours_parents_and_children_are_those_of_a_dictionary(level):
    made = stacked_tables(clouds(), 0.25, 4)
    here, known = made.levels[level], table_of(made.levels[level])
    for (sample, x, y, z), row in known.items():
        for k, (dx, dy, dz) in enumerate(OFFSETS):
            assert here.neighbours[row, k] == known.get((sample, x + dx, y + dy, z + dz), len(here))
        if level < 3:
            upper = table_of(made.levels[level + 1])
            assert here.parent[row] == upper[sample, x // 2, y // 2, z // 2]
            assert here.octant[row] == x % 2 * 4 + y % 2 * 2 + z % 2
            assert here.child[here.parent[row], here.octant[row]] == row
    if level < 3:
        assert (here.child < len(here)).sum() == len(here)
    assert sum(here.sizes) == len(here) and here.sizes == torch.bincount(here.sample).tolist()


def test_level_zero_is_the_rounded_points_and_every_point_finds_its_voxel():
    points = clouds()
    made = stacked_tables(points, 0.25, 2)
    expected = (points.reshape(-1, 3) / 0.25).round().long()
    assert torch.equal(made.levels[0].coords[made.point2voxel], expected)
    assert torch.equal(made.levels[0].sample[made.point2voxel], made.sample)
    torch.testing.assert_close(made.centres(0), made.levels[0].coords.float())
    # a cell of level 1 spans the voxels 2 c and 2 c + 1
    torch.testing.assert_close(made.centres(1), made.levels[1].coords * 2 + 0.5)


def test_pairs_are_the_neighbours_without_the_centre():
    level = stacked_tables(clouds(), 0.25, 1).levels[0]
    offset = torch.repeat_interleave(torch.arange(27), torch.tensor(level.pairs.sizes))
    listed = set(
        zip(level.pairs.target.index.tolist(), offset.tolist(), level.pairs.source.index.tolist(), strict=True)
    )
    table = {
        (v, k, int(level.neighbours[v, k]))
        for v in range(len(level)) for k in range(27)
        if k != CENTRE and level.neighbours[v, k] < len(level)
    }  # fmt: skip
    assert listed == table and len(listed) == len(level.pairs.target.index)


def test_rows_know_who_names_them():
    at = rows(torch.tensor([2, 0, 2, 2, 3]), 5)
    found = [at.order[at.start[i] : at.start[i + 1]].tolist() for i in range(5)]
    assert found == [[1], [], [0, 2, 3], [4], []]


def test_matches_are_the_nearest_of_the_same_sample_whatever_lies_in_the_other():
    made, other = stacked_tables(clouds(0), 0.25, 2), stacked_tables(clouds(1, points=40), 0.25, 1)
    found = match(made.centres(0), made.levels[0].sample, other.centres(0), other.levels[0].sizes)
    distance = torch.cdist(made.centres(0), other.centres(0))
    distance[made.levels[0].sample[:, None] != other.levels[0].sample] = torch.inf
    assert torch.equal(found, distance.argmin(1))  # of several, the first


def test_bad_clouds_are_refused_by_name():
    with pytest.raises(ValueError, match="2 points are not finite"):
        stacked_tables(torch.tensor([[[0.0, 0, 0], [torch.nan, 0, 0], [0, torch.inf, 0]]]), 0.1, 2)
    with pytest.raises(ValueError, match=r"points per sample are \[3, 0\]"):
        build_tables(torch.zeros(3, 3), torch.zeros(3, dtype=torch.long), 2, 0.1, 1)
    with pytest.raises(ValueError, match="crop the points"):
        stacked_tables(torch.tensor([[[5000.0, 0, 0]]]), 0.05, 1)
