"""The warehouses' benchmark: its gates can fail, its records are kept by recipe, a tiny run reaches its report."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

NAMES = ("_agv", "_records", "agv_rnd", "agv_throughput")
_agv, _records, agv_rnd, agv_throughput = map(importlib.import_module, NAMES)


def curve(success: float, coverage: float = 0.9, first: int = 40_000, raw=(10.0, 3.0, 5.0, 1.0)) -> dict:
    """Of a training of four rollouts."""
    return {"steps": [1, 2, 3, 4], "success": [0.0, 0.0, 0.0, success], "coverage": [0.1, 0.1, 0.1, coverage],
            "raw": list(raw), "first_goal": [-1, -1, first, first]}  # fmt: skip


def records(**changes) -> dict:
    """All studies as the plan expects them: with a bonus 90 %, without 0 %; changes: (study__variant) -> successes."""
    found = {}
    for name, study in agv_rnd.STUDIES.items():
        curves, tests = {}, []
        conditions = agv_rnd.CONDITIONS if study.layout == "Random" else ("",)
        for variant in study.variants:
            good = 0.9 if variant.startswith("RND") or variant == "distilled planner" else 0.0
            wins = changes.get(f"{name}/{variant}", [good] * len(study.seeds))
            curves[variant] = [curve(win, 0.9 if good else 0.4, 40_000 if win else -1) for win in wins]
            for condition in conditions:
                tests += [{"name": variant, "condition": condition, "seed": seed, "episodes": episodes(win)}
                          for seed, win in zip(study.seeds, wins, strict=True)]  # fmt: skip
        drivers = agv_rnd.REFERENCES if name == "random" else study.drivers
        tests += [{"name": driver, "condition": condition, "seed": 0, "episodes": episodes(1.0)}
                  for driver in drivers for condition in conditions]  # fmt: skip
        found[name] = {"curves": curves, "tests": tests}
    return found


def episodes(success: float, count: int = 10) -> dict:
    won = [float(i < round(success * count)) for i in range(count)]
    return {"is_success": won, "is_collision": [1 - one for one in won], "spl": [0.9 * one for one in won]}


def test_all_gates_hold_where_the_runs_are_as_planned():
    text = _agv.gates(records())
    assert text.count("| yes |") == 12 and "| no |" not in text


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"simple/RND": [0.9, 0.9, 0.9, 0.5, 0.5]}, "G1a"),
        ({"simple/PPO": [0.0, 0.0, 0.9, 0.9, 0.9]}, "G1b"),
        ({"complex10/RND": [0.9, 0.9, 0.5, 0.5, 0.5]}, "G2a"),
        ({"complex10/PPO": [0.0, 0.0, 0.0, 0.9, 0.9]}, "G2b"),
        ({"simple_dynamic/RND": [0.9, 0.9, 0.6, 0.6, 0.6]}, "G3a"),
        ({"simple_dynamic/full observation": [1.0] * 5}, "G3b"),
        ({"simple_twin/paper's sum": [0.95] * 5}, "G4"),
        ({"simple_twin/raw pose": [0.95] * 5}, "G4"),
        ({"complex/RND": [0.9, 0.9, 0.9, 0.1, 0.1], "complex/RND, c_E = 10": [0.0] * 5}, "Complex"),
    ],
)
def test_each_gate_fails_alone_where_its_runs_do(change, gate):
    failed = [line for line in _agv.gates(records(**change)).splitlines() if line.endswith("| no |")]
    assert len(failed) == 1 and failed[0].startswith(f"| {gate}")


def test_the_bonus_gate_wants_a_fall_and_a_rise():
    assert _agv.bonus_fall(curve(1.0, raw=(10, 3, 5, 1))) == (10.0, 1)
    found = records()
    for raw in ((10.0, 3.0, 2.0, 1.0), (10.0, 3.0, 5.0, 4.0)):
        found["simple"]["curves"]["RND"] = [curve(0.9, raw=raw)] * 5
        assert _agv.gates(found).count("| no |") == 1


def test_coverage_is_compared_seed_by_seed():
    found = records()
    for one in found["simple"]["curves"]["PPO"]:
        one["coverage"][-1] = 0.8
    failed = [line for line in _agv.gates(found).splitlines() if line.endswith("| no |")]
    assert len(failed) == 1 and "+0.10 [+0.10, +0.10]" in failed[0]


def test_tables_show_every_variant_driver_and_condition():
    found = records()
    text = _agv.result_table(found["simple_dynamic"], agv_rnd.STUDIES["simple_dynamic"])
    assert text.count("| 90 90 90 90 90 | 40 40 40 40 40 |") == 1 and "| dynamic window |" in text
    held_out = _agv.held_out_table(found, agv_rnd.CONDITIONS)
    assert held_out.count("pure pursuit, knows the map") == len(agv_rnd.CONDITIONS) and "+0.000" in held_out


def test_the_curves_are_drawn(tmp_path):
    path = _agv.plot(records(), agv_rnd.STUDIES, tmp_path / "curves.png")
    assert Image.open(path).size[0] > 1500 and np.asarray(Image.open(path).convert("L")).std() > 10


def test_a_record_of_another_recipe_is_measured_anew(tmp_path, capsys):
    args = agv_rnd.parser().parse_args(["--results", str(tmp_path)])
    path = tmp_path / "agv_rnd" / "simple.json"
    recipe = agv_rnd.recipe("simple", args)
    _records.keep(path, {"recipe": recipe, "tests": []})
    assert _records.load(path, agv_rnd.recipe("simple", args))["tests"] == []
    args.episodes = 7
    assert _records.load(path, agv_rnd.recipe("simple", args)) is None
    assert "made with other episodes" in capsys.readouterr().out


def test_every_option_of_a_study_is_one_that_its_config_takes(tmp_path):
    from common.engine.config import load_config, parse_options
    from control.rl.rnd.runner import build

    args = agv_rnd.parser().parse_args(["--work-dir", str(tmp_path), "--most-seeds", "1", "--results", str(tmp_path)])
    for name in agv_rnd.STUDIES:
        for job in agv_rnd.jobs_of(name, args).values():
            words = job.command()
            config = load_config(ROOT / job.config, parse_options(words[words.index("--cfg-options") + 1 :]))
            config.environment.update(count=2, backend="kinematic")
            config.algorithm.update(n_steps=128, batch_size=64)
            assert config.total_steps == job.iterations and job.iterations % agv_rnd.ROLLOUT == 0
            build(config, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_tiny_run_reaches_its_report_and_a_second_one_measures_nothing(tmp_path, capsys):
    given = ["--scale", "0.005", "--most-seeds", "2", "--episodes", "3", "--held-out", "4"]
    given += ["--work-dir", str(tmp_path / "work"), "--results", str(tmp_path)]
    assert agv_rnd.main([*given, "--studies", "simple"]) == 0
    shown = capsys.readouterr().out
    assert "no report yet: simple_twin" in shown and "Simple, MuJoCo (G1)" in shown
    assert agv_rnd.main(given) == 0
    text = (tmp_path / "agv_rnd.md").read_text()
    assert "G5. Simple" in text and "Unseen warehouses" in text and (tmp_path / "agv_rnd.png").is_file()
    before = (tmp_path / "agv_rnd" / "simple.json").stat().st_mtime_ns
    assert agv_rnd.main(given) == 0
    assert (tmp_path / "agv_rnd" / "simple.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_throughput_report_has_a_line_for_every_contender(tmp_path):
    pytest.importorskip("gymnasium_robotics")
    assert agv_throughput.main(["--rounds", "1", "--seconds", "0.1", "--results", str(tmp_path)]) == 0
    text = (tmp_path / "agv_throughput.md").read_text()
    assert text.count("| 1 x ") == 7 and text.count("| training, ") == 6 and "Simple, MuJoCo / PointMaze" in text
