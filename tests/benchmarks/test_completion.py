"""The completion benchmark: its gates, which can fail, and a whole tiny run (slow) that is resumed."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
simulated, shared = map(importlib.import_module, ("completion_simulated", "_completion"))

GOOD = {  # CD of every row where all gates hold
    "scan, copied": 0.50, "scan, copied, and noise": 0.60, "one pass": 0.25,
    "teacher, local, 20 steps": 0.33, "teacher, local, 4 steps": 0.34, "teacher, local, 1 step": 0.42,
    "teacher, vp_offset, 8 steps": 0.35, "teacher, vp_offset, 2 steps": 0.60, "teacher, vp_offset, 1 step": 1.10,
    "vsd, 1 step": 0.37, "vsd, 4 steps": 0.32, "anchored, 1 step": 0.35, "anchored, 4 steps": 0.31,
    "anchored, random preference, 1 step": 0.37, "first release's sign, 1 step": 0.60, "paper's sign, 1 step": 0.45,
    "contrast by regions, 1 step": 0.34,
}  # fmt: skip


def measured(distances, trainings=3, scenes=40):
    """What `measured` keeps: every row has its own distance and the scenes' common spread."""
    found = {}
    for i, (name, cd) in enumerate(distances.items()):
        random = np.random.default_rng(i)
        common = np.random.default_rng(99).normal(0, 0.03, scenes)
        found[name] = []
        for _ in range(trainings):
            values = cd + common + random.normal(0, 0.002, scenes)
            rows = {str(s): {"cd": v, "cd_to_truth": v, "cd_to_prediction": v} for s, v in enumerate(values)}
            found[name].append({"scenes": rows})
    return found


def verdicts(distances, identical=(True, True, True)):
    text = shared.gates(measured(distances), 2.0, identical)
    rows = [line.split("|")[1:4] for line in text.splitlines()[2:]]
    return {gate.split()[0]: holds.strip() for gate, _, holds in rows}


def test_all_gates_hold_where_they_should():
    found = verdicts(GOOD)
    assert {key: value for key, value in found.items() if key != "for"} == dict.fromkeys(
        ("1a.", "1b.", "2a.", "2b.", "3a.", "3b.", "3c.", "4a.", "4b.", "5.", "6a.", "6b.", "6c."), "yes"
    )


@pytest.mark.parametrize(
    ("gate", "changed"),
    [
        ("1a.", {"teacher, local, 20 steps": 0.40}),
        ("1b.", {"scan, copied": 0.40}),
        ("2a.", {"teacher, vp_offset, 1 step": 0.50}),
        ("2b.", {"teacher, local, 1 step": 1.2}),
        ("3a.", {"teacher, vp_offset, 1 step": 0.5}),
        ("3b.", {"teacher, local, 1 step": 0.38}),
        ("3c.", {"teacher, local, 4 steps": 0.33}),
        ("4a.", {"anchored, 1 step": 0.368}),
        ("4b.", {"anchored, 4 steps": 0.33}),
        ("5.", {"anchored, 4 steps": 0.36}),
        ("6a.", {"anchored, random preference, 1 step": 0.35}),
        ("6b.", {"first release's sign, 1 step": 0.36}),
    ],
)
def test_every_gate_fails_where_its_ordering_does(gate, changed):
    assert verdicts({**GOOD, **changed})[gate] == "no"


def test_a_student_that_the_released_loss_moved_is_told():
    assert verdicts(GOOD, identical=[True, False, True])["6c."] == "no"
    assert verdicts(GOOD, identical=[None, True, None])["6c."] == "yes"
    assert verdicts(GOOD, identical=[None])["6c."] == "no"  # nobody asked


def test_rows_are_named_once_and_every_student_is_run_at_its_own_steps():
    rows = simulated.rows(2.0)
    assert len({row.name for row in rows}) == len(rows)
    by_name = {row.name: row for row in rows}
    assert by_name["teacher, local, 20 steps"].evaluations == 40
    assert by_name["anchored, 4 steps"].evaluations == 4
    assert set(GOOD) <= set(by_name)


def leave_record(folder, seed: int) -> None:
    """What a finished seed leaves, with invented distances."""
    args = simulated.parser().parse_args(["--results", str(folder)])
    means = dict.fromkeys([*shared.COLUMNS.values(), "seconds"], 0.5)
    scenes = {str(i): dict.fromkeys(("cd", "cd_to_truth", "cd_to_prediction"), 0.5 + i) for i in range(4)}
    record = {
        "recipe": simulated.recipe(args), "guidance": 2.0, "choice": "chosen before", "device": "a processor",
        "trainings": f"trained {seed}.", "released_identical": True,
        "rows": {row.name: {"means": means, "scenes": scenes} for row in simulated.rows(2.0)},
    }  # fmt: skip
    path = simulated.record_path(args, seed)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))


def test_seeds_measured_one_by_one_make_one_report_once_all_are_there(tmp_path, capsys):
    leave_record(tmp_path, 0)
    leave_record(tmp_path, 1)
    assert simulated.main(["--seeds", "0", "--results", str(tmp_path)]) == 0
    assert "seeds 2 are not measured" in capsys.readouterr().out and not list(tmp_path.glob("*.md"))
    leave_record(tmp_path, 2)
    assert simulated.main(["--results", str(tmp_path)]) == 0
    text = (tmp_path / "completion_simulated.md").read_text()
    assert "chosen before" in text and all(f"Seed {seed}: trained {seed}." in text for seed in range(3))
    assert all(text.count(f"| {row.name} |") == 1 for row in simulated.rows(2.0))


def test_a_record_of_another_recipe_is_measured_anew(tmp_path, capsys):
    leave_record(tmp_path, 0)
    args = simulated.parser().parse_args(["--results", str(tmp_path), "--updates", "9"])
    assert simulated.load_record(args, 0) is None
    assert "made with other updates" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_tiny_run_reaches_its_report_and_a_second_one_trains_nothing(tmp_path, capsys):
    options = ["--profile", "ci", "--all-seeds", "0", "--teacher", "101", "--one-pass", "101", "--updates", "26",
               "--scenes", "3", "--work-dir", str(tmp_path / "work"), "--results", str(tmp_path)]  # fmt: skip
    assert simulated.main(options) == 0
    text = (tmp_path / "completion_simulated.md").read_text()
    for row in simulated.rows(2.0):
        assert text.count(f"| {row.name} |") == 1
    assert "| 6c. the released loss leaves the student bit-identical | after 20 updates | yes |" in text
    checkpoints = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("iter_*.pth")}
    assert len(checkpoints) >= 2 + len(simulated.STUDENTS)
    assert simulated.main(options) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("iter_*.pth")} == checkpoints
