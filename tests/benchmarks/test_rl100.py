"""RL-100's benchmarks: gates that can fail, streaks, and (slow) a tiny run that reaches its report and keeps it."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
metaworld, latency = map(importlib.import_module, ("rl100_metaworld", "rl100_latency"))


def record(imitation: int, offline: int, online: int, head: int, layouts: int = 100) -> dict:
    """Of a training with so many successes of 100."""

    def won(count: int) -> list[int]:
        return [int(i < count) for i in range(layouts)]

    stages = {"imitation": {"mean": won(imitation)}, "improve/1": {"mean": won(offline)},
              "retrain/1": {"mean": won(offline)}, "online": {"mean": won(online), "one_step": won(head)}}  # fmt: skip
    curve = [{"steps": 1000, "success": 0.1}, {"steps": 2000, "success": online / 100}]
    log = [{"stage": "imitation", "seconds": 1.0}]
    return {"stages": stages, "steps": dict.fromkeys(stages, 5), "online": curve, "log": log, "unbroken": won(head)}


def holds(*counts, layouts: int = 100) -> list[str]:
    text = metaworld.gates("it", [record(*counts, layouts=layouts) for _ in range(3)])
    return [line.split("|")[3].strip() for line in text.splitlines()[2:] if "(no gate)" not in line]


def test_the_ordering_holds_where_every_stage_gains_and_fails_where_one_does_not():
    assert holds(30, 50, 80, 79) == ["yes", "yes", "yes", "no"]
    assert holds(50, 50, 80, 79) == ["no", "yes", "yes", "no"]
    assert holds(30, 80, 80, 79) == ["yes", "no", "yes", "no"]
    assert holds(30, 50, 80, 70) == ["yes", "yes", "no", "no"]
    assert holds(30, 50, 80, 77) == ["yes", "yes", "no", "no"]  # 0.03 below, but perhaps more than 0.05
    assert holds(90, 150, 253, 250, layouts=300) == ["yes"] * 4
    assert holds(90, 150, 252, 249, layouts=300) == ["yes", "yes", "yes", "no"]


def test_the_longest_row_of_successes_and_the_tables(tmp_path):
    assert metaworld.streak([1, 1, 0, 1, 1, 1, 0]) == 3 and metaworld.streak([]) == 0
    records = [record(30, 50, 80, 78)] * 3
    text = metaworld.stage_table(records, [])
    assert "| online, one_step | 0.78 [" in text and "| 0.80 0.80 0.80 | 5 | 80 |" in text
    assert "online alone" not in text
    assert "| online alone, mean | 0.60 [" in metaworld.stage_table(records, [record(30, 50, 60, 60)])
    assert "| imitation | 1 |" in metaworld.log_table(records)
    assert metaworld.whole(records[:1]) == "- 78 successes of the head in 100 layouts, the longest row 78"
    assert metaworld.whole([{"unbroken": []}]) == ""
    one, two = ({"dial-turn": records, **more} for more in ({}, {"dial-turn-online": records[:1]}))
    assert [len(metaworld.peers_of("dial-turn", found)) for found in (one, two)] == [0, 1]
    three = {"reach": records, "reach-online": records[:2], "reach-more": [record(20, 20, 0, 0)]}
    assert len(metaworld.peers_of("reach", three)) == 2 and metaworld.tried("dial-turn", two) == []
    (text,) = metaworld.tried("reach", three)
    assert "Tried as reach-more, pipeline.collect=300" in text and "| improve/1, mean | 0.20 [" in text
    assert Image.open(metaworld.plot(two, tmp_path / "a.png")).size[0] > 300


def test_a_report_of_what_is_there_measures_nothing_and_says_what_is_not(tmp_path, capsys):
    given = ["--now", "--tasks", "dial-turn", "--results", str(tmp_path), "--work-dir", str(tmp_path / "work")]
    args = metaworld.parser().parse_args(given)
    args.options = {}
    for seed in (0, 1, 2):
        assert metaworld.main(given) == 0
        assert "no report yet: dial-turn/" in capsys.readouterr().out
        found = {
            **record(30, 50, 80, 79),
            "recipe": metaworld.recipe("dial-turn", args),
            "device": "a",
            "trainings": "",
        }
        metaworld.keep(metaworld.path_of("dial-turn", seed, args), found)
    assert metaworld.main(given) == 0
    text = (tmp_path / "rl100_metaworld.md").read_text()
    assert "Not measured: dial-turn-online/0." in text and "| dial-turn: imitation < offline RL |" in text
    assert not (tmp_path / "work").exists()


def test_parts_are_named_and_records_are_of_their_layouts(tmp_path, capsys):
    with pytest.raises(SystemExit):
        metaworld.main(["--now", "dial-turn/7"])
    assert "dial-turn/7: choose of dial-turn/0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        metaworld.main(["--now", "dial-turn/0", "--cfg-options", "pipeline.rounds=1"])
    assert "would replace the records" in capsys.readouterr().err
    args = metaworld.parser().parse_args(["--results", str(tmp_path), "--work-dir", str(tmp_path)])
    args.options = {}
    recipes = {
        name: metaworld.recipe(name, args) for name in ("push", "push-points", "reach", "reach-online", "reach-more")
    }
    assert [one["layouts"] for one in recipes.values()] == [300, 100, 300, 300, 300]
    assert [one["unbroken"] for one in recipes.values()] == [1000, 0, 1000, 0, 0]
    assert metaworld.job_of("reach-more", 0, args).iterations == 2 + 3 * 4 + 2  # no online stage
    assert metaworld.job_of("push", 0, args).iterations == 2 + 2 * 4 + 3 + 120
    jobs = [metaworld.job_of(name, 0, args) for name in ("dial-turn", "dial-turn-online")]
    assert [job.options.get("pipeline.rounds") for job in jobs] == [None, 0] and jobs[0].iterations > jobs[1].iterations
    folder = tmp_path / "run" / "20260101_000000" / "vis_data"
    folder.mkdir(parents=True)
    rows = [{"step": 1, "iter": 1, "seconds": 2.5}, {"step": 1, "after": "imitation"},
            {"step": 2, "iter": 2, "seconds": 4}]  # fmt: skip
    (folder / "scalars.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert metaworld.seconds(tmp_path / "run") == 6.5
    assert jobs[0].work_dir != jobs[1].work_dir and " " not in str(jobs[1].work_dir.relative_to(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_tiny_run_reaches_its_report_and_a_second_one_trains_nothing(tmp_path, capsys):
    small = ["pipeline.demonstrations=2", "pipeline.collect=4", "pipeline.retrain_iterations=5",
             "pipeline.head_iterations=5", "pipeline.imitation.iterations=10", "pipeline.critic.iterations=10",
             "pipeline.dynamics_iterations=10", "pipeline.offline.updates=4", "pipeline.offline.gate_every=2",
             "pipeline.online.iterations=2", "pipeline.online.lanes=2", "pipeline.online.decisions=4"]  # fmt: skip
    given = [
        "--tasks",
        "dial-turn",
        "--layouts",
        "3",
        "--unbroken",
        "4",
        "--work-dir",
        str(tmp_path / "work"),
        "--results",
        str(tmp_path),
    ]
    given += ["--cfg-options", *small]
    assert metaworld.main([*given, "--now", "dial-turn/1"]) == 0
    assert "no report yet: dial-turn/0, dial-turn/2" in capsys.readouterr().out
    assert metaworld.main(given) == 0
    text = (tmp_path / "rl100_metaworld.md").read_text()
    assert " of 4 layouts; of the first 250 alone" in text
    assert "imitation < offline RL" in text and "online alone, mean" in text
    kept = tmp_path / "rl100_metaworld" / "dial-turn_seed1.json"
    before = kept.stat().st_mtime_ns
    assert metaworld.main(given) == 0 and kept.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_latency_report_has_every_way_in_both_engines(tmp_path):
    given = ["--decisions", "3", "--networks", "Skip-Net, chunk of 4", "--results", str(tmp_path)]
    assert latency.main(given) == 0
    text = (tmp_path / "rl100_latency.md").read_text()
    assert text.count("| Skip-Net, chunk of 4 |") == 8 and "at least 8 and 4" in text
