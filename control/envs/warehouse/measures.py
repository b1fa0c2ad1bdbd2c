"""How well a vehicle found its way: per episode, and over many with intervals."""

import numpy as np

from common.statistics import wilson
from control.envs.warehouse.levels import MAX_SPEED


def spl(success: bool, path: float, shortest: float) -> float:
    """Success weighted by path length (Anderson et al. 2018): S l / max(p, l)."""
    return float(success) * shortest / max(path, shortest, 1e-9)


def sct(success: bool, seconds: float, shortest: float) -> float:
    """Success weighted by completion time: S t* / max(t, t*), t* the shortest way at full speed."""
    best = shortest / MAX_SPEED
    return float(success) * best / max(seconds, best, 1e-9)


def barn(success: bool, seconds: float, shortest: float) -> float:
    """Score of the BARN challenge, 0 .. 0.5: S t* / clip(t, 2 t*, 8 t*)."""
    best = max(shortest / MAX_SPEED, 1e-9)
    return float(success) * best / float(np.clip(seconds, 2 * best, 8 * best))


def of_episode(success: bool, path: float, shortest: float, seconds: float) -> dict:
    """path, shortest: m, both up to the goal's rim. seconds: of the episode."""
    return {
        "is_success": bool(success),
        "path_length": path,
        "shortest_path": shortest,
        "spl": spl(success, path, shortest),
        "sct": sct(success, seconds, shortest),
        "barn": barn(success, seconds, shortest),
        "time_to_goal": seconds if success else None,
    }


def summary(episodes: list[dict]) -> dict[str, float]:
    """Rates with Wilson intervals and means over episodes as `Warehouse.episode` returns them."""
    count = len(episodes)
    found = {}
    for key, name in (("is_success", "success"), ("is_collision", "collision"), ("is_timeout", "timeout")):
        hits = sum(one[key] for one in episodes)
        low, high = wilson(hits, count)
        found |= {name: hits / count, f"{name}_low": low, f"{name}_high": high}
    for key in ("spl", "sct", "barn", "min_clearance", "yaw_change"):
        found[key] = float(np.mean([one[key] for one in episodes]))
    reached = [one for one in episodes if one["is_success"]]
    found["path_ratio"] = float(np.mean([one["path_length"] / max(one["shortest_path"], 1e-9) for one in reached])) \
        if reached else float("nan")  # fmt: skip
    found["time_to_goal"] = float(np.mean([one["time_to_goal"] for one in reached])) if reached else float("nan")
    return found


class Coverage:
    """Which cells of a grid over the arena have been visited. size (m) of the arena, cells a side."""

    def __init__(self, size: tuple[float, float], cells: int = 24):
        self.size, self.visits = np.asarray(size, np.float64), np.zeros((cells, cells), np.int64)

    def add(self, points: np.ndarray) -> None:
        """points (..., 2), m."""
        cells = len(self.visits)
        index = (np.reshape(points, (-1, 2)) / self.size * cells).astype(int).clip(0, cells - 1)
        np.add.at(self.visits, (index[:, 0], index[:, 1]), 1)

    @property
    def share(self) -> float:
        """Share of cells visited."""
        return float((self.visits > 0).mean())
