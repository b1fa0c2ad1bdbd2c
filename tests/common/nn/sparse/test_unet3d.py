"""The sparse U-Nets: published sizes, and what must not depend on what."""

import pytest
import torch

from common.errors import ConfigError
from common.nn.sparse.conv import voxel_mean
from common.nn.sparse.tables import match, rows, stacked_tables
from common.nn.sparse.unet3d import InstanceNorm, Modulation, Refinement, ScanDenoiser, ScanEncoder

SMALL = dict(down=(8, 8, 12), norm="instance")


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_at_the_published_width_are_the_published_number():
    denoiser = ScanDenoiser()
    assert count(ScanEncoder()) == 8_497_952
    assert count(denoiser) == 24_174_515 and count(denoiser.modulation) == 2_451_904
    assert [count(one) for one in denoiser.unet.down] == [119_104, 398_016, 1_590_656, 6_359_808]
    assert [count(one) for one in denoiser.unet.up] == [8_588_288, 2_278_912, 1_190_016, 1_165_440]
    assert count(Refinement()) == 21_722_926


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_norms_have_as_many_parameters_as_each_other(norm):
    assert count(ScanEncoder(norm=norm)) == 8_497_952


def encode(encoder, points):
    tables = stacked_tables(points, 0.3, 3)
    return encoder(voxel_mean(points.reshape(-1, 3), tables.of_points), tables.levels), tables


def denoise(denoiser, points, index, encoded, scan):
    tables = stacked_tables(points, 0.3, 3)
    near = [
        rows(match(tables.centres(l), tables.levels[l].sample, scan.centres(2), scan.levels[2].sizes), len(encoded))
        for l in range(3)
    ]
    out = denoiser(
        voxel_mean(points.reshape(-1, 3), tables.of_points), index, encoded, scan.levels[2].sample, near,
        tables.levels, tables.of_points,
    )  # fmt: skip
    return out.reshape(points.shape)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return ScanEncoder(**SMALL).double().eval(), ScanDenoiser(up=(12, 8), **SMALL).double().eval()


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_permuted_points_give_permuted_outputs(networks):
    encoder, denoiser = networks
    scan, x, index = drawn(1, 40, 3), drawn(1, 200, 3, seed=1), torch.tensor([500])
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    encoded, tables = encode(encoder, scan)
    out = denoise(denoiser, x, index, encoded, tables)
    permuted = denoise(denoiser, x[:, order], index, *encode(encoder, scan.flip(1)))
    torch.testing.assert_close(permuted, out[:, order], rtol=0, atol=1e-10)


def test_a_batch_of_two_is_two_single_runs(networks):
    encoder, denoiser = networks
    scan, x, index = drawn(2, 40, 3), drawn(2, 200, 3, seed=1), torch.tensor([500, 20])
    encoded, tables = encode(encoder, scan)
    together = denoise(denoiser, x, index, encoded, tables)
    for i in range(2):
        alone = denoise(denoiser, x[i : i + 1], index[i : i + 1], *encode(encoder, scan[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-10)


def test_points_of_one_voxel_get_the_same_output(networks):
    encoder, denoiser = networks
    x = drawn(1, 100, 3, seed=1)
    x[:, 50:] = (x[:, :50] / 0.3).round() * 0.3 + 0.1
    x[:, :50] = x[:, 50:] - 0.15
    out = denoise(denoiser, x, torch.tensor([500]), *encode(encoder, drawn(1, 40, 3)))
    assert torch.equal(out[:, :50], out[:, 50:])


def test_the_output_depends_on_scan_and_time_and_without_a_scan_on_time_alone(networks):
    encoder, denoiser = networks
    x, index = drawn(1, 200, 3, seed=1), torch.tensor([500])
    scans = [encode(encoder, drawn(1, 40, 3, seed=seed)) for seed in (0, 7)]
    first, second = (denoise(denoiser, x, index, *scan) for scan in scans)
    assert (first - second).abs().max() > 1e-3
    later = denoise(denoiser, x, torch.tensor([10]), *scans[0])
    assert (first - later).abs().max() > 1e-3
    none = [denoise(denoiser, x, index, *encode(encoder, torch.zeros(1, n, 3).double())) for n in (1, 40)]
    torch.testing.assert_close(*none, rtol=0, atol=1e-12)


def test_modulation_by_gathered_factors_is_the_published_order_of_operations():
    """Published: both parts are brought to every voxel first, then mixed there."""
    torch.manual_seed(0)
    for first in (False, True):
        layer = Modulation(5, 7, 6, time_first=first).double()
        x, time, encoded = drawn(30, 5), drawn(2, 96, seed=1), drawn(9, 6, seed=2)
        sample = torch.tensor([0] * 4 + [1] * 5)
        near = torch.randint(0, 9, (30,), generator=torch.Generator().manual_seed(3))
        parts = [layer.part(encoded[near]), layer.time(time[sample[near]])]
        published = x * layer.factor(torch.cat(parts[::-1] if first else parts, 1))
        torch.testing.assert_close(layer(x, time, encoded, sample, rows(near, 9)), published)


def test_instance_norm_normalises_each_sample_and_survives_a_single_voxel():
    points = torch.cat([drawn(1, 60, 3), drawn(1, 60, 3) * 1e-6], 0)
    level = stacked_tables(points, 0.3, 1).levels[0]
    assert level.sizes[1] <= 8
    norm, x = InstanceNorm(4).double(), drawn(len(level), 4)
    out = norm(x, level)
    for part in out.split(level.sizes)[:1]:
        torch.testing.assert_close(part.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-12)
        torch.testing.assert_close(part.var(0, unbiased=False), torch.ones(4).double(), rtol=0, atol=1e-4)
    single = stacked_tables(torch.zeros(1, 3, 3), 0.3, 1).levels[0]
    torch.testing.assert_close(norm(drawn(1, 4), single), torch.zeros(1, 4).double(), rtol=0, atol=1e-10)


def test_refinement_offsets_stay_within_a_metre():
    torch.manual_seed(0)
    net = Refinement(up=(12, 8), **SMALL)
    points = drawn(2, 100, 3).float()
    tables = stacked_tables(points, 0.3, 3)
    out = net(100 * voxel_mean(points.reshape(-1, 3), tables.of_points), tables.levels, tables.of_points)
    assert out.shape == (200, 6, 3) and out.abs().max() <= 1


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="one more on the way down"):
        ScanDenoiser(down=(8, 8), up=(8, 8))
