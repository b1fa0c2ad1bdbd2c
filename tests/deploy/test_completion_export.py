"""An exported completion is the PyTorch one: graph by graph, and as a whole."""

import json

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from deploy import completion_bench
from deploy.bench_command import bench
from deploy.completion_export import export_completion
from deploy.runtime.completion import SceneCompleter
from deploy.runtime.errors import InputError, ManifestError
from deploy.runtime.thinning import spread as runtime_spread
from perception.completion.network import Encoder, NoisePredictor, Refiner, VoxelSpec
from perception.completion.samples import spread
from perception.completion.sampling import lidiff_local, sample_local, start

SPEC = VoxelSpec(0.3, 3, radius=8.0)
RANGE = dict(radius=8.0, near=0.5, scan_points=150, copies=6)


def drawn_scan(points, seed=0):
    draws = np.random.default_rng(seed)
    return (draws.uniform(-5, 5, (points, 3)) * [1, 1, 0.2]).astype(np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    encoder, denoiser = Encoder(SPEC, (8, 8, 12)).eval(), NoisePredictor(SPEC, (8, 8, 12), (12, 8)).eval()
    path = tmp_path_factory.mktemp("completion") / "net.onnx"
    export_completion(encoder, denoiser, path, drawn_scan(150), steps=2, **RANGE)
    return encoder, denoiser, path


@pytest.mark.parametrize("points", [30, 150, 700])
def test_encoder_and_denoiser_agree_with_pytorch_on_clouds_of_different_size(exported, points):
    encoder, denoiser, path = exported
    completer, scan = SceneCompleter(path), drawn_scan(points, points)
    x = np.tile(scan, (4, 1)) + 0.5 * np.random.default_rng(1).standard_normal((4 * points, 3)).astype(np.float32)
    with torch.no_grad():
        seen = encoder(torch.from_numpy(scan)[None])
    encoded = completer.encode(scan)
    np.testing.assert_allclose(encoded[0], seen.features.numpy(), rtol=0, atol=1e-4)
    for index in (0, 500, 999):  # the encoder's output serves all of them
        with torch.no_grad():
            theirs = denoiser(torch.from_numpy(x)[None], torch.tensor((index + 1) / 1000), seen)[0].numpy()
        np.testing.assert_allclose(completer.predict(x, index, [(1.0, encoded)]), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (2, 1.0), (1, 3.5)])
def test_a_completion_is_pytorchs_for_the_same_noise(exported, steps, guidance):
    encoder, denoiser, path = exported
    scan, process = drawn_scan(150), lidiff_local()
    noise = np.random.default_rng(1).standard_normal((900, 3)).astype(np.float32)
    found = SceneCompleter(path, steps=steps, guidance=guidance)(scan, noise=noise, thin=False)
    anchor = torch.from_numpy(scan)[None].repeat(1, 6, 1)
    with torch.no_grad():
        seen, empty = encoder(anchor[:, :150]), encoder.empty(1)

        def denoise(x, t):
            without = denoiser(x, t, empty) if guidance != 1 else 0.0
            return x - process.sigma(t) * (without + guidance * (denoiser(x, t, seen) - without))

        theirs = sample_local(denoise, start(anchor, process, torch.from_numpy(noise)[None]), steps)[0].numpy()
    # a point within rounding of a voxel's border may fall on either side of it: at most one of the 900
    assert (np.abs(found.raw - theirs).max(1) > 1e-3).sum() <= 1
    assert found.evaluations == steps * (1 if guidance == 1 else 2)
    assert set(found.seconds) == {"preparation", "sampling"}


def test_the_output_filter_keeps_the_range_and_the_scans_heights(exported):
    completer, scan = SceneCompleter(exported[2]), drawn_scan(400)
    found = completer(scan, seed=3)
    assert len(found.raw) == 900 and 0 < len(found.points) <= 900
    assert np.linalg.norm(found.points, axis=1).max() < 8
    prepared = completer.prepare(scan, np.random.default_rng(3))
    kept = completer.keep(found.raw, prepared)
    assert np.array_equal(found.raw[kept], found.points)
    low, high = prepared[:, 2].mean() - 2 * prepared[:, 2].std(), prepared[:, 2].max()
    assert ((found.points[:, 2] > low) & (found.points[:, 2] < high)).all()


def test_a_scan_is_thinned_or_repeated_to_the_trained_number_of_points(exported):
    completer = SceneCompleter(exported[2])
    for points in (40, 150, 1000):
        scan = drawn_scan(points)
        near = np.linalg.norm(scan, axis=1)
        inside = scan[(near > 0.5) & (near < 8)]
        found = completer.prepare(np.c_[scan, np.ones(points)], np.random.default_rng(0))
        assert found.shape == (150, 3)
        distinct = np.unique(found, axis=0)
        assert len(distinct) == min(150, len(inside))
        assert {tuple(row) for row in distinct} <= {tuple(row) for row in inside}


