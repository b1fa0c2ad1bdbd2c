"""Exported policies: the graphs' hygiene, the closed loop against PyTorch, the runtime's checks and its loop."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from common.diffusion.levels import delayed_ladder, equal
from common.diffusion.process import vp_cosine
from common.errors import ConfigError
from common.nn.unet1d import ConditionalUNet1D
from control.envs import make
from control.policies.encoders import StateEncoder
from control.policies.model import DiffusionPolicyModel
from control.policies.streaming import chunk_plan, delayed_plan, ladder_plan
from deploy.policy_export import FORBIDDEN, closed_loop_parity, export_policy
from deploy.runtime.errors import InputError, ManifestError
from deploy.runtime.policy import ActionError, NotResetError, StreamingPolicy

PLANS = {
    "ladder": ladder_plan(20, 2),
    "DDIM": chunk_plan(20, 8, 4),
    "DDPM": chunk_plan(20, 8, 4, eta=1.0),
    "SDP": ladder_plan(20, 8, 5, first=1, prefix="renoise", eta=1.0),
    "delay": delayed_plan(20, 1, 2),
}


def policy_model():
    """A small policy for TwoRoutes, untrained, with the ranges of its task."""
    torch.manual_seed(0)
    model = DiffusionPolicyModel(
        action_dim=2,
        horizon=20,
        encoders={"state": dict(type=StateEncoder, width=10)},
        net=dict(type=ConditionalUNet1D, widths=(16, 32), groups=4, level_width=16),
        process=dict(type=vp_cosine, steps=100),
        prediction="x0",
        patterns={"a": (0.5, dict(type=equal, steps=100)),
                  "b": (0.5, dict(type=delayed_ladder, steps=100, execute=1, max_delay=3))},
    )  # fmt: skip
    model.actions.fit(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    model.encoder.encoders["state"].fit(torch.stack([-torch.ones(10), torch.ones(10)]))
    return model.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("policy"), policy_model()
    paths = {}
    for name, plan in PLANS.items():
        paths[name] = folder / f"{name}.onnx"
        export_policy(model, plan, {"state": np.zeros(10, np.float32)}, paths[name], rate_hz=20, task="TwoRoutes-v0")
    return model, paths


@pytest.mark.parametrize("name", PLANS)
def test_the_closed_loop_is_pytorchs_over_whole_episodes(exported, name):
    model, paths = exported
    gap = closed_loop_parity(model, PLANS[name], paths[name], lambda: make("TwoRoutes-v0"), [0, 5], steps=120)
    assert gap <= 1e-4


@pytest.mark.parametrize("name", PLANS)
def test_the_graphs_hold_no_randomness_and_no_branches(exported, name):
    for path in (exported[1][name], exported[1][name].with_name(f"{name}.encoder.onnx")):
        model = onnx.load(path)
        assert not {node.op_type for node in model.graph.node} & FORBIDDEN
        assert all(dim.dim_value > 0 for i in model.graph.input for dim in i.type.tensor_type.shape.dim)


def test_the_levels_stay_at_rest_over_ten_thousand_calls_and_memory_does_not_grow(exported):
    import resource

    policy = StreamingPolicy(exported[1]["ladder"])
    policy.reset(0)
    seen = {"state": np.zeros(10, np.float32)}
    for _ in range(2000):
        policy.step(seen)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(8000):
        policy.step(seen)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2048, f"{grown} KiB"
    np.testing.assert_allclose(policy.level, policy.manifest.resting, atol=1e-6)


def test_a_snapshot_continues_exactly(exported):
    path = exported[1]["SDP"]
    policy, other = StreamingPolicy(path), StreamingPolicy(path)
    draws = np.random.default_rng(0)
    seen = [{"state": draws.normal(size=10).astype(np.float32)} for _ in range(30)]
    policy.reset(4)
    for one in seen[:11]:
        policy.select_action(one)
    kept = policy.snapshot()
    rest = [policy.select_action(one) for one in seen[11:]]
    other.reset(0)
    other.restore(kept)
    np.testing.assert_array_equal([other.select_action(one) for one in seen[11:]], rest)


def test_an_episode_does_not_depend_on_the_one_before(exported):
    policy = StreamingPolicy(exported[1]["ladder"])
    seen = [{"state": np.full(10, 0.1 * k, np.float32)} for k in range(8)]

    def run(seed):
        policy.reset(seed)
        return [policy.select_action(one) for one in seen]

    first = run(1)
    run(2)
    np.testing.assert_array_equal(run(1), first)


def test_bad_observations_are_named_and_nothing_moves(exported):
    policy = StreamingPolicy(exported[1]["ladder"])
    with pytest.raises(NotResetError, match="call reset"):
        policy.step({"state": np.zeros(10, np.float32)})
    policy.reset(0)
    before = policy.snapshot()
    with pytest.raises(InputError, match=r"\(9,\).*wanted \(10,\) float32"):
        policy.step({"state": np.zeros(9, np.float32)})
    with pytest.raises(InputError, match="finite: False"):
        policy.step({"state": np.full(10, np.nan, np.float32)})
    with pytest.raises(InputError, match="'state' is missing"):
        policy.step({"points": np.zeros(10)})
    np.testing.assert_array_equal(policy.snapshot()["buffer"], before["buffer"])


def test_an_action_outside_the_limits_is_not_returned_and_the_state_stays(exported):
    policy = StreamingPolicy(exported[1]["ladder"])
    policy.reset(0)
    policy.step({"state": np.zeros(10, np.float32)})
    before = policy.snapshot()
    policy._low[:] = 5.0
    with pytest.raises(ActionError, match=r"outside \[5, .*not sent"):
        policy.step({"state": np.zeros(10, np.float32)})
    after = policy.snapshot()
    for name in ("buffer", "level", "fresh"):
        np.testing.assert_array_equal(after[name], before[name])


def test_files_that_do_not_belong_together_are_refused(exported, tmp_path):
    import shutil

    source = exported[1]["ladder"]
    for name in ("ladder.onnx", "ladder.json", "ladder.encoder.onnx"):
        shutil.copy(source.with_name(name), tmp_path / name)
    path = tmp_path / "ladder.onnx"
    StreamingPolicy(path)
    shutil.copy(exported[1]["DDIM"].with_name("DDIM.encoder.onnx"), tmp_path / "ladder.encoder.onnx")
    (tmp_path / "ladder.encoder.onnx").write_bytes((tmp_path / "ladder.encoder.onnx").read_bytes() + b" ")
    with pytest.raises(ManifestError, match=r"ladder\.encoder\.onnx is not the file ladder\.json describes"):
        StreamingPolicy(path)
    raw = json.loads((tmp_path / "ladder.json").read_text())
    (tmp_path / "ladder.json").write_text(json.dumps({**raw, "schema": "other/1"}))
    with pytest.raises(ManifestError, match="schema is 'other/1'"):
        StreamingPolicy(path)
    (tmp_path / "ladder.json").unlink()
    with pytest.raises(ManifestError, match="keep the manifest beside"):
        StreamingPolicy(path)


def test_rollouts_in_two_processes_or_on_ray_have_the_outcomes_of_one(exported):
    from control.workers import local_pool, ray_pool
    from deploy.rollout import closed_loop, spread

    path, seeds = exported[1]["ladder"], [100_000, 100_001, 100_002]
    alone = closed_loop(path, "TwoRoutes-v0", seeds)
    assert [one.seed for one in alone] == seeds
    assert spread(path, "TwoRoutes-v0", seeds, local_pool(2)) == alone
    pytest.importorskip("ray")
    assert spread(path, "TwoRoutes-v0", seeds, ray_pool("local", 2)) == alone


def test_a_plan_with_a_hundred_evaluations_is_not_unrolled(tmp_path):
    with pytest.raises(ConfigError, match="100 evaluations per call"):
        export_policy(
            policy_model(), chunk_plan(20, 8, 100), {"state": np.zeros(10, np.float32)}, tmp_path / "a.onnx", rate_hz=20
        )


def test_the_runtime_runs_in_a_process_without_torch(exported):
    code = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from deploy.runtime.policy import StreamingPolicy
policy = StreamingPolicy({str(exported[1]["ladder"])!r})
policy.warm_up()
policy.reset(3)
print(policy.select_action({{"state": np.zeros(10, np.float32)}}).shape)
print([name for name in sys.modules if name.split(".")[0] in ("control", "common", "mmengine")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=".")
    assert done.stdout.split("\n")[:2] == ["(2,)", "[]"], done.stderr


def test_the_benchmark_of_a_policy_times_both_engines_and_its_loop(exported, capsys):
    from control.policies.policy import DiffusionPolicy
    from deploy.policy_bench import drawn_observations, measure, table

    model, paths = exported
    against = DiffusionPolicy(model, PLANS["ladder"])
    against.reset([0])
    report = measure(paths["ladder"], steps=60, hz=200, against=against)
    assert report["onnx"]["n"] == report["torch"]["n"] == 60
    assert 0 < report["onnx"]["p50_ms"] <= report["onnx"]["p99_ms"] <= report["onnx"]["max_ms"]
    assert report["evaluations_per_action"] == 0.5 and report["loop"]["hz"] == 200
    assert 0 <= report["loop"]["miss_rate"] <= 1 and report["loop"]["period_ms"] == 5
    assert len(report["onnx"]) and "miss rate" in table(report) and "PyTorch / ONNX" in table(report)
    manifest = StreamingPolicy(paths["ladder"]).manifest
    drawn = np.stack([one["state"] for one in drawn_observations(manifest, 50)])
    assert drawn.min() >= -1 and drawn.max() <= 1 and drawn.std(0).min() > 0


def test_bench_finds_out_what_was_exported(exported, tmp_path, capsys):
    from common import cli
    from deploy.bench_command import bench

    path = exported[1]["ladder"]
    assert bench(str(path)) == "deploy.policy_bench"
    (tmp_path / "detector.json").write_text(json.dumps({"schema": "tutelage-detector/1"}))
    assert bench(str(tmp_path / "detector.onnx")) == bench(str(tmp_path / "none.onnx")) == "deploy.bench"
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "--steps", "20", "--out", str(out), str(path)]) == 0
    assert "loop at 20 Hz" in capsys.readouterr().out
    assert json.loads(out.read_text())["onnx"]["n"] == 20
    assert cli.main(["bench", "--steps", "0", str(path)]) == 1
    assert "at least 1" in capsys.readouterr().err
