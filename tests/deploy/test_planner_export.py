"""Exported planners: the graphs against PyTorch, whole episodes with the same seeds, manifests, commands."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from common.diffusion.process import vp_linear
from common.errors import ConfigError
from common.nn.transformer import ConditionalTransformer
from common.nn.unet1d import ConditionalUNet1D
from control.demonstrations.store import Episode
from control.planning.diffuser.model import TrajectoryDiffuserModel
from control.planning.diffuser.planner import Planner
from control.planning.diffuser.plans import PlanSettings
from control.planning.diffuser.refine import refine
from control.planning.diffuser.refine import shifted as torch_shifted
from control.planning.diffuser.windows import PlanWindows
from deploy.planner_export import (
    OptimiserStep,
    chain_of,
    describe,
    drawn_inputs,
    export_planner,
    graph_differences,
    planner_parity,
    sealed,
)
from deploy.policy_export import FORBIDDEN
from deploy.runtime.errors import InputError, ManifestError
from deploy.runtime.exported import open_manifest, open_policy
from deploy.runtime.planner import PlannerPolicy, gumbel, noised, shifted
from deploy.runtime.planner_manifest import Chain, PlannerManifest
from deploy.runtime.policy import ActionError, BusyError, NotResetError

S, A, H = 3, 2, 8
FULL = dict(start="generator", level=6, candidates=3, jitter=0.2, guidance=1.3, target="value", forward_noise=True)
ONE = dict(start="generator", level=6)
NAMED = {  # plan -> the export whose graphs serve it
    "one": ("ONE", ONE),
    "written": ("ONE", dict(start="generator", level=0, execute=3)),
    "forward noise, few steps, DDIM": ("ONE", dict(level=6, steps=3, eta=0.0, forward_noise=True, execute=2)),
    "decrement": ("ONE", dict(level=2, target=3.0, floor=0.3, eta=0.7, temperature=1.0)),
    "hold": ("ONE", dict(level=2, target=3.0, update="hold", execute=5)),
    "noise": ("ONE", dict(start="noise", execute=4)),
    "noise by DDIM": ("ONE", dict(start="noise", steps=10, eta=0.0, execute=3)),
    "previous": ("ONE", dict(start="previous", level=6, execute=3)),
    "previous, not improved": ("ONE", dict(start="previous", level=0, execute=2)),
    "full": ("FULL", FULL),
    "softmax": ("FULL", {**FULL, "choose": "softmax", "execute": 2}),
    "full, no level": ("FULL", {**FULL, "level": 0}),
    "full, previous": ("FULL", {**FULL, "start": "previous", "execute": 3, "choose": "softmax"}),
    "full, noise": ("FULL", {**FULL, "start": "noise", "steps": 5, "target": None}),
}


def episodes(count=4, length=40):
    """Random walks with random rewards."""
    draws = np.random.default_rng(0)
    return [
        Episode(
            observations={"state": (draws.normal(size=(length + 1, S)).cumsum(0) * 0.3).astype(np.float32)},
            actions=draws.uniform(-2, 1, (length, A)).astype(np.float32),
            rewards=draws.uniform(0, 0.2, length).astype(np.float32),
            terminated=False,
            success=False,
            seed=seed,
        )
        for seed in range(count)
    ]


TRANSFORMER = dict(type=ConditionalTransformer, horizon=H, width=16, depth=2, heads=2, level_scale=20.0)
UNET = dict(type=ConditionalUNet1D, widths=(8, 16), groups=4, level_width=8, level_scale=20.0)


def planner_model(observed=2, stride=2, net=TRANSFORMER, **kwargs):
    """A small model with fitted statistics and no layer at 0."""
    torch.manual_seed(0)
    model = TrajectoryDiffuserModel(
        S, A, H,
        net=net,
        process=dict(type=vp_linear, steps=20, beta_start=1e-3, beta_end=0.2),  # untrained plans stay near the data
        generator={"width": 16, "depth": 2, "heads": 2, "hidden": 24, **kwargs.pop("generator", {})},
        observed=observed, stride=stride, discount=0.99, inverse_widths=(16,), **kwargs,
    )  # fmt: skip
    model.fit(PlanWindows(episodes(), observed + H - 1, stride, discount=0.99))
    model.generator_error.fill_(0.3)
    torch.nn.init.normal_(model.generator.net.last.weight, std=0.1)
    for block in getattr(model.denoiser.net, "blocks", []):
        torch.nn.init.normal_(block.adapt.weight, std=0.1)
    for net in (model.value, model.plan_value):  # so that the values decide, and differ
        net[-1].weight.data *= 20
    return model.eval()


class Exports(dict):
    """Name of a plan -> (planner in PyTorch, file); each set of graphs is exported once, manifests as asked for."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.model = folder, planner_model()
        self.graphs = {}

    def __missing__(self, name):
        kind, plan = NAMED[name]
        if kind not in self.graphs:
            self.graphs[kind] = self.folder / kind / "graphs.onnx"
            export_planner(self.planner(FULL if kind == "FULL" else ONE), self.graphs[kind], rate_hz=20)
        path, planner = self.folder / name / "plan.onnx", self.planner(plan)
        path.parent.mkdir()
        manifest = describe(planner, path, rate_hz=20, task="Maze2D-UMaze-v0")
        for file in manifest.files.values():
            shutil.copy(self.graphs[kind].with_name(file.replace("plan", "graphs")), path.with_name(file))
        sealed(manifest, path)
        self[name] = planner, path
        return self[name]

    def planner(self, plan):
        return Planner(self.model, PlanSettings(**plan))


