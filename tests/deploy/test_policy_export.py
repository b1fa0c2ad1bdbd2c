"""Exported policies: the graphs' hygiene, the closed loop against PyTorch, the runtime's checks and its loop."""

import copy
import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from common.diffusion.levels import delayed_ladder, equal
from common.diffusion.process import vp_cosine
from common.errors import ConfigError
from common.nn.unet1d import ConditionalUNet1D
from control.delay import DelayedActor
from control.envs import make
from control.policies.encoders import StateEncoder
from control.policies.model import DiffusionPolicyModel
from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, delayed_plan, ladder_plan
from deploy.policy_export import FORBIDDEN, StepGraph, closed_loop_parity, export_policy
from deploy.runtime.errors import InputError, ManifestError
from deploy.runtime.policy import ActionError, BusyError, NotResetError, StreamingPolicy

PLANS = {
    "ladder": ladder_plan(20, 2),
    "DDIM": chunk_plan(20, 8, 4),
    "DDPM": chunk_plan(20, 8, 4, eta=1.0),
    "SDP": ladder_plan(20, 8, 5, first=1, prefix="renoise", eta=1.0),
    "delay": delayed_plan(20, 1, 2),
}

NAMES = [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("DD")) for name in PLANS]  # an export each


def policy_model(offset=0):
    """A small policy for TwoRoutes, untrained, with the ranges of its task. offset: where its buffer has "now"."""
    torch.manual_seed(0)
    model = DiffusionPolicyModel(
        action_dim=2,
        horizon=20,
        encoders={"state": dict(type=StateEncoder, width=10)},
        net=dict(type=ConditionalUNet1D, widths=(16, 32), groups=4, level_width=16),
        process=dict(type=vp_cosine, steps=100),
        prediction="x0",
        offset=offset,
        patterns={"a": (0.5, dict(type=equal, steps=100)),
                  "b": (0.5, dict(type=delayed_ladder, steps=100, execute=1, max_delay=3))},
    )  # fmt: skip
    model.actions.fit(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    model.encoder.encoders["state"].fit(torch.stack([-torch.ones(10), torch.ones(10)]))
    return model.eval()


class Exports(dict):
    """Name of a plan -> its file, exported when it is first asked for; `model(name)` is what was exported."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.models = folder, (policy_model(), policy_model(offset=1))

    def model(self, name):
        return self.models[PLANS[name].first - PLANS[name].delay]

    def __missing__(self, name):
        self[name] = self.folder / f"{name}.onnx"
        observation = {"state": np.zeros(10, np.float32)}
        export_policy(self.model(name), PLANS[name], observation, self[name], rate_hz=20, task="TwoRoutes-v0")
        return self[name]


@pytest.fixture(scope="module")
def exported(one_thread, tmp_path_factory):
    paths = Exports(tmp_path_factory.mktemp("policy"))
    return paths.models[0], paths


@pytest.mark.parametrize("name", NAMES)
def test_the_closed_loop_is_pytorchs_over_whole_episodes(exported, name):
    _, paths = exported
    found = closed_loop_parity(
        paths.model(name), PLANS[name], paths[name], lambda: make("TwoRoutes-v0"), [0, 5], steps=120
    )
    assert found.beside <= 1e-4 and found.apart <= 1e-4
    assert found.agree == found.steps > 120


def test_the_closed_loop_of_other_weights_is_told_apart(exported):
    _, paths = exported
    name = "ladder"
    other = copy.deepcopy(paths.model(name))
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.001)
    found = closed_loop_parity(other, PLANS[name], paths[name], lambda: make("TwoRoutes-v0"), [0], steps=20)
    assert found.beside > 1e-4 and found.agree < found.steps


@pytest.mark.parametrize("name", NAMES)
def test_the_graphs_hold_no_randomness_and_no_branches(exported, name):
    for path in (exported[1][name], exported[1][name].with_name(f"{name}.encoder.onnx")):
        model = onnx.load(path)
        assert not {node.op_type for node in model.graph.node} & FORBIDDEN
        assert all(dim.dim_value > 0 for i in model.graph.input for dim in i.type.tensor_type.shape.dim)


MANY_CALLS = """
import json, resource, sys
sys.modules["torch"] = None
import numpy as np
from deploy.runtime.policy import StreamingPolicy

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024

policy, calls, leak, kept = StreamingPolicy(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), []
policy.reset(0)
seen = {"state": np.zeros(10, np.float32)}
for call in range(1000 + calls):
    if call == 1000:
        before = resident()
    policy.step(seen)
    if leak:
        kept.append(bytearray(leak))
print(json.dumps([resident() - before, policy.level.tolist()]))
"""


def many_calls(path, calls, leak):
    """KiB that the resident memory of a process grows in so many calls, after the first 1,000; and the levels then."""
    program = [sys.executable, "-c", MANY_CALLS, str(path), str(calls), str(leak)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/statm")
def test_memory_does_not_grow_and_levels_stay_at_rest_over_ten_thousand_calls(exported):
    grown, level = many_calls(exported[1]["ladder"], 10_000, leak=0)
    assert grown < 1024, f"{grown} KiB"
    np.testing.assert_allclose(level, StreamingPolicy(exported[1]["ladder"]).manifest.resting, atol=1e-6)
    leaked, _ = many_calls(exported[1]["ladder"], 1000, leak=2560)  # as much as 256 bytes in each of 10,000
    assert leaked > 2048, f"{leaked} KiB"


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


def test_a_float_image_for_a_byte_image_is_named_and_not_cut_to_zero(exported):
    policy = StreamingPolicy(exported[1]["ladder"])
    state = policy.manifest.observations[0]
    policy.manifest = replace(policy.manifest, observations=(replace(state, dtype="uint8"),))
    policy.reset(0)
    with pytest.raises(InputError, match=r"'state' is float32, wanted uint8.*times 255"):
        policy.observe({"state": np.full(10, 0.5, np.float32)})
    with pytest.raises(InputError, match="'state' is object, wanted uint8"):
        policy.observe({"state": np.full(10, None)})
    assert not policy._history["state"].any()
    policy.observe({"state": np.full(10, 200, np.uint8)})
    assert (policy._history["state"] == 200).all()


def test_a_prepared_call_has_the_history_of_its_moment_while_the_policy_observes_on(exported):
    policy, alone = (StreamingPolicy(exported[1]["ladder"]) for _ in range(2))
    seen = [{"state": np.full(10, 0.1 * k, np.float32)} for k in range(6)]
    policy.reset(3)
    alone.reset(3)
    for k in range(0, 6, 2):
        wanted = alone.step(seen[k])
        call = policy.prepare(seen[k])
        policy.observe(seen[k + 1])  # while it runs, as a control loop does
        alone.observe(seen[k + 1])
        np.testing.assert_array_equal(call(), wanted)


def test_beside_a_running_call_only_observing_is_allowed(exported):
    policy = StreamingPolicy(exported[1]["ladder"])
    policy.reset(0)
    entered, leave, step = threading.Event(), threading.Event(), policy._step

    class Slow:
        def run_with_iobinding(self, binding):
            entered.set()
            leave.wait(30)
            step.run_with_iobinding(binding)

    policy._step, zeros = Slow(), {"state": np.zeros(10, np.float32)}
    thread = threading.Thread(target=policy.prepare(zeros))
    thread.start()
    assert entered.wait(30)
    for use in (policy.snapshot, policy.reset, policy.stand_by, lambda: policy.prepare(zeros)):
        with pytest.raises(BusyError, match="wait for its answer"):
            use()
    policy.observe(zeros)
    leave.set()
    thread.join()
    policy.prepare(zeros)()


def test_a_delayed_plans_actions_are_played_when_they_are_for(exported):
    played, called = (StreamingPolicy(exported[1]["delay"]) for _ in range(2))
    seen = [{"state": np.full(10, 0.1 * k, np.float32)} for k in range(7)]
    for policy in (played, called):
        policy.reset(1)
        policy.stand_by(np.array([0.5, -0.25]))
    assert called.manifest.first == 2
    wanted = [[0.5, -0.25]] * 2 + [called.step(one)[0] for one in seen]
    np.testing.assert_array_equal([played.select_action(one) for one in seen], np.float32(wanted[:7]))
    with pytest.raises(InputError, match=r"stand_by action is \(3,\); wanted \(2,\)"):
        played.stand_by(np.zeros(3))


def test_a_delayed_plan_begins_with_the_stand_by_action_in_flight_as_pytorchs_does(exported):
    model, paths = exported
    policy, idle = StreamingPolicy(paths["delay"]), torch.tensor([0.5, -0.25])
    policy.reset(1)
    policy.stand_by(idle.numpy())
    anchor = torch.zeros(20, 2)
    anchor[:2] = model.actions(idle).detach()
    same = DelayedActor(DiffusionPolicy(model, PLANS["delay"], "constant", anchor), 2, 1, 0, idle.numpy())
    same.reset([1])
    for k in range(6):
        seen = {"state": np.full(10, 0.1 * k, np.float32)}
        wanted = same.select_action({"state": seen["state"][None]})[0]
        np.testing.assert_allclose(policy.select_action(seen), wanted, rtol=0, atol=1e-4)
        if k == 0:
            np.testing.assert_allclose(policy.snapshot()["buffer"][0, 0], idle, atol=1e-6)


@pytest.mark.parametrize("batch", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_single_step_is_pytorchs_whether_reset_or_not_on_the_cpu_provider(exported, tmp_path, batch):
    name, paths = "SDP", exported[1]
    model, path = paths.model(name), paths[name]
    if batch > 1:
        path = tmp_path / "batch.onnx"
        export_policy(model, PLANS[name], {"state": np.zeros(10, np.float32)}, path, rate_hz=20, batch=batch)
        with pytest.raises(ManifestError, match="a batch of 8, a StreamingPolicy runs one robot"):
            StreamingPolicy(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
    shapes = {one.name: tuple(one.shape) for one in session.get_inputs()}
    assert {shape[1 if one == "noise" else 0] for one, shape in shapes.items()} == {batch}
    draws, graph = np.random.default_rng(0), StepGraph(model, PLANS[name])
    for reset in (np.ones(batch, bool), np.zeros(batch, bool), np.arange(batch) % 2 == 0):
        given = {one: draws.normal(size=shape).astype(np.float32) for one, shape in shapes.items() if one != "reset"}
        given |= {"reset": reset, "level": np.tile(np.float32(PLANS[name].resting), (batch, 1))}
        found = session.run(None, given)
        order = [
            one for one in ("condition", "buffer", "level", "fresh", "start_noise", "reset", "noise") if one in given
        ]
        with torch.no_grad():
            wanted = graph(*(torch.from_numpy(given[one]) for one in order))
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-4)


def test_the_runtime_runs_on_the_cpu_provider_alone(exported):
    policy = StreamingPolicy(exported[1]["ladder"], providers=["CPUExecutionProvider"])
    assert policy._step.get_providers() == policy._encoder.get_providers() == ["CPUExecutionProvider"]
    policy.reset(0)
    assert np.isfinite(policy.step({"state": np.zeros(10, np.float32)})).all()


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
