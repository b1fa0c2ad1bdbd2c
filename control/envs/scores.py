"""Normalised scores, 100 (R - low) / (high - low), of the tasks that are measured by their return.

Two sets of references, kept apart by name. `d4rl`: D4RL's (random policy and expert of its own simulators, arXiv
2004.07219; the same for its v0, v1 and v2), what published tables stand on. `own`: random policy and waypoint
controller in these very environments, for the mazes, where that controller is far above D4RL's 100: printed by
`python -m control.demonstrations.references Maze2D-UMaze-v0 Maze2D-Medium-v0 Maze2D-Large-v0 Maze2D-UMaze-Dense-v0
Maze2D-Medium-Dense-v0 Maze2D-Large-Dense-v0`, 100 episodes each, seeds 100000 to 100099 (an episode's deviation: random
50 to 95, controller 34 to 90). Walker2d-v5 has another friction than D4RL's walker: its points are D4RL's by name only.
"""

import numpy as np

from common.errors import ConfigError

D4RL = {
    "Maze2D-UMaze-v0": (23.85, 161.86),
    "Maze2D-Medium-v0": (13.13, 277.39),
    "Maze2D-Large-v0": (6.7, 273.99),
    "Maze2D-UMaze-Dense-v0": (68.54, 193.66),
    "Maze2D-Medium-Dense-v0": (44.26, 297.46),
    "Maze2D-Large-Dense-v0": (30.57, 303.49),
    "Hopper-v5": (-20.272305, 3234.3),
    "HalfCheetah-v5": (-280.178953, 12135.0),
    "Walker2d-v5": (1.629008, 4592.3),
    "Walker2d-v4": (1.629008, 4592.3),
}
OWN = {
    "Maze2D-UMaze-v0": (27.84, 236.61),
    "Maze2D-Medium-v0": (22.87, 482.61),
    "Maze2D-Large-v0": (16.31, 620.88),
    "Maze2D-UMaze-Dense-v0": (61.90, 245.67),
    "Maze2D-Medium-Dense-v0": (56.19, 493.03),
    "Maze2D-Large-Dense-v0": (45.13, 635.50),
}
REFERENCES = {"d4rl": D4RL, "own": OWN}


def references(task: str, kind: str = "d4rl") -> tuple[float, float]:
    """(low, high) of a task, with or without `tutelage/`. Raises ConfigError that lists what there is."""
    task = task.removeprefix("tutelage/")
    if kind not in REFERENCES:
        raise ConfigError(f"references {kind!r}: choose one of {', '.join(REFERENCES)}")
    if task not in REFERENCES[kind]:
        raise ConfigError(f"no {kind} references of {task!r}; there are those of {', '.join(REFERENCES[kind])}")
    return REFERENCES[kind][task]


def normalised_score(task: str, returns, kind: str = "d4rl"):
    """Points of a return, or of an array of them. kind: "d4rl" or "own". Raises ConfigError for a task without."""
    low, high = references(task, kind)
    return 100 * (np.asarray(returns, np.float64) - low) / (high - low)


def kinds(task: str) -> list[str]:
    """The kinds of references that a task has."""
    return [kind for kind, known in REFERENCES.items() if task.removeprefix("tutelage/") in known]


def headline(task: str) -> str:
    """The kind of references that a task's result is told by: its own where there are any."""
    return "own" if task.removeprefix("tutelage/") in OWN else "d4rl"