@pytest.fixture(scope="module")
def exported(one_thread, tmp_path_factory):
    return Exports(tmp_path_factory.mktemp("planner"))


def walk(steps, seed=0):
    """An episode: observations of a random walk, rewards that are often larger than what is left to ask for."""
    draws = np.random.default_rng(seed)
    states = (draws.normal(size=(steps, S)).cumsum(0) * 0.2).astype(np.float32)
    return [
        ({"state": state}, float(reward)) for state, reward in zip(states, draws.uniform(0, 0.4, steps), strict=True)
    ]


@pytest.mark.parametrize("kind", ["one", "full"])
def test_every_graph_is_pytorchs_and_a_changed_weight_is_seen(exported, kind):
    planner, path = exported[kind]
    model, manifest = planner.model, PlannerManifest.load(path)
    gaps = graph_differences(model, manifest, path)
    assert set(gaps) == set(manifest.files) and max(gaps.values()) < 1e-4, gaps
    parameters = {"optimiser": model.denoiser.net.last.bias, "generator": model.generator.net.last.bias,
                  "act": model.inverse.mlp[-1].bias, "value": model.plan_value[-1].bias,
                  "asked": model.value[-1].bias}  # fmt: skip
    for role in gaps:
        parameters[role].data += 0.01
        try:
            assert graph_differences(model, manifest, path)[role] > 1e-4, role
        finally:
            parameters[role].data -= 0.01


