"""The benchmarks of policies: tables from finished trainings, and a whole tiny run (slow) that is resumed."""

import gc
import importlib
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.engine.config import load_config, parse_options
from common.engine.experiments import Job
from common.statistics import wilson
from control.demonstrations.store import read_minari
from control.policies.evaluation import actor
from control.policies.model import build
from control.timing import observed_states, step_times, undisturbed_worst
from control.trainings import cost, demonstrations

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
metaworld, pusht, delay, ladders, shared = map(
    importlib.import_module, ("metaworld_streaming", "pusht_state", "delay", "ladders", "_policies")
)


def finished(folder, config, seed, plans, first=100_000):
    """A training as it lies there when its evaluation is over; plans: name -> rows of (success, info)."""
    job = Job(f"{config}/{seed}", "c.py", folder / config / str(seed), 5, {}, seed)
    records = {
        name: [
            {"seed": first + i, "success": bool(success), "score": float(success), "steps": 9, "info": info}
            for i, (success, info) in enumerate(rows)
        ]
        for name, rows in plans.items()
    }
    (job.work_dir / "evaluation").mkdir(parents=True)
    (job.work_dir / "evaluation" / "episodes.json").write_text(json.dumps(records))
    return job


def route(side=0, switches=0, collision=False):
    return side != 0 and not collision, {"side": side, "switches": switches, "collision": collision}


def test_scores_follow_the_layouts_and_evaluations_of_other_layouts_are_not_paired(tmp_path):
    job = finished(tmp_path, "a", 0, {"P": [(1, {}), (0, {}), (1, {})]})
    path = job.work_dir / "evaluation" / "episodes.json"
    path.write_text(json.dumps({"P": json.loads(path.read_text())["P"][::-1]}))
    assert shared.scores([job], "P").tolist() == [[1, 0, 1]]
    other = finished(tmp_path, "b", 1, {"P": [(1, {})] * 3}, first=100_001)
    with pytest.raises(ValueError, match=r"a/0, b/1: the evaluations have different layouts"):
        shared.scores([job, other], "P")


@pytest.mark.parametrize("family, rows", [("metaworld", metaworld.ROWS), ("pusht", pusht.ROWS)])
def test_every_row_has_its_config_and_its_plan_before_anything_is_trained(family, rows):
    found = {}
    for row, (config, plan) in rows.items():
        cfg = load_config(f"configs/control/sdp/{config}_{family}_state.py")
        model = build(cfg.model)
        model.check = lambda: None  # untrained
        found[row] = cost(actor(model, cfg.val_cfg.plans[plan]))
    calls = {row: evaluations for row, (evaluations, _) in found.items()}
    assert calls["Diffusion Policy, DDPM-100"] == 100 and calls["Diffusion Policy, DDIM-10"] == 10
    assert calls["Streaming Diffusion Policy, as published"] == 50
    ours = next(row for row in rows if row.startswith("ours"))
    assert calls[ours] == 1


def two_routes(tmp_path):
    """Two trainings of every row: Diffusion Policy bounces into the obstacle once in four, ours never."""
    bouncing = [route(1), route(-1), route(1), route(collision=True, switches=2)]
    steady = [route(1), route(-1), route(-1), route(1)]
    jobs = {}
    plans = {
        "streaming": {"DDPM100": bouncing, "DDIM10": bouncing, "DDIM10x1": bouncing, "streaming": steady},
        "sdp": {"SDP": steady},
        "cloning": {"BC": [route(collision=True)] * 4},
        "iid": {"streaming": bouncing},
    }
    for config in metaworld.CONFIGS:
        jobs[metaworld.ROUTES, config] = [finished(tmp_path, config, seed, plans[config]) for seed in (0, 1)]
    return jobs


def cells(text, row):
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip().split(" ")[0] for cell in line.split("|")[2:-1]]


def test_the_table_of_routes_counts_sides_switches_and_collisions(tmp_path):
    text = metaworld.routes(two_routes(tmp_path))
    # success, left and right of all rollouts, changed sides, met the obstacle, both
    assert cells(text, metaworld.REFERENCE) == ["0.75", "0.25", "0.50", "0.25", "0.25", "0.25"]
    assert cells(text, metaworld.OURS) == ["1.00", "0.50", "0.50", "0.00", "0.00", "0.00"]
    assert cells(text, "behaviour cloning, MLP") == ["0.00", "0.00", "0.00", "0.00", "1.00", "0.00"]
    assert "ours - Diffusion Policy (DDPM-100), paired as above: -0.250" in text


def test_differences_are_ours_minus_the_others_and_pair_the_layouts(tmp_path):
    text = metaworld.differences(two_routes(tmp_path), (metaworld.ROUTES,))
    assert cells(text, f"ours - {metaworld.REFERENCE}")[0] == "+0.250"
    assert cells(text, "ours - behaviour cloning, MLP") == ["+1.000", "+1.000"]
    assert not any(line.startswith(f"| ours - {metaworld.OURS}") for line in text.splitlines())


