import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigError, DataError
from control.demonstrations.collect import EVALUATION_SEEDS, Settings, collect, main, roll_out
from control.demonstrations.experts import expert_for, route
from control.demonstrations.lerobot import read_lerobot
from control.demonstrations.store import read_minari
from control.envs import TASKS, make
from control.envs.return_tasks import LOCOMOTION
from control.workers import local_pool, ray_pool

ROOT = Path(__file__).resolve().parents[3]


def folder_bytes(folder):
    """Everything the episodes say, whatever time stamps HDF5 puts beside."""
    return [(e.seed, e.actions.tobytes(), *(v.tobytes() for v in e.observations.values())) for e in read_minari(folder)]


@pytest.mark.parametrize(
    "name",
    ["TwoRoutes-v0", "PointMaze-Ring-v3", "FetchReach-v4", "FetchPush-v4", "FetchPickAndPlace-v4", "MetaWorld-reach-v3",
     "MetaWorld-reach-moving-v0"],
)  # fmt: skip
def test_the_expert_solves_its_task(name):
    assert sum(roll_out(Settings(name, noise=0.0), seed).success for seed in range(5)) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(TASKS) - {"PushT-v0"} - set(LOCOMOTION)))
def test_every_task_has_an_expert_that_succeeds_somewhere(name):
    assert any(roll_out(Settings(name, noise=0.02), seed).success for seed in range(8))


def test_a_task_without_an_expert_says_where_its_demonstrations_come_from():
    with pytest.raises(ConfigError, match=r"PushT-v0 has no scripted expert; load recorded"):
        expert_for("PushT-v0")


def test_stored_actions_are_clean_and_clipped_and_executed_ones_are_not():
    noisy, clean = (roll_out(Settings("MetaWorld-reach-v3", noise=noise), 0) for noise in (0.3, 0.0))
    for episode in (noisy, clean):
        assert np.abs(episode.actions).max() <= 1 and len(episode.observations["state"]) == len(episode) + 1
    expert = expert_for("MetaWorld-reach-v3")(0)
    env = make("MetaWorld-reach-v3").unwrapped
    env.reset(seed=0)
    np.testing.assert_allclose(noisy.actions[0], np.clip(expert(env), -1, 1), rtol=1e-6)
    assert not np.allclose(noisy.observations["state"][1], clean.observations["state"][1])


def test_both_sides_and_both_routes_are_demonstrated():
    sides = []
    for seed in range(24):
        episode = roll_out(Settings("TwoRoutes-v0", noise=0.05), seed)
        state = episode.observations["state"]
        middle = np.abs(state[:, 1] - state[:, 9]).argmin()
        sides.append(state[middle, 0] > state[middle, 8])
    assert 6 <= sum(sides) <= 18  # a fair coin leaves this range once in 150
    ups = []
    for seed in range(16):
        state = roll_out(Settings("PointMaze-Ring-v3", noise=0.0), seed).observations["state"]
        ups.append(state[np.abs(state[:, 0]).argmin(), 1] > 0)
    assert 2 <= sum(ups) <= 14


def test_a_shortest_path_is_found_and_a_missing_one_named():
    class Maze:
        maze_map = [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]]

    draws = np.random.default_rng(0)
    assert route(Maze, (1, 1), (2, 2), draws) == [(1, 1), (1, 2), (2, 2)]
    with pytest.raises(ValueError, match=r"no way from cell \(1, 1\) to cell \(3, 1\)"):
        route(Maze, (1, 1), (3, 1), draws)


def test_a_collection_is_readable_by_minari_and_by_us_and_does_not_depend_on_the_workers(tmp_path):
    settings = Settings("TwoRoutes-v0")
    summary = collect(settings, tmp_path / "one", 5, seed=10, pool=local_pool(1), progress=False)
    collect(settings, tmp_path / "two", 5, seed=10, pool=local_pool(2), progress=False)
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    from minari import MinariDataset

    found = MinariDataset(tmp_path / "one" / "data")
    assert found.total_episodes == 5 and found.total_steps == summary["steps"]
    assert found.action_space == make("TwoRoutes-v0").action_space
    assert json.loads(found.storage.metadata["description"])["seeds"][0] == 10
    episodes = read_minari(tmp_path / "one")
    assert all(e.success and 10 <= e.seed < 30 for e in episodes)
    np.testing.assert_array_equal(episodes[0].actions, roll_out(settings, episodes[0].seed).actions)


def test_a_collection_may_lie_under_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    collect(Settings("TwoRoutes-v0"), Path("sets/two"), 2, pool=local_pool(1), progress=False)
    assert len(read_minari(Path("sets/two"))) == 2 == len(read_minari(tmp_path / "sets" / "two"))


def test_collecting_on_ray_gives_the_same_episodes(tmp_path):
    pytest.importorskip("ray")
    settings = Settings("TwoRoutes-v0")
    collect(settings, tmp_path / "ray", 3, pool=ray_pool("local", 2), progress=False)
    collect(settings, tmp_path / "here", 3, pool=local_pool(1), progress=False)
    assert folder_bytes(tmp_path / "ray") == folder_bytes(tmp_path / "here")


def test_a_killed_collection_goes_on_where_it_stopped(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "control.demonstrations.collect", "MetaWorld-reach-v3", str(out), "--episodes",
               "40", "--workers", "1"]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    work = tmp_path / "out.collecting"
    limit = time.time() + 60
    while len(list(work.glob("*.npz"))) < 3 and time.time() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in work.glob("[0-9].npz")}
    assert kept and not out.exists()
    settings = Settings("MetaWorld-reach-v3")
    with pytest.raises(ConfigError, match="holds another collection"):
        collect(Settings("MetaWorld-reach-v3", noise=0.5), out, 5, progress=False)
    collect(settings, out, 5, pool=local_pool(1), progress=False)
    collect(settings, tmp_path / "whole", 5, pool=local_pool(1), progress=False)
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole") and not work.exists()


