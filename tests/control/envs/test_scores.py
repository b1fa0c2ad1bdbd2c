import numpy as np
import pytest

from common.errors import ConfigError
from control.envs import TASKS
from control.envs.scores import D4RL, OWN, headline, normalised_score, references


@pytest.mark.parametrize(
    "task, value, points",
    [("Hopper-v5", 3234.3, 100), ("Hopper-v5", -20.272305, 0), ("Maze2D-Large-v0", 273.99, 100),
     ("HalfCheetah-v5", 4770, 40.68), ("tutelage/Walker2d-v4", 2852, 62.09), ("Hopper-v5", 1422, 44.32)],
)  # fmt: skip
def test_points_are_d4rls(task, value, points):
    """References and mean returns of the medium sets as published with arXiv 2004.07219."""
    assert normalised_score(task, value) == pytest.approx(points, abs=0.01)


def test_an_array_of_returns_gives_as_many_points_and_own_references_are_kept_apart():
    low, high = references("Maze2D-UMaze-v0", "own")
    np.testing.assert_allclose(normalised_score("Maze2D-UMaze-v0", [low, high, (low + high) / 2], "own"), [0, 100, 50])
    assert normalised_score("Maze2D-UMaze-v0", high) > 140, "the controller is far above D4RL's 100"
    assert headline("Maze2D-UMaze-v0") == "own" and headline("Hopper-v5") == "d4rl"


def test_every_task_with_a_return_has_references_in_order():
    measured = {name for name, task in TASKS.items() if task.world.startswith("control.envs.return_tasks")}
    assert measured == set(D4RL) and set(OWN) == {name for name in measured if name.startswith("Maze2D")}
    assert all(low < high for table in (D4RL, OWN) for low, high in table.values())


def test_a_task_or_kind_without_references_is_told_what_there_is():
    with pytest.raises(ConfigError, match="no own references of 'Hopper-v5'; there are those of Maze2D-UMaze-v0"):
        normalised_score("Hopper-v5", 1, "own")
    with pytest.raises(ConfigError, match="references 'best': choose one of d4rl, own"):
        normalised_score("Hopper-v5", 1, "best")