def test_intervals_know_that_episodes_of_one_layout_or_training_are_alike():
    layouts = np.tile(np.arange(50) < 25, (3, 1))  # half of the layouts always solved, by every training
    trainings = np.repeat([[1], [1], [0]], 50, 1)  # a training that failed
    low, high = wilson(75, 150)
    for found in (layouts, trainings):
        mine = shared.interval(found)
        assert mine[1] - mine[0] > 1.5 * (high - low) and mine[0] < found.mean() < mine[1]
    assert shared.interval(np.ones((3, 50))) == wilson(150, 150)


def test_the_mixtures_price_is_told_on_the_tasks_that_have_both_networks(tmp_path):
    task = metaworld.ALONE_ON[0]
    rows = {"DDPM100": [(1, {}), (0, {})], "DDIM10": [(1, {}), (1, {})]}
    jobs = {
        (task, config): [finished(tmp_path, config, seed, plans) for seed in (0, 1)]
        for config, plans in (("dp", rows), ("streaming", {name: [(0, {}), (0, {})] for name in rows}))
    }
    text = metaworld.alone(jobs)
    assert cells(text, "push-v3: DDPM-100, trained on equal levels alone") == ["0.50", "0.00", "-0.500"]
    assert cells(text, "push-v3: DDIM-10, trained on equal levels alone") == ["1.00", "0.00", "-1.000"]


def test_networks_of_equal_levels_are_trained_on_their_tasks_and_the_unread_plan_is_left_out(tmp_path):
    tasks = ["TwoRoutes-v0", "MetaWorld-reach-moving-v0"]
    for task in tasks:
        (tmp_path / "demonstrations" / f"{task}-3").mkdir(parents=True)
    jobs = metaworld.trainings(tmp_path, tasks, [0], 200, 3, 2)
    assert {task for task, config in jobs if config == "dp"} == {"MetaWorld-reach-moving-v0"}
    command = jobs["TwoRoutes-v0", "streaming"][0].command()
    cfg = load_config(
        "configs/control/sdp/streaming_metaworld_state.py", parse_options(command[command.index("--cfg-options") + 1 :])
    )
    assert cfg.val_cfg.plans.SDP is None and cfg.val_cfg.plans.streaming
    assert metaworld.trainings(tmp_path, tasks, [0], 200, 3, 2, ("streaming",)).keys() == {
        (t, "streaming") for t in tasks
    }


def test_demonstrations_of_another_number_are_collected_and_not_taken_for_these(tmp_path):
    folders = [demonstrations(tmp_path, "TwoRoutes-v0", count) for count in (1, 2, 1)]
    assert [len(read_minari(folder)) for folder in folders] == [1, 2, 1] and folders[0] == folders[2] != folders[1]


class Chunky:
    """Takes 4 ms in every fourth step, and once 30 ms for no reason of its own."""

    def reset(self, seeds):
        self.step, self.resets = 0, getattr(self, "resets", 0) + 1

    def select_action(self, observation):
        assert observation["state"].shape == (1, 10) and not gc.isenabled()
        time.sleep(0.03 if (self.resets, self.step) == (3, 5) else 0.004 if self.step % 4 == 0 else 0)
        self.step += 1


def test_the_slowest_step_is_found_and_told_apart_from_a_disturbance():
    times = step_times({"a": Chunky(), "b": Chunky()}, "TwoRoutes-v0", 12, warm_up=2)
    assert gc.isenabled() and set(times) == {"a", "b"}
    for found in times.values():
        assert found.shape == (3, 12) and found.max() >= 30  # the third reset is the second repeat
        assert 4 <= undisturbed_worst(found) < 30
        assert (found.min(0)[::4] >= 4).all()


def test_observations_of_the_timing_wander_and_go_on_after_an_episode():
    states = np.stack(observed_states("TwoRoutes-v0", 150))
    assert states.shape == (150, 10) and len(np.unique(states, axis=0)) > 110


def test_a_plan_behind_a_clean_prefix_is_told_that_the_robot_stands_still_until_its_first_answer():
    cfg = load_config("configs/control/sdp/streaming_metaworld_state.py",
                      {"model.action_dim": 2, "model.encoders.state.width": 10})  # fmt: skip
    model = build(cfg.model)
    model.encoder.encoders["state"].fit(torch.stack([-torch.ones(10), torch.ones(10)]))
    model.actions.fit(torch.tensor([[-1.0, -0.2], [1.0, 1.0]]))  # standing still is not the middle of the range
    way = delay.delayed_actor(model, "TwoRoutes-v0", delay.OURS, 3)
    way.reset([0, 1])
    seen = {"state": np.zeros((2, 10), np.float32)}
    assert not np.stack([way.select_action(seen) for _ in range(3)]).any()
    way.reset([0, 1])
    buffers = []
    model.denoiser.net.register_forward_pre_hook(lambda module, inputs: buffers.append(inputs[0].clone()))
    way.select_action(seen)
    told = model.actions.inverse(buffers[0][:, :3])
    torch.testing.assert_close(told, torch.zeros(2, 3, 2), rtol=0, atol=1e-6)