class Interrupted(local_pool):
    """A pool of this process that is interrupted after three results."""

    left = 3

    def next(self):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().next()


def test_a_damaged_record_of_settings_is_named_and_costs_no_episode(tmp_path):
    out, settings = tmp_path / "out", Settings("TwoRoutes-v0")
    work, record = tmp_path / "out.collecting", tmp_path / "out.collecting" / "settings.json"
    with pytest.raises(KeyboardInterrupt):
        collect(settings, out, 5, pool=Interrupted(1), progress=False)
    whole, kept = record.read_text(), {path: path.stat().st_mtime_ns for path in work.glob("[0-9]*")}
    assert len(kept) == 3 and [path.name for path in work.glob("settings*")] == ["settings.json"]
    for damaged in ("", whole[:-5]):
        record.write_text(damaged)
        with pytest.raises(DataError, match=r"settings\.json is damaged.*episodes beside it are fine.*remove that one"):
            collect(settings, out, 5, pool=local_pool(1), progress=False)
        assert record.read_text() == damaged
    record.unlink()  # as the message says
    with pytest.raises(KeyboardInterrupt):
        collect(settings, out, 8, pool=Interrupted(1), progress=False)
    assert record.read_text() == whole and all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    collect(settings, out, 5, pool=local_pool(1), progress=False)
    collect(settings, tmp_path / "whole", 5, pool=local_pool(1), progress=False)
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")


def test_a_record_of_settings_is_written_once_and_whole_or_not_at_all(tmp_path, monkeypatch):
    out, settings = tmp_path / "out", Settings("TwoRoutes-v0")
    record = tmp_path / "out.collecting" / "settings.json"
    write = Path.write_text

    def killed(path, text):
        write(path, text[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(settings, out, 5, pool=local_pool(1), progress=False)
    assert not record.exists()
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt):
        collect(settings, out, 5, pool=Interrupted(1), progress=False)
    stamp = record.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        collect(settings, out, 8, pool=Interrupted(1), progress=False)
    assert record.stat().st_mtime_ns == stamp


def test_layouts_of_the_evaluation_are_refused_and_an_existing_folder_is_kept(tmp_path, capsys):
    with pytest.raises(ConfigError, match="kept for evaluation"):
        collect(Settings("TwoRoutes-v0"), tmp_path / "x", 5, seed=EVALUATION_SEEDS - 5)
    (tmp_path / "there").mkdir()
    assert main(["TwoRoutes-v0", str(tmp_path / "there")]) == 2
    assert "exists: remove it" in capsys.readouterr().err


def test_a_collection_is_exported_to_lerobot_when_it_is_made_and_later(tmp_path, capsys):
    out, export = tmp_path / "out", tmp_path / "lerobot"
    command = ["TwoRoutes-v0", str(out), "--episodes", "2", "--workers", "1", "--lerobot"]
    assert main([*command, str(export)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert main([*command, str(tmp_path / "later")]) == 0  # the collection is there: nothing is rolled out again
    assert json.loads(capsys.readouterr().out) == summary
    for folder in (export, tmp_path / "later"):
        for one, stored in zip(read_lerobot(folder), read_minari(out), strict=True):
            np.testing.assert_array_equal(one.actions, stored.actions)
            np.testing.assert_array_equal(one.observations["state"][:-1], stored.observations["state"][:-1])
        assert json.loads((folder / "meta" / "info.json").read_text())["fps"] == 20
    import pyarrow.parquet as pq

    assert pq.read_table(export / "meta" / "tasks.parquet")["task"].to_pylist() == ["TwoRoutes-v0"]


def test_an_export_that_cannot_be_is_refused_before_anything_is_collected(tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "there").mkdir()
    command = ["TwoRoutes-v0", str(out), "--episodes", "1", "--workers", "1", "--lerobot"]
    assert main([*command, str(tmp_path / "there")]) == 2
    assert "--lerobot" in (told := capsys.readouterr().err) and "there exists: remove it" in told
    with pytest.raises(ConfigError, match="--lerobot: the export holds state and actions"):
        main([*command, str(tmp_path / "new"), "--observe", "points"])
    assert not out.exists() and not list(tmp_path.glob("*.collecting"))
    assert main(command[:-1]) == 0
    with pytest.raises(ConfigError, match=r"out holds .*'episodes': 1.*wanted .*'episodes': 3.*give its options"):
        main([*command, str(tmp_path / "new"), "--episodes", "3"])
    with pytest.raises(DataError, match=r"there exists and is no collection"):
        main(["TwoRoutes-v0", str(tmp_path / "there"), "--lerobot", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_an_expert_that_fails_too_often_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match="succeeded in 0 of 8 layouts; 2 were wanted"):
        collect(Settings("TwoRoutes-v0", max_steps=5), tmp_path / "x", 2, pool=local_pool(1), progress=False)


def test_damaged_data_sets_are_named(tmp_path):
    with pytest.raises(DataError, match="nothing is no Minari data set"):
        read_minari(tmp_path / "nothing")
    collect(Settings("TwoRoutes-v0"), tmp_path / "set", 2, pool=local_pool(1), progress=False)
    file = tmp_path / "set" / "data" / "main_data.hdf5"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="set cannot be read as a Minari data set"):
        read_minari(tmp_path / "set")
