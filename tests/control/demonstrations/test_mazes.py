import json
from itertools import pairwise

import numpy as np
import pytest

from common.errors import ConfigError
from control.demonstrations import mazes
from control.demonstrations.collect import main
from control.demonstrations.load import check_task, read_episodes
from control.demonstrations.mazes import Waypoints, collect_maze, stream, waypoint_action
from control.demonstrations.references import measure
from control.demonstrations.store import minari_metadata, read_minari
from control.envs import make
from control.envs.return_tasks import goal_reward
from control.envs.scores import OWN, references
from control.workers import local_pool

TASK = "Maze2D-UMaze-v0"


class Backwards:
    """A pool of three workers in this process, whose last task is ready first."""

    workers = 3

    def __enter__(self):
        self.waiting = []
        return self

    def __exit__(self, *error): ...

    def submit(self, function, *arguments):
        self.waiting.append((function, arguments))

    def next(self):
        function, arguments = self.waiting.pop()
        return function(*arguments)


def test_the_controller_is_a_clipped_pd_law():
    here, speed = np.array([0.1, 0.2]), np.array([0.3, -0.4])
    np.testing.assert_allclose(waypoint_action(here, speed, np.array([0.15, 0.13])), [0.2, -0.3])
    np.testing.assert_array_equal(waypoint_action(here, speed, np.array([9.0, -9.0])), [1, -1])


def test_the_way_leads_from_every_cell_to_the_target_over_neighbouring_floor():
    world = make("Maze2D-Large-v0").unwrapped.world
    way, target = Waypoints(world.maze), world.maze.cell_rowcol_to_xy((1, 1)) + 0.05
    for start in world.free:
        cell, steps = start, 0
        while cell != (1, 1):
            at = way(world.maze.cell_rowcol_to_xy(cell), target)
            after = tuple(world.maze.cell_xy_to_rowcol(at).tolist())
            assert after in world.free and abs(after[0] - cell[0]) + abs(after[1] - cell[1]) == 1
            cell, steps = after, steps + 1
        assert steps < len(world.free)
        np.testing.assert_array_equal(way(world.maze.cell_rowcol_to_xy((1, 1)), target), target)


def test_a_stream_is_one_run_paid_for_the_evaluations_goal():
    episodes, reached = stream(TASK, 4, 4, 0.5)
    world = make(TASK).unwrapped.world
    assert [len(one) for one in episodes] == [300] * 4 and reached >= 8
    for one, following in pairwise(episodes):
        np.testing.assert_array_equal(one.observations["state"][-1], following.observations["state"][0])
    paid = np.concatenate([one.rewards for one in episodes])
    at = np.concatenate([one.observations["state"][1:, :2] for one in episodes])
    np.testing.assert_array_equal(paid, [goal_reward(each, world.goal, False) for each in at])
    assert 0 < paid.sum() < len(paid) and np.abs(np.concatenate([one.actions for one in episodes])).max() <= 1
    assert all(one.terminated is False for one in episodes)
    assert [one.seed for one in episodes] == [4, None, None, None]


def test_stored_actions_are_those_that_were_executed():
    (one,), _ = stream(TASK, 7, 1, 0.5)
    env = make(TASK)
    state = env.reset(seed=7)[0]["state"]
    for step, action in enumerate(one.actions):
        np.testing.assert_array_equal(state, one.observations["state"][step])
        state = env.step(action)[0]["state"]


def test_a_collection_does_not_depend_on_the_workers_and_keeps_what_the_metadata_promise(tmp_path, monkeypatch):
    monkeypatch.setattr(mazes, "PART", 2)
    summary = collect_maze(TASK, tmp_path / "one", 2000, seed=3, pool=local_pool(1), progress=False)
    collect_maze(TASK, tmp_path / "two", 2000, seed=3, pool=Backwards(), progress=False)
    one, two = read_minari(tmp_path / "one"), read_episodes(tmp_path / "two")
    assert len(one) == 7 == summary["episodes"] and summary["steps"] == 2100
    for a, b in zip(one, two, strict=True):
        for x, y in (
            (a.observations["state"], b.observations["state"]),
            (a.actions, b.actions),
            (a.rewards, b.rewards),
        ):
            np.testing.assert_array_equal(x, y)
        assert len(a.observations["state"]) == 301 and a.terminated is False
    held = minari_metadata(tmp_path / "one")
    assert (held["ref_min_score"], held["ref_max_score"]) == references(TASK, "own") and held["task"] == TASK
    check_task(tmp_path / "one", TASK)
    assert 40 < summary["steps_per_pursuit"] < 100, "D4RL's controller takes about 60 steps to a target here"


def test_the_command_writes_a_stream_and_says_which_options_do_not_belong(tmp_path, capsys):
    out = tmp_path / "maze"
    assert main([TASK, str(out), "--steps", "600", "--workers", "1", "--noise", "0.5"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == 600 and told["noise"] == 0.5 and len(read_minari(out)) == 2
    assert main([TASK, str(out), "--steps", "600"]) == 2 and "exists: remove it" in capsys.readouterr().err
    new = str(tmp_path / "new")
    with pytest.raises(ConfigError, match="--mix: Maze2D-UMaze-v0 is recorded by a controller"):
        main([TASK, new, "--steps", "600", "--mix", "medium"])
    with pytest.raises(ConfigError, match="--steps: TwoRoutes-v0 is recorded in successes; give --episodes"):
        main(["TwoRoutes-v0", new, "--steps", "600"])
    with pytest.raises(ConfigError, match="leave out --episodes"):
        main([TASK, new, "--steps", "600", "--episodes", "5"])
    with pytest.raises(ConfigError, match="seed 99999999: wanted 0 to"):
        collect_maze(TASK, tmp_path / "new", 600, seed=99_999_999)
    with pytest.raises(ConfigError, match="TwoRoutes-v0 is no Maze2D task"):
        collect_maze("TwoRoutes-v0", tmp_path / "new", 600)
    assert not (tmp_path / "new").exists()


def test_the_controller_earns_the_own_reference_and_random_actions_far_less():
    """6 episodes: the mean of the controller's has a deviation of 16 (38 per episode), of random ones 27 (65)."""
    found = measure(TASK, episodes=6, workers=1)
    assert found["controller"][0] == pytest.approx(OWN[TASK][1], abs=55) and found["random"][0] < 120


@pytest.mark.slow
@pytest.mark.parametrize("task", [name for name in OWN if "Dense" not in name])
def test_own_references_are_what_the_command_measures(task):
    """The very episodes of the table; another processor may round its way to another random walk."""
    found = measure(task, episodes=100)
    assert found["random"][0] == pytest.approx(OWN[task][0], abs=8)
    assert found["controller"][0] == pytest.approx(OWN[task][1], abs=4)
