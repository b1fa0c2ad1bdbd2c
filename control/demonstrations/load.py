"""Demonstrations of any format, recognised by what lies at the path, as training windows."""

from pathlib import Path

from common.errors import DataError
from control.demonstrations.lerobot import read_lerobot
from control.demonstrations.store import Episode, read_minari
from control.demonstrations.zarr_store import read_pusht, read_zarr
from control.policies.windows import WindowDataset


def read_episodes(path: str | Path, names: tuple[str, ...] = ("state",)) -> list[Episode]:
    """Episodes of a Minari data set (folder with data/), a LeRobot v3 set (meta/info.json), or a zarr replay buffer
    (.zarr, .zarr.zip; one whose name begins with `pusht` gets our Push-T observation).

    Raises: DataError naming the path when it is none of these.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such demonstrations; make some with tutelage collect TASK {path}")
    if path.suffix == ".zarr" or path.name.endswith(".zarr.zip"):
        return read_pusht(path, "rgb" in names) if path.name.startswith("pusht") else read_zarr(path)
    if (path / "meta" / "info.json").is_file():
        return read_lerobot(path)
    if (path / "data").is_dir():
        return read_minari(path)
    raise DataError(f"{path} is no Minari folder, no LeRobot folder and no .zarr: see docs/streaming_policy.md")


def demonstration_windows(path: str, names: tuple[str, ...] = ("state",), **kwargs) -> WindowDataset:
    """Training windows of the demonstrations at `path`; kwargs as `WindowDataset`."""
    return WindowDataset(read_episodes(path, tuple(names)), names=tuple(names), **kwargs)
