"""LeRobot's data set format v3.0 (parquet), written and read without the package (it wants Python 3.12)."""

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


def write_lerobot(folder: str | Path, episodes: list[Episode], fps: float, task: str) -> Path:
    """Write state and actions as one LeRobot v3.0 data set; `folder` must not exist. The observation behind an
    episode's last action has no row in this format and is left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    if folder.exists():
        raise DataError(f"{folder} exists: remove it, or choose another folder")
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
    }
    (beside / EPISODES).parent.mkdir(parents=True)
    pq.write_table(pa.table(rows), beside / EPISODES)
    pq.write_table(pa.table({"task_index": [0], "task": [task]}), beside / "meta" / "tasks.parquet")
    features = {name: _feature(values) for name, values in columns.items()}
    info = {
        "codebase_version": VERSION, "robot_type": "simulated", "total_episodes": len(episodes),
        "total_frames": int(ends[-1]), "total_tasks": 1, "chunks_size": 1000, "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"}, "data_path": DATA, "video_path": None, "features": features,
    }  # fmt: skip
    (beside / "meta" / "info.json").write_text(json.dumps(info, indent=2))
    statistics = {name: _statistics(columns[name]) for name in (STATE, ACTION)}
    (beside / "meta" / "stats.json").write_text(json.dumps(statistics, indent=2))
    beside.rename(folder)
    return folder


def read_lerobot(folder: str | Path) -> list[Episode]:
    """Episodes of a LeRobot v3.0 data set with `observation.state` and `action`; the last observation stands twice.

    Raises: DataError naming the file, the version or the feature that is missing.
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
        tables = [pq.read_table(path, columns=[STATE, ACTION, "episode_index", "frame_index"])
                  for path in sorted((folder / "data").glob("chunk-*/file-*.parquet"))]  # fmt: skip
        parts = {name: np.concatenate([_values(table[name]) for table in tables]) for name in tables[0].column_names}
    except Exception as error:  # pyarrow raises a dozen kinds for a damaged file
        raise DataError(f"{folder}/data cannot be read ({type(error).__name__}: {error}): download it again") from error
    if len(parts[ACTION]) != info["total_frames"]:
        raise DataError(f"{folder} holds {len(parts[ACTION])} frames of {info['total_frames']}: it is cut short")
    episodes = []
    for number in range(info["total_episodes"]):
        mine = np.flatnonzero(parts["episode_index"] == number)
        mine = mine[np.argsort(parts["frame_index"][mine])]
        state = parts[STATE][[*mine, mine[-1]]]
        episodes.append(Episode({"state": state}, parts[ACTION][mine], np.zeros(len(mine), np.float32)))
    return episodes


def _column(values: np.ndarray):
    import pyarrow as pa

    return pa.array(values.tolist(), pa.list_(pa.float32(), values.shape[1])) if values.ndim > 1 else pa.array(values)


def _values(column) -> np.ndarray:
    flat = column.combine_chunks()
    return np.asarray(flat.to_pylist(), np.float32) if hasattr(flat.type, "value_type") else flat.to_numpy()


def _feature(values: np.ndarray) -> dict:
    width = values.shape[1] if values.ndim > 1 else 1
    return {"dtype": str(values.dtype), "shape": [width], "names": None}


def _statistics(values: np.ndarray) -> dict:
    return {
        "min": values.min(0).tolist(), "max": values.max(0).tolist(), "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(), "count": [len(values)],
    }  # fmt: skip
