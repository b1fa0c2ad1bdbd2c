"""LeRobot's data set format v3.0 (parquet), written and read without the package (it wants Python 3.12).

`tutelage collect TASK OUT --lerobot FOLDER` exports a collection.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from common.errors import DataError
from control.demonstrations.store import Episode

VERSION = "v3.0"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
STATE, ACTION = "observation.state", "action"
NO_STATE = "the export holds state and actions; collect with --observe state (and others)"
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)  # q01 to q99 of LeRobot's statistics


def write_lerobot(folder: str | Path, episodes: list[Episode], fps: float, task: str) -> Path:
    """Write state and actions as one LeRobot v3.0 data set; `folder` must not exist. The observation behind an
    episode's last action has no row in this format and is left out.

    fps: frames per second, whole. Raises: DataError when the folder exists or an episode has no `state`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder} exists: remove it, or choose another folder")
    for number, one in enumerate(episodes):
        if "state" not in one.observations:
            raise DataError(f"episode {number} has no observation 'state' but {sorted(one.observations)}: {NO_STATE}")
    if fps != int(fps):
        raise DataError(f"fps {fps} for {folder}: LeRobot knows whole frames per second only; resample the episodes")
    beside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    lengths = [len(e) for e in episodes]
    ends = np.cumsum(lengths)
    columns = {
        STATE: np.concatenate([e.observations["state"][: len(e)] for e in episodes]).astype(np.float32),
        ACTION: np.concatenate([e.actions for e in episodes]).astype(np.float32),
        "timestamp": np.concatenate([np.arange(n) / fps for n in lengths]).astype(np.float32),
        "frame_index": np.concatenate([np.arange(n) for n in lengths]),
        "episode_index": np.repeat(np.arange(len(episodes)), lengths),
        "index": np.arange(ends[-1]),
        "task_index": np.zeros(ends[-1], np.int64),
    }
    path = beside / DATA.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({name: _column(values) for name, values in columns.items()}), path)
    rows = {
        "episode_index": np.arange(len(episodes)),
        "tasks": [[task]] * len(episodes),
        "length": lengths,
        "data/chunk_index": [0] * len(episodes),
        "data/file_index": [0] * len(episodes),
        "dataset_from_index": ends - lengths,
        "dataset_to_index": ends,
        "meta/episodes/chunk_index": [0] * len(episodes),
        "meta/episodes/file_index": [0] * len(episodes),
    }
    parts = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    for name, values in columns.items():  # LeRobot's tools that split, merge or extend a set combine these
        each = [_statistics(values[part]) for part in parts]
        rows |= {f"stats/{name}/{key}": [one[key] for one in each] for key in each[0]}
    (beside / EPISODES).parent.mkdir(parents=True)
    pq.write_table(pa.table(rows), beside / EPISODES)
    pq.write_table(_tasks([task]), beside / "meta" / "tasks.parquet")
    features = {name: _feature(values) for name, values in columns.items()}
    info = {
        "codebase_version": VERSION, "robot_type": "simulated", "total_episodes": len(episodes),
        "total_frames": int(ends[-1]), "total_tasks": 1, "chunks_size": 1000,
        "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": int(fps),
        "splits": {"train": f"0:{len(episodes)}"}, "data_path": DATA, "video_path": None, "features": features,
    }  # fmt: skip
    (beside / "meta" / "info.json").write_text(json.dumps(info, indent=2))
    statistics = {name: _statistics(values) for name, values in columns.items()}
    (beside / "meta" / "stats.json").write_text(json.dumps(statistics, indent=2))
    beside.rename(folder)
    return folder


def read_lerobot(folder: str | Path) -> list[Episode]:
    """Episodes of a LeRobot v3.0 data set with `observation.state` and `action`; the last observation stands twice.

    Raises: DataError naming the file, and the version, the feature or the episode that is wrong.
    """
    import pyarrow.parquet as pq

    folder = Path(folder)
    try:
        info = json.loads((folder / "meta" / "info.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}/meta/info.json cannot be read ({error}): this is no LeRobot data set") from error
    if info.get("codebase_version") != VERSION:
        raise DataError(f"{folder} is of version {info.get('codebase_version')}, wanted {VERSION}: convert it first")
    missing = [name for name in (STATE, ACTION) if name not in info["features"]]
    if missing:
        raise DataError(f"{folder} has no feature {missing}; it has {sorted(info['features'])}")
    try:
        paths = sorted((folder / "data").glob("chunk-*/file-*.parquet"))
        tables = [pq.read_table(path, columns=[STATE, ACTION, "episode_index", "frame_index"]) for path in paths]
        parts = {name: np.concatenate([_values(table[name]) for table in tables]) for name in tables[0].column_names}
        file = np.repeat(np.arange(len(paths)), [len(table) for table in tables])
    except Exception as error:  # pyarrow raises a dozen kinds for a damaged file
        raise DataError(f"{folder}/data cannot be read ({type(error).__name__}: {error}): download it again") from error
    if len(parts[ACTION]) != info["total_frames"]:
        raise DataError(f"{folder} holds {len(parts[ACTION])} frames of {info['total_frames']}: it is cut short")
    state, action = (parts[name].reshape(len(file), -1) for name in (STATE, ACTION))
    episodes = []
    for number in range(info["total_episodes"]):
        mine = np.flatnonzero(parts["episode_index"] == number)
        if not len(mine):
            raise DataError(f"{folder}/data has no frame of episode {number}: it is cut short, download it again")
        mine = mine[np.argsort(parts["frame_index"][mine])]
        episode = Episode({"state": state[[*mine, mine[-1]]]}, action[mine], np.zeros(len(mine), np.float32))
        episode.check(f"{paths[file[mine[0]]]}, episode {number}")
        episodes.append(episode)
    return episodes


def _tasks(names: list[str]):
    """Table of the tasks as pandas stores it: LeRobot looks a task's name up in the index of the data frame."""
    import pyarrow as pa

    index = {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    column = {**index, "name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": [column, index]}
    table = pa.table({"task_index": np.arange(len(names)), "task": names})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _column(values: np.ndarray):
    """A list per row, but a plain number where the width is 1: so LeRobot reads a feature of shape (1,)."""
    import pyarrow as pa

    if values.ndim > 1 and values.shape[1] > 1:
        return pa.array(values.tolist(), pa.list_(pa.float32(), values.shape[1]))
    return pa.array(values.reshape(-1))


def _values(column) -> np.ndarray:
    flat = column.combine_chunks()
    return np.asarray(flat.to_pylist(), np.float32) if hasattr(flat.type, "value_type") else flat.to_numpy()


def _feature(values: np.ndarray) -> dict:
    width = values.shape[1] if values.ndim > 1 else 1
    return {"dtype": str(values.dtype), "shape": [width], "names": None}


def _statistics(values: np.ndarray) -> dict:
    values = values.reshape(len(values), -1)
    quantiles = np.quantile(values.astype(np.float64), QUANTILES, axis=0).tolist()
    return {
        "min": values.min(0).tolist(), "max": values.max(0).tolist(), "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(), "count": [len(values)],
        **{f"q{100 * q:02.0f}": row for q, row in zip(QUANTILES, quantiles, strict=True)},
    }  # fmt: skip