def test_a_cell_is_measured_again_exactly_when_something_that_decides_it_changed(tmp_path, monkeypatch):
    job = Job("a/0", "c.py", tmp_path / "a", 5)
    job.work_dir.mkdir()
    job.checkpoint.write_bytes(b"weights")
    calls = []

    def played(policy, task, seeds, parallel):
        calls.append(policy)
        return [SimpleNamespace(success=len(calls) % 2) for _ in seeds]

    monkeypatch.setattr(delay, "trained", lambda job: (None, SimpleNamespace(horizon=16)))
    monkeypatch.setattr(delay, "delayed_actor", lambda model, task, way, late: (way, late))
    monkeypatch.setattr(shared, "rollout", played)
    names = list(delay.WAYS)

    def successes(way=names[0], late=1, layouts=3, task="TwoRoutes-v0"):
        return delay.measured(job, task, way, late, layouts)[3]

    first = successes()
    assert successes(names[1]) != first and len(calls) == 2
    monkeypatch.setattr(delay, "WAYS", dict(reversed(delay.WAYS.items())))
    assert successes() == first and successes(names[1]) != first and len(calls) == 2  # another order
    monkeypatch.setattr(delay, "WAYS", {**delay.WAYS, names[0]: lambda d, T: (delay.chunk_plan(T, 8 + d, 5), 8, d)})
    assert successes() == first and len(calls) == 3, "another number of evaluations"
    monkeypatch.setattr(delay, "WAYS", {**delay.WAYS, names[0]: lambda d, T: (delay.chunk_plan(T, 8 + d, 5), 8, 0)})
    for change in ({}, {"late": 2}, {"layouts": 4}, {"task": "MetaWorld-reach-v3"}):
        before = len(calls)
        assert successes(**change) == successes(**change) and len(calls) == before + 1, change
    job.checkpoint.write_bytes(b"other weights")
    successes()
    assert len(calls) == 8


def test_actions_per_call_are_compared_on_the_same_networks_and_layouts(tmp_path, monkeypatch):
    """A ladder of n actions that succeeds on the layouts below 3 n, whatever the network."""
    jobs = [Job(f"a/{seed}", "c.py", tmp_path / str(seed), 5, seed=seed) for seed in (0, 1)]
    for job in jobs:
        job.work_dir.mkdir()
        job.checkpoint.write_bytes(b"weights")
    monkeypatch.setattr(ladders, "trained", lambda job: (None, SimpleNamespace(horizon=16)))
    monkeypatch.setattr(ladders, "DiffusionPolicy", lambda model, plan: plan)
    monkeypatch.setattr(
        shared, "rollout",
        lambda plan, task, seeds, parallel: [SimpleNamespace(success=s - seeds[0] < 3 * plan.execute) for s in seeds],
    )  # fmt: skip
    monkeypatch.setattr(ladders, "in_parallel", lambda function, cells, *_: [function(*cell) for cell in cells])
    found = ladders.sweep({"TwoRoutes-v0": jobs}, 24, 1)
    assert {n: rows.mean() for (_, n), rows in found.items()} == {1: 3 / 24, 2: 6 / 24, 4: 12 / 24, 8: 1.0}
    assert found["TwoRoutes-v0", 1].shape == (2, 24)
    assert "| 8 - 1 | +0.875 [" in ladders.report(found, ["TwoRoutes-v0"])


@pytest.mark.slow
def test_a_tiny_run_writes_every_row_and_a_second_one_trains_nothing(tmp_path):
    options = {"--tasks": ["TwoRoutes-v0"], "--seeds": ["0", "1"], "--demonstrations": ["3"], "--iterations": ["101"],
               "--layouts": ["2"], "--results": [str(tmp_path)], "--work-dir": [str(tmp_path / "work")],
               "--cfg-options": ["batch_size=4"]}  # fmt: skip
    options = [word for key, values in options.items() for word in (key, *values)]
    assert metaworld.main([*options, "--steps", "20"]) == 0
    text = (tmp_path / "metaworld_streaming.md").read_text()
    for row in metaworld.ROWS:
        assert sum(line.startswith(f"| {row} |") for line in text.splitlines()) == 2  # routes and latency
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.pth")}
    assert delay.main(options) == 0 and metaworld.main([*options, "--steps", "20"]) == 0
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.pth")}
    assert (tmp_path / "delay_TwoRoutes-v0.png").stat().st_size > 5000
    assert f"| {delay.OURS} |" in (tmp_path / "delay.md").read_text()
    assert ladders.main(options) == 0
    rows = [line.split("|")[1].strip() for line in (tmp_path / "ladders.md").read_text().splitlines() if "| " in line]
    assert [row for row in rows if row.isdigit()] == ["1", "2", "4", "8"]
