"""The planners' benchmark: claims that can fail, tables, and (slow) a tiny run that reaches its report and keeps it."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.engine.config import load_config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
bench, tables = map(importlib.import_module, ("trajectory_diffuser", "_planner_tables"))
MAZE = "Maze2D-UMaze-v0"
GOOD = {  # title: (mean return, residual, evaluations, ms)
    "plans as written": (100, 0.2, 15, 10.0),
    "improved, level by the rule": (110, 0.15, 20, 15.0),
    "improved": (200, 0.1, 25, 20.0),
    "improved, best of 8": (210, 0.1, 25, 30.0),
    "from noise, 20": (150, 0.5, 20, 30.0),
    "from noise, 100": (205, 0.1, 100, 150.0),
    "student, 1 evaluation": (200, 0.12, 16, 11.0),
    "Diffuser": (180, 0.3, 60, 400.0),
    "cloning": (50, None, None, 0.2),
    "level: 5: as written": (150, 0.1, 20, 15.0),
    "level: 5: noised to it": (140, 0.1, 20, 15.0),
    "level: 50: noised to it": (140, 0.2, 60, 15.0),
}


def record(**changes) -> dict:
    """Of a training; changes: a title's numbers. Starts are worth different sums, the same for every way."""
    ways, starts = {}, 10.0 * np.arange(8)
    for title, (mean, residual, calls, ms) in {**GOOD, **changes}.items():
        one = {"returns": (mean + starts).tolist(), "ms": ms, "ms_step": ms / 4}
        if residual is not None:
            one |= {"residual": residual, "walls": residual, "roughness": 0.1, "ends": 0.5, "calls": {"all": calls}}
        ways[title] = one
    return {"ways": ways, "data": {"walls": 0.0, "residual": 0.05, "roughness": 0.1, "ends": 0.1}}


def holds(**changes) -> dict[str, bool]:
    lines = tables.claims([record(**changes)] * 3, MAZE).splitlines()[2:]
    return {line.split("|")[1].strip()[:25]: line.split("|")[3].strip() == "yes" for line in lines}


def test_every_claim_holds_where_the_runs_are_as_planned():
    found = holds()
    assert len(found) == 8 and all(found.values())


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"plans as written": (200, 0.2, 15, 10.0), "improved, level by the rule": (200, 0.1, 20, 15.0)}, "improving"),
        ({"improved, level by the rule": (90, 0.15, 20, 15.0)}, "the level by the rule"),
        ({"from noise, 20": (150, 0.05, 20, 30.0)}, "more feasible"),
        ({"from noise, 20": (205, 0.5, 20, 30.0)}, "3 times as quick"),
        ({"improved, best of 8": (170, 0.1, 25, 30.0)}, "best of 8: per step"),
        ({"Diffuser": (180, 0.3, 60, 250.0)}, "best of 8: per step"),
        ({"Diffuser": (205, 0.3, 60, 400.0)}, "a decision 10 times"),
        ({"improved": (200, 0.1, 25, 45.0)}, "a decision 10 times"),
        ({"student, 1 evaluation": (200, 0.12, 16, 30.0)}, "the student"),
        ({"level: 50: noised to it": (140, 0.05, 60, 15.0)}, "noised to its level"),
        ({"level: 5: noised to it": (140, 0.3, 60, 15.0)}, "noised to its level"),
        ({"student, 1 evaluation": (190, 0.12, 16, 11.0)}, "the student"),
    ],
)
def test_each_claim_fails_alone_where_its_runs_do(change, claim):
    failed = [text for text, held in holds(**change).items() if not held]
    assert len(failed) == 1 and failed[0].startswith(claim)


def test_the_best_from_noise_is_named_where_none_is_as_good():
    worse = {"from noise, 100": (120, 0.1, 100, 150.0)}
    assert holds(**worse)["better than any from nois"]


def test_tables_and_picture(tmp_path):
    records = [record()] * 3
    text = tables.result_table(records, MAZE)
    assert "level: 5" not in text and "| the data's own windows |" in text and text.count("\n| ") == 2 + 9 + 1
    assert "| 5, noised to it |" in tables.ablations(records, MAZE)
    both = {"umaze": (MAZE, records), "hopper": ("Hopper-v5", records)}
    assert Image.open(tables.plot(both, tmp_path / "a.png")).size[0] > 600


