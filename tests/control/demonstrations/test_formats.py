import json
import shutil

import numpy as np
import pytest

from common.errors import DataError
from control.demonstrations.lerobot import read_lerobot, write_lerobot
from control.demonstrations.load import demonstration_windows, read_episodes
from control.demonstrations.store import Episode
from control.demonstrations.zarr_store import read_pusht, read_zarr


def episodes(count=3, seed=0):
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        steps = 5 + number
        state, action = random.normal(size=(steps + 1, 4)), random.normal(size=(steps, 2))
        state[-1] = state[-2]
        found.append(Episode({"state": state.astype("f4")}, action.astype("f4"), np.zeros(steps, "f4")))
    return found


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(x.actions, y.actions) and np.array_equal(x.observations["state"], y.observations["state"])
        for x, y in zip(a, b, strict=True)
    )


def test_lerobot_gives_back_what_was_written_with_its_metadata(tmp_path):
    folder = write_lerobot(tmp_path / "set", episodes(), fps=20, task="reach the goal")
    assert same(read_lerobot(folder), episodes()) and same(read_episodes(folder), episodes())
    info = json.loads((folder / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["total_frames"] == 18 and info["splits"] == {"train": "0:3"}
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": None}
    statistics = json.loads((folder / "meta" / "stats.json").read_text())
    actions = np.concatenate([e.actions for e in episodes()])
    np.testing.assert_allclose(statistics["action"]["max"], actions.max(0), rtol=1e-6)
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert rows["dataset_from_index"] == [0, 5, 11] and rows["dataset_to_index"] == [5, 11, 18]
    frames = pq.read_table(folder / "data/chunk-000/file-000.parquet").to_pydict()
    assert frames["frame_index"][:6] == [0, 1, 2, 3, 4, 0] and frames["timestamp"][1] == pytest.approx(0.05)


def test_lerobot_finds_the_name_of_a_task_in_the_index_as_its_own_reader_does(tmp_path):
    pandas = pytest.importorskip("pandas")
    folder = write_lerobot(tmp_path / "set", episodes(), fps=20.0, task="reach the goal")
    tasks = pandas.read_parquet(folder / "meta" / "tasks.parquet")
    assert tasks.iloc[0].name == "reach the goal" and tasks.index.name == "task"
    assert tasks.loc["reach the goal"].task_index == 0 and list(tasks.columns) == ["task_index"]


def test_lerobots_tools_find_what_they_combine_and_extend(tmp_path):
    """Statistics of every feature, per episode too; the place of each episode's row; limits of files; whole fps."""
    import pyarrow.parquet as pq

    found = episodes()
    folder = write_lerobot(tmp_path / "set", found, fps=20.0, task="t")
    info = json.loads((folder / "meta" / "info.json").read_text())
    assert type(info["fps"]) is int and {"data_files_size_in_mb", "video_files_size_in_mb"} <= set(info)
    statistics = json.loads((folder / "meta" / "stats.json").read_text())
    assert set(statistics) == set(info["features"]) and statistics["frame_index"]["max"] == [6]
    actions = np.concatenate([e.actions for e in found])
    for key, q in {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}.items():
        np.testing.assert_allclose(statistics["action"][key], np.quantile(actions, q, 0), rtol=1e-5)
    rows = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert rows["meta/episodes/chunk_index"] == rows["meta/episodes/file_index"] == [0, 0, 0]
    assert {f"stats/{a}/{b}" for a in statistics for b in statistics[a]} <= set(rows)
    np.testing.assert_allclose(rows["stats/action/mean"][1], found[1].actions.mean(0), rtol=1e-5)
    assert rows["stats/index/min"] == [[0], [5], [11]]
    with pytest.raises(DataError, match=r"fps 12\.5 for .*other: LeRobot knows whole frames per second"):
        write_lerobot(tmp_path / "other", found, fps=12.5, task="t")
    found[1].observations = {"points": found[1].observations["state"]}
    with pytest.raises(DataError, match=r"episode 1 has no observation 'state' but \['points'\].*--observe state"):
        write_lerobot(tmp_path / "other", found, fps=20, task="t")


def test_a_feature_of_width_1_is_a_number_as_lerobot_reads_it(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [Episode(e.observations, e.actions[:, :1], e.rewards) for e in episodes()]
    folder = write_lerobot(tmp_path / "set", found, fps=20, task="t")
    assert pq.read_schema(folder / "data/chunk-000/file-000.parquet").field("action").type == pa.float32()
    assert same(read_lerobot(folder), found)


def test_values_that_are_not_finite_are_refused_with_file_and_episode(tmp_path):
    found = episodes()
    found[1].actions[2, 0] = np.nan
    folder = write_lerobot(tmp_path / "set", found, fps=20, task="t")
    with pytest.raises(DataError, match=r"set/data/chunk-000/file-000\.parquet, episode 1: actions holds values"):
        read_episodes(folder)
    write_zarr(tmp_path / "buffer.zarr", found)
    with pytest.raises(DataError, match=r"buffer\.zarr, episode 1: actions holds values that are not finite"):
        read_episodes(tmp_path / "buffer.zarr")


def test_damaged_lerobot_sets_are_named(tmp_path):
    with pytest.raises(DataError, match="this is no LeRobot data set"):
        read_lerobot(tmp_path)
    folder = write_lerobot(tmp_path / "set", episodes(), fps=20, task="t")
    with pytest.raises(DataError, match="set exists"):
        write_lerobot(folder, episodes(), fps=20, task="t")
    info = folder / "meta" / "info.json"
    whole = info.read_text()
    info.write_text(whole.replace("v3.0", "v2.1"))
    with pytest.raises(DataError, match=r"version v2\.1, wanted v3\.0"):
        read_lerobot(folder)
    info.write_text(whole.replace('"observation.state"', '"observation.images.top"'))
    with pytest.raises(DataError, match=r"no feature \['observation\.state'\]"):
        read_lerobot(folder)
    info.write_text(whole.replace('"total_frames": 18', '"total_frames": 19'))
    with pytest.raises(DataError, match="18 frames of 19: it is cut short"):
        read_lerobot(folder)
    info.write_text(whole.replace('"total_episodes": 3', '"total_episodes": 4'))
    with pytest.raises(DataError, match="no frame of episode 3: it is cut short"):
        read_lerobot(folder)
    info.write_text(whole)
    file = folder / "data/chunk-000/file-000.parquet"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        read_lerobot(folder)


def write_zarr(path, found, ends=None):
    import zarr

    root = zarr.open_group(zarr.DirectoryStore(str(path)), mode="w")
    root["data/state"] = np.concatenate([e.observations["state"][:-1] for e in found])
    root["data/action"] = np.concatenate([e.actions for e in found])
    root["meta/episode_ends"] = np.cumsum([len(e) for e in found]) if ends is None else ends


def test_a_zarr_replay_buffer_is_read_by_its_ends(tmp_path):
    write_zarr(tmp_path / "buffer.zarr", episodes())
    assert same(read_zarr(tmp_path / "buffer.zarr"), episodes())
    assert same(read_episodes(tmp_path / "buffer.zarr"), episodes())


def test_damaged_zarr_buffers_are_named(tmp_path):
    with pytest.raises(DataError, match="no such demonstrations"):
        read_zarr(tmp_path / "nothing.zarr")
    write_zarr(tmp_path / "buffer.zarr", episodes(), ends=np.array([5, 11, 25]))
    with pytest.raises(DataError, match=r"end at 25, but \{'state': 18, 'action': 18\}"):
        read_zarr(tmp_path / "buffer.zarr")
    write_zarr(tmp_path / "other.zarr", episodes())
    with pytest.raises(DataError, match="data/keypoint"):
        read_zarr(tmp_path / "other.zarr", {"state": "keypoint"})
    (tmp_path / "broken.zarr.zip").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DataError, match=r"broken\.zarr\.zip cannot be read"):
        read_zarr(tmp_path / "broken.zarr.zip")


def test_what_is_no_known_format_is_said_so(tmp_path):
    with pytest.raises(DataError, match="make some with tutelage collect"):
        read_episodes(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="is no Minari folder, no LeRobot folder and no"):
        read_episodes(tmp_path / "folder")


def test_the_human_push_t_demonstrations_are_read_whole(data_root, tmp_path):
    """206 episodes, 25,650 steps; the corners of the T are where the recorded key points say."""
    path = data_root / "pusht" / "pusht_cchi_v7_replay.zarr.zip"
    found = read_pusht(path)
    assert len(found) == 206 and sum(len(e) for e in found) == 25_650
    raw = read_zarr(path, {"keypoint": "keypoint", "state": "state"})
    for one, keys in zip(found[:5], raw[:5], strict=True):
        corners = one.observations["state"][:, 2:].reshape(-1, 8, 2)
        # recorded key points lie on the T of 120 pixels: inside the box of its corners (they lag by part of a step)
        points = keys.observations["keypoint"]
        assert (points.min(1) > corners.min(1) - 6).all() and (points.max(1) < corners.max(1) + 6).all()
    windows = demonstration_windows(str(path), horizon=20)
    assert len(windows) > 20_000 and windows.actions.shape == (25_650, 2)
    shutil.copy(path, tmp_path / "pusht_cut.zarr.zip")
    whole = path.read_bytes()
    (tmp_path / "pusht_cut.zarr.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="pusht_cut"):
        read_episodes(tmp_path / "pusht_cut.zarr.zip")