def test_a_refinement_is_exported_with_it_and_agrees(exported, tmp_path):
    encoder, denoiser, without = exported
    torch.manual_seed(1)
    refiner = Refiner(SPEC, (8, 8, 12), (12, 8)).eval()
    path = tmp_path / "refined.onnx"
    export_completion(encoder, denoiser, path, drawn_scan(150), steps=1, refiner=refiner, **RANGE)
    completer, plain = SceneCompleter(path), SceneCompleter(path, refine=False)
    for points in (40, 900):
        x = drawn_scan(points, points)
        with torch.no_grad():
            theirs = refiner(torch.from_numpy(x)[None])[0].numpy()
        np.testing.assert_allclose(completer.refined(x), theirs, rtol=0, atol=1e-4)
    found, bare = completer(drawn_scan(400)), plain(drawn_scan(400))
    assert len(found.points) == 6 * len(bare.points) and np.array_equal(found.raw, bare.raw)
    np.testing.assert_array_equal(found.points, completer.refined(bare.points))
    assert set(found.seconds) == {"preparation", "sampling", "refinement"}
    assert set(bare.seconds) == {"preparation", "sampling"}
    with pytest.raises(ManifestError, match="exported without a refinement"):
        SceneCompleter(without, refine=True)
    path.with_name("refined.refinement.onnx").write_bytes(b"another")
    with pytest.raises(ManifestError, match=r"refined\.refinement\.onnx"):
        SceneCompleter(path)


def test_the_runtime_draws_the_points_that_training_draws():
    for points, count in ((1000, 150), (100, 150)):
        scan = drawn_scan(points)
        ours, theirs = (draw(scan, count, np.random.default_rng(4)) for draw in (runtime_spread, spread))
        assert np.array_equal(ours, theirs)


def test_bad_scans_are_refused_by_name(exported):
    completer = SceneCompleter(exported[2])
    with pytest.raises(InputError, match=r"the scan is \(5, 2\), wanted"):
        completer(np.zeros((5, 2)))
    with pytest.raises(InputError, match="1 points of the scan are not finite"):
        completer(np.array([[1.0, 2, np.nan], [1, 2, 3]]))
    with pytest.raises(InputError, match=r"no point of the scan lies between 0\.5 and 8\.0 m"):
        completer(np.full((5, 3), 100.0))
    with pytest.raises(InputError, match=r"noise is \(5, 3\), wanted \(900, 3\)"):
        completer(drawn_scan(200), noise=np.zeros((5, 3)))
    with pytest.raises(InputError, match=r"the scan is \(5, 2\), wanted"):
        completer(np.zeros((5, 2)), thin=False)
    with pytest.raises(InputError, match="the scan has no point"):
        completer(np.zeros((0, 4)), thin=False)
    with pytest.raises(InputError, match=r"steps=0: choose 1 to 999"):
        SceneCompleter(exported[2], steps=0)


def test_reflectance_is_left_aside_and_a_filter_that_leaves_nothing_is_not_obeyed(exported, monkeypatch):
    completer, scan = SceneCompleter(exported[2]), drawn_scan(150)
    prepared, noise = completer.prepare(scan, np.random.default_rng(0)), np.zeros((900, 3), np.float32)
    plain = completer(prepared, noise=noise, thin=False)
    assert np.array_equal(completer(np.c_[prepared, np.ones(len(prepared))], noise=noise, thin=False).raw, plain.raw)
    monkeypatch.setattr(completer, "keep", lambda x, scan: np.zeros(len(x), bool))
    assert np.array_equal(completer(prepared, noise=noise, thin=False).points, plain.raw)


def test_files_that_do_not_belong_together_are_refused(exported, tmp_path):
    for file in exported[2].parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "net.encoder.onnx").write_bytes(b"another")
    with pytest.raises(ManifestError, match=r"net\.encoder\.onnx is not the file net\.json describes"):
        SceneCompleter(tmp_path / "net.onnx")
    manifest = json.loads((tmp_path / "net.json").read_text())
    del manifest["voxel"]
    (tmp_path / "net.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match="key is missing"):
        SceneCompleter(tmp_path / "net.onnx")


def test_networks_of_different_voxels_are_not_exported_together(tmp_path):
    encoder, denoiser = Encoder(VoxelSpec(0.2, 3), (8, 8, 12)), NoisePredictor(SPEC, (8, 8, 12), (12, 8))
    with pytest.raises(ConfigError, match="export networks of one kind of voxels"):
        export_completion(encoder, denoiser, tmp_path / "a.onnx", drawn_scan(9), steps=1, **RANGE)


def test_a_completion_is_timed_part_by_part(exported, tmp_path, capsys):
    path = exported[2]
    assert bench(str(path)) == "deploy.completion_bench"
    drawn_scan(901).tofile(tmp_path / "odd.bin")
    with pytest.raises(ConfigError, match=r"odd\.bin: wanted a file of float32"):
        completion_bench.main([str(path), "--scan", str(tmp_path / "odd.bin")])
    out = tmp_path / "b.json"
    assert completion_bench.main([str(path), "--scans", "3", "--out", str(out)]) == 0
    told, report = capsys.readouterr().out, json.loads(out.read_text())
    assert "| preparation |" in told and "| whole completion |" in told
    assert report["evaluations"] == 2 and set(report["parts"]) == {"preparation", "sampling"}
    total = sum(one["mean_ms"] for one in report["parts"].values())
    assert report["whole"]["mean_ms"] == pytest.approx(total)
    calls = []
    completer = SceneCompleter(path)
    beside = completion_bench.measure(completer, [drawn_scan(500)], 2, lambda scan, noise: calls.append(noise.shape))
    assert calls == [(900, 3)] * 3 and beside["torch_over_onnx"] > 0
    with pytest.raises(ConfigError, match="--scans 0"):
        completion_bench.main([str(path), "--scans", "0"])