@pytest.mark.parametrize("name", NAMED)
def test_actions_are_pytorchs_over_whole_episodes_with_the_same_seeds(exported, name):
    planner, path = exported[name]
    found = planner_parity(planner, path, [(seed, walk(30, seed)) for seed in (3, 7)])
    assert found.worst < 1e-4 and found.plan < 1e-4 and found.steps == 60
    assert found.plans == 2 * -(-30 // planner.settings.execute)
    assert (_apart(planner, path) > 1e-3) == (name != "written")  # nothing is drawn there


def _apart(planner, path):
    """Largest difference of an action where the two draw from different seeds."""
    runtime, worst = PlannerPolicy(path), 0.0
    runtime.reset(1)
    planner.reset([2])
    for seen, _ in walk(8):
        theirs = planner.select_action({name: value[None] for name, value in seen.items()})[0]
        worst = max(worst, float(np.abs(runtime.select_action(seen) - theirs).max()))
    return worst


def test_rewards_lower_what_is_asked_for_unless_it_is_held(exported):
    for name, alike in (("decrement", False), ("hold", True)):
        policies = [PlannerPolicy(exported[name][1]) for _ in range(2)]
        for policy in policies:
            policy.reset(0)
        actions = []
        for seen, _ in walk(30):
            actions.append([policy.select_action(seen) for policy in policies])
            policies[1].rewarded(0.4)
        first, second = np.swapaxes(actions, 0, 1)
        assert np.array_equal(first, second) == alike
    policies[1].reset(0)
    with pytest.raises(InputError, match="reward is nan; wanted one finite number"):
        policies[1].rewarded(float("nan"))


def test_the_graphs_hold_no_randomness_no_branches_and_only_what_is_needed(exported):
    wanted = {
        "one": {"optimiser", "generator", "act"},
        "written": {"generator", "act"},
        "noise": {"optimiser", "act"},
        "previous, not improved": {"optimiser", "act"},
        "full, noise": {"optimiser", "act", "value"},
        "full": {"optimiser", "generator", "act", "value", "asked"},
    }
    for name, roles in wanted.items():
        assert set(PlannerManifest.load(exported[name][1]).files) == roles, name
    for path in [file for graphs in exported.graphs.values() for file in graphs.parent.glob("*.onnx")]:
        model = onnx.load(path)
        assert not {node.op_type for node in model.graph.node} & FORBIDDEN
        assert all(dim.dim_value > 0 for i in model.graph.input for dim in i.type.tensor_type.shape.dim)


def test_without_a_level_there_is_no_optimiser_and_no_graph_of_an_earlier_export_stays(one_thread, tmp_path):
    (tmp_path / "a.value.onnx").write_bytes(b"old")
    (tmp_path / "a.onnx").write_bytes(b"old")
    planner = Planner(planner_model(observed=1, stride=1), PlanSettings(level=0))
    manifest = export_planner(planner, tmp_path / "a.onnx", rate_hz=5)
    assert {file.name for file in tmp_path.iterdir()} == {"a.json", "a.act.onnx", "a.generator.onnx"}
    assert max(graph_differences(planner.model, manifest, tmp_path / "a.onnx").values()) < 1e-4
    assert planner_parity(planner, tmp_path / "a.onnx", [(0, walk(40))]).worst < 1e-3
    policy = open_policy(tmp_path / "a.onnx")
    policy.reset(0)
    assert policy.plan is None and policy.select_action({"state": np.zeros(S, np.float32)}).shape == (A,)
    assert policy.plan.shape == (H, S) and manifest.plan_evaluations == H - 1 and manifest.evaluations == H


def test_a_step_of_the_graph_is_refines(one_thread):
    """With levels, noise, temperature and eta of a chain, step by step, it is `refine`."""
    model = planner_model()
    planner = Planner(model, PlanSettings(level=6, steps=4, guidance=1.3))
    chain, step = chain_of(model, planner.settings), OptimiserStep(model, 1.3)
    x, noise, asked = torch.randn(3, H, S), torch.randn(chain.steps, 3, H, S), torch.tensor([0.4])
    with torch.no_grad():
        condition = model.condition(asked).expand(3, -1)
        for eta in (0.0, 0.6, 1.0):
            wanted = refine(lambda x, t: model.guided(1.3)(x, t, condition), model.process, x, 6, 4, eta,
                            noise if eta else None, 0.5)  # fmt: skip
            got = x
            for i in range(chain.steps):
                t, s = (torch.tensor([chain.levels[k]], dtype=torch.float32) for k in (i, i + 1))
                got = step(got, t, s, 0.5 * noise[i], asked, torch.tensor([eta]))
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


def test_the_released_statistics_and_losses_are_exported_too(one_thread, tmp_path):
    model = planner_model(1, 3, UNET, shared=False, clean=False, generator=dict(causal=False))
    with pytest.raises(ConfigError, match="causal=False has no cache"):
        export_planner(Planner(model, PlanSettings(level=2)), tmp_path / "a.onnx", rate_hz=20)
    planner = Planner(model, PlanSettings(start="noise", steps=5, eta=0.0, execute=4))
    manifest = export_planner(planner, tmp_path / "a.onnx", rate_hz=20)
    assert max(graph_differences(model, manifest, tmp_path / "a.onnx").values()) < 1e-4
    assert planner_parity(planner, tmp_path / "a.onnx", [(0, walk(60))]).worst < 1e-3


def test_pure_functions_have_their_closed_forms():
    plan = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    for steps in (0, 1, 4, 5, 30):
        np.testing.assert_allclose(
            shifted(plan, steps, 4), torch_shifted(torch.from_numpy(plan)[None], steps, 4)[0], atol=1e-6
        )
    chain = Chain(levels=(0.5, 0.0), alpha=0.6, sigma=0.8, eta=1.0)
    out = noised(chain, plan[None], np.ones((1, 6, 2), np.float32))
    np.testing.assert_allclose(out[0, 1:], 0.6 * plan[1:] + 0.8, atol=1e-6)
    np.testing.assert_array_equal(out[0, 0], plan[0])
    normal = np.random.default_rng(1).standard_normal(2000, dtype=np.float32)
    uniform = torch.special.ndtr(torch.from_numpy(normal)).clamp(1e-7, 1 - 1e-7)
    np.testing.assert_allclose(gumbel(normal), -torch.log(-torch.log(uniform)), atol=1e-3)
    assert abs(gumbel(normal).mean() - 0.5772) < 0.1 and np.isfinite(gumbel(np.float32([-40, 40]))).all()


def test_a_call_answers_its_own_moment_and_observed_steps_count_as_followed(exported):
    policy, alone = (PlannerPolicy(exported["written"][1]) for _ in range(2))  # a plan every 3 steps
    seen = [one for one, _ in walk(8)]
    policy.reset(3)
    alone.reset(3)
    call = policy.prepare(seen[0])
    policy.observe(seen[1])  # while it runs
    policy.rewarded(0.1)
    np.testing.assert_array_equal(call()[0], alone.select_action(seen[0]))
    alone.select_action(seen[1])
    np.testing.assert_array_equal(policy.select_action(seen[2]), alone.select_action(seen[2]))
    policy._running = True
    for use in (policy.reset, policy.warm_up, lambda: policy.prepare(seen[0])):
        with pytest.raises(BusyError, match="wait for its answer"):
            use()
    policy._running = False
    policy.warm_up(2)
    before = policy.plan
    policy.select_action(seen[3])
    assert not np.array_equal(policy.plan, before)  # due, at the fourth step


def test_bad_observations_are_named_and_nothing_moves(exported):
    policy = PlannerPolicy(exported["noise"][1])
    zeros = {"state": np.zeros(S, np.float32)}
    for use in (lambda: policy.step(zeros), lambda: policy.rewarded(1.0)):
        with pytest.raises(NotResetError, match="call reset"):
            use()
    policy.reset(0)
    for bad, told in (
        ({}, "'state' is missing"),
        ({"state": np.zeros(4, np.float32)}, r"\(4,\).*wanted \(3,\)"),
        ({"state": np.full(S, np.nan, np.float32)}, "finite: False"),
        ({"state": np.full(S, None)}, "is object, wanted float32"),
    ):
        with pytest.raises(InputError, match=told):
            policy.select_action(bad)
    wanted = PlannerPolicy(exported["noise"][1])
    wanted.reset(0)
    np.testing.assert_array_equal(policy.select_action(zeros), wanted.select_action(zeros))


def test_an_action_outside_the_limits_is_not_returned_and_the_noise_is_as_before(exported):
    policy = PlannerPolicy(exported["noise"][1])
    policy.reset(0)
    low, zeros = policy._low.copy(), {"state": np.zeros(S, np.float32)}
    policy._low[:] = 5.0
    with pytest.raises(ActionError, match=r"outside \[5, .*not sent"):
        policy.step(zeros)
    assert policy.plan is None
    policy._low = low
    wanted = PlannerPolicy(exported["noise"][1])
    wanted.reset(0)
    np.testing.assert_array_equal(policy.step(zeros), wanted.step(zeros))


def test_a_far_state_is_cut_as_in_pytorch_and_actions_stay_in_range(exported):
    planner, path = exported["one"]
    far = [({"state": np.float32([1e6, -1e6, 50])}, 0.0)] * 4
    assert planner_parity(planner, path, [(0, far)]).worst < 1e-3
    policy = PlannerPolicy(path)
    policy.reset(0)
    action = policy.select_action(far[0][0])
    assert (action >= policy._low).all() and (action <= policy._high).all()
    with pytest.raises(InputError, match="beyond float32"):
        policy.select_action({"state": np.array([1e300, -1e300, 0.0])})


def test_manifests_that_lie_are_named(exported, tmp_path):
    source = exported["full"][1]
    for file in source.parent.iterdir():
        shutil.copy(file, tmp_path / file.name)
    path, text = tmp_path / "plan.onnx", (tmp_path / "plan.json").read_text()
    raw = json.loads(text)

    def changed(**keys):
        (tmp_path / "plan.json").write_text(json.dumps({**raw, **keys}))

    for keys, told in (
        (dict(schema="other/1"), "schema is 'other/1'"),
        (dict(gain=3), "unknown.*gain"),
        (dict(settings={**raw["settings"], "start": "nothing"}), "settings.start is 'nothing'"),
        (dict(settings={**raw["settings"], "execute": 99}), "settings.execute is 99, not 1 to 14"),
        (dict(settings={**raw["settings"], "candidates": 1}), "files has .*'value'.*these settings need"),
        (dict(settings={**raw["settings"], "candidates": 2}), "plan.onnx has the inputs .*its manifest wants"),
        (dict(settings={"start": "noise"}), "missing.*candidates"),
        (dict(mean=raw["mean"][:2]), "mean, spread of 2, 3: not 3"),
        (dict(chain={**raw["chain"], "levels": [0.3, 0.4, 0.0]}), "chain.levels do not fall"),
        (dict(target="most"), "target is 'most'"),
        (dict(rate_hz=0), "rate_hz is 0"),
        (dict(observations=2 * raw["observations"]), "2 observations"),
        (dict(files={**raw["files"], "act": "none.onnx"}), "none.onnx is missing"),
        (dict(sha256={**raw["sha256"], "generator": "0"}), r"plan\.generator\.onnx is not the file"),
    ):
        changed(**keys)
        with pytest.raises(ManifestError, match=told):
            PlannerPolicy(path)
    (tmp_path / "plan.json").write_text(text[: len(text) // 2])
    with pytest.raises(ManifestError, match="is not JSON"):
        PlannerPolicy(path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ManifestError, match="keep the manifest beside"):
        open_manifest(path)
    with pytest.raises(ManifestError, match="does not exist: write it with"):
        PlannerPolicy(tmp_path / "other.onnx")


def test_the_runtime_runs_in_a_process_without_torch_and_the_arms(exported):
    path = str(exported["softmax"][1])
    code = f"""
import sys
BLOCKED = {{"torch", "control", "common", "perception", "mmengine", "onnx"}}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np
from deploy.runtime.exported import open_policy
policy = open_policy({path!r})
policy.warm_up(2)
policy.reset(3)
for k in range(5):
    action = policy.select_action({{"state": np.full({S}, 0.1 * k, np.float32)}})
    policy.rewarded(0.1)
print(action.tolist())
print(sorted(BLOCKED & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=".")
    assert done.returncode == 0, done.stderr
    policy = PlannerPolicy(path)
    policy.reset(3)
    for k in range(5):
        action = policy.select_action({"state": np.full(S, 0.1 * k, np.float32)})
    assert done.stdout.split("\n")[:2] == [str(action.tolist()), "[]"]


def test_the_control_loop_and_the_bench_run_it(exported, capsys):
    from deploy.bench_command import bench
    from deploy.policy_bench import measure, table

    planner, path = exported["written"]
    planner.reset([0])
    assert bench(str(path)) == "deploy.policy_bench"
    report = measure(path, steps=30, hz=100, against=planner)
    assert report["evaluations_per_action"] == pytest.approx(H / 3 + 1)
    assert report["onnx"]["n"] == report["torch"]["n"] == 30 and "PyTorch / ONNX" in table(report)
    assert report["loop"]["observation_gaps"] == 0


def test_inputs_are_drawn_from_the_levels_of_the_chain(exported):
    planner, path = exported["previous, not improved"]
    manifest = PlannerManifest.load(path)
    drawn = [drawn_inputs(planner.model, manifest, "optimiser", np.random.default_rng(k)) for k in range(30)]
    assert {float(one["t"]) for one in drawn} <= {float(np.float32(t)) for t in manifest.cold.levels}
    assert all(not one["z"].any() for one in drawn)  # DDIM
    with pytest.raises(ManifestError, match="with cold=None"):
        replace(manifest, cold=None)