def test_an_ablation_says_what_its_ways_gain_over_the_plans_written_at_the_same_value():
    of = {f"target: {share}: {way}": (mean, 0.1, 20, 15.0) for share, way, mean in (
        ("half", "plans as written", 40), ("half", "improved", 70), ("whole", "plans as written", 90),
        ("whole", "improved", 80))}  # fmt: skip
    lines = [[cell.strip() for cell in line.split("|")[1:-1]]
             for line in tables.ablations([record(**of)] * 3, MAZE).splitlines() if line.startswith("|")]  # fmt: skip
    heads = next(line for line in lines if line[0] == "target")
    found = {line[0]: line[2] for line in lines if line[0].startswith(("half", "whole"))}
    assert heads[2] == "less that of plans as written"
    assert found["half, plans as written"] == "" and found["half, improved"].startswith("+")
    assert found["whole, improved"].startswith("-")
    assert next(line for line in lines if line[0] == "level") == ["level", "score", *heads[3:]]


def test_trainings_of_different_data_are_told():
    other = record()
    other["data"]["roughness"] = 0.11
    assert "not all of the same data" in tables.result_table([record(), other], MAZE)
    assert "not all of the same data" not in tables.result_table([record(), record()], MAZE)


def test_every_way_has_a_training_and_every_ablation_a_group(tmp_path):
    args = bench.parser().parse_args(["--work-dir", str(tmp_path), "--scale", "0.01"])
    args.options = {}
    for key in bench.TASKS:
        jobs = bench.jobs_of(key, 0, args)
        for job in jobs.values():
            assert load_config(job.config, job.options).model  # every option names a key that there is
        made = bench.ways(key, jobs)
        assert {"plans as written", "improved", "Diffuser", "student, 1 evaluation", "habit"} < set(made)
        assert all(
            plan.get("execute", 1) == 4
            for title, (_, plan) in made.items()
            if title not in ("cloning", "habit", "Diffuser")
        )
        assert sorted(made, key=bench.cost)[-1] == "Diffuser"
        more = bench.more_ways(jobs) if bench.TASKS[key].variants else {}
        assert all(title.count(": ") == 2 for title in more)
        assert len({str(job.work_dir) for job in jobs.values()}) == len(jobs)


def test_a_record_is_of_its_options_plans_and_data(tmp_path, monkeypatch):
    args = bench.parser().parse_args(["--work-dir", str(tmp_path)])
    args.options = {}
    before, folder = bench.recipe("medium", args), bench.data_of("medium", args)
    assert before == bench.recipe("medium", args)
    monkeypatch.setattr(bench, "VERSION", 99)
    other = bench.recipe("medium", args)
    assert other["version"] == 99 and other["trainings"] != before["trainings"]
    monkeypatch.undo()
    assert len({bench.data_of("medium", args, part) for part in ("whole", "small", "held out")}) == 3
    assert "1" == bench.collection("medium", args, "held out")[-1] != bench.collection("medium", args)[-1]
    args.scale, args.options = 0.5, {"batch_size": 32}
    assert bench.data_of("medium", args) != folder
    assert bench.recipe("medium", args)["trainings"] != before["trainings"]


def test_other_plans_train_nothing_anew_and_another_rate_does(tmp_path):
    args = bench.parser().parse_args(["--work-dir", str(tmp_path)])
    planner, found = bench.TASKS["umaze"].trainings["planner"], []
    for options in ({}, {"val_cfg.plans.refined10.level": 20}, {"optim_wrapper.optimizer.lr": 2e-3}):
        args.options = options
        found.append(bench.decided(planner, args))
    assert found[0] == found[1] != found[2]


def test_an_unknown_part_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--now", "umaze/7"])
    assert "umaze/7: choose of umaze/0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_tiny_run_leaves_a_record_and_a_second_one_trains_nothing(tmp_path, capsys):
    given = ["--now", "medium/1", "--tasks", "medium", "--scale", "0.01", "--starts", "2", "--work-dir",
             str(tmp_path / "work"), "--results", str(tmp_path), "--cfg-options", "param_scheduler.0.end=5",
             "param_scheduler.1.begin=5"]  # fmt: skip
    assert bench.main(given) == 0
    assert "no report yet: medium/0, medium/2" in capsys.readouterr().out
    kept = tmp_path / "trajectory_diffuser" / "medium_seed1.json"
    before = kept.stat().st_mtime_ns
    assert bench.main(given) == 0 and kept.stat().st_mtime_ns == before
