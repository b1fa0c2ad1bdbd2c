import gymnasium as gym
import numpy as np
import pytest

from common.errors import ConfigError
from control.envs import TASKS, make
from control.envs.return_tasks import GOALS, Locomotion, Maze2D, goal_reward
from control.rollout import rollout

MAZES = [f"Maze2D-{maze}-v0" for maze in GOALS]
RUNNERS = ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Walker2d-v4"]


def states(env, seed, steps=30):
    draws = np.random.default_rng(seed)
    found = [env.reset(seed=seed)[0]["state"]]
    for _ in range(steps):
        observation, *_, ended, cut, _ = env.step(draws.uniform(env.action_space.low, env.action_space.high))
        found.append(observation["state"])
        if ended or cut:
            break
    return np.array(found)


@pytest.mark.parametrize("name", ["Maze2D-UMaze-v0", "Hopper-v5"])
def test_an_episode_is_a_function_of_its_seed_and_actions_whatever_ran_before(name):
    env = make(name)
    first, other = states(env, 3), states(env, 4)
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_array_equal(first, states(env, 3))
    np.testing.assert_array_equal(first, states(make(name), 3))


@pytest.mark.parametrize("name", MAZES)
def test_the_goal_never_moves_and_nothing_terminates(name):
    """D4RL's evaluation: reset_target False, continuing_task True; the goal is a fixed cell, and reaching it ends
    nothing."""
    env = make(name)
    world = env.unwrapped.world
    goal = world.goal.copy()
    np.testing.assert_allclose(goal, world.maze.cell_rowcol_to_xy(GOALS[name.split("-")[1]]))
    env.reset(seed=0)
    world.native.point_env.set_state(goal, np.zeros(2))
    for _ in range(20):
        observation, reward, ended, cut, info = env.step(np.zeros(2))
        assert reward == 1 and not ended and not cut and info["success"]
        np.testing.assert_array_equal(world.goal, goal)
        np.testing.assert_array_equal(world.native.goal, goal)
    assert info["return"] == 20 and observation["state"].shape == (4,)
    for seed in range(3):
        env.reset(seed=seed)
        np.testing.assert_array_equal(world.native.goal, goal)


def test_rewards_count_the_states_within_half_a_metre_and_dense_ones_decay_with_the_distance():
    goal = np.array([1.0, 2.0])
    assert [goal_reward(goal + [gap, 0], goal, False) for gap in (0.0, 0.49, 0.51)] == [1, 1, 0]
    assert goal_reward(goal + [0.6, 0.8], goal, True) == pytest.approx(np.exp(-1))
    sparse, dense = make("Maze2D-UMaze-v0"), make("Maze2D-UMaze-Dense-v0")
    for env, kind in ((sparse, False), (dense, True)):
        env.reset(seed=1)
        total = 0.0
        for _ in range(10):
            observation, reward, *_, info = env.step(np.array([0.5, 0.1]))
            assert reward == pytest.approx(goal_reward(observation["state"][:2], env.unwrapped.world.goal, kind), 1e-5)
            total += reward
        assert info["return"] == pytest.approx(total)


def test_starts_are_spread_over_all_free_cells_as_in_d4rl():
    env = make("Maze2D-UMaze-v0")
    world, cells, speeds = env.unwrapped.world, [], []
    for seed in range(200):
        x, y, *speed = env.reset(seed=seed)[0]["state"]
        cell = tuple(world.maze.cell_xy_to_rowcol(np.array([x, y])).tolist())
        cells.append(cell)
        speeds.append(speed)
        assert np.abs(world.maze.cell_rowcol_to_xy(cell) - [x, y]).max() <= 0.1 + 1e-6
    counts = [cells.count(cell) for cell in world.free]
    assert len(world.free) == 7 and sum(counts) == 200 and min(counts) > 10  # 28.6 on average, deviation 5
    assert np.std(speeds) == pytest.approx(0.1, rel=0.15)


def test_positions_follow_velocities_by_the_semi_implicit_step_walls_included():
    """p' - p - 0.01 v' = 0 to rounding, at every step and in contact."""
    env = make("Maze2D-Medium-v0")
    env.reset(seed=0)
    data, draws, push, touched = env.unwrapped.world.data, np.random.default_rng(0), np.zeros(2), 0
    for step in range(300):
        if step % 40 == 0:
            push = draws.uniform(-1, 1, 2)
        before = data.qpos.copy()
        env.step(push)
        touched += data.ncon > 0
        assert np.abs(data.qpos - before - 0.01 * data.qvel).max() < 1e-12
    assert touched > 20


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_is_gymnasiums_own_with_its_rewards_and_falls(name):
    env, native = make(name), gym.make(name, disable_env_checker=True).unwrapped
    observation, info = env.reset(seed=5)
    np.testing.assert_array_equal(observation["state"], native.reset(seed=5)[0].astype(np.float32))
    assert info["return"] == 0 and TASKS[name].max_steps == 1000
    draws, total, fell = np.random.default_rng(0), 0.0, False
    for _ in range(60):
        action = draws.uniform(env.action_space.low, env.action_space.high)
        observation, reward, ended, cut, info = env.step(action)
        wanted, paid, fell, _, _ = native.step(action)
        np.testing.assert_array_equal(observation["state"], wanted.astype(np.float32))
        total += paid
        assert reward == paid and ended == fell and not cut and info["return"] == pytest.approx(total)
        if fell:
            break
    assert fell == (name != "HalfCheetah-v5") and not info["success"]
    assert env.unwrapped.control_hz == pytest.approx(1 / native.dt)


def test_a_runner_succeeds_when_it_stands_to_the_last_step_and_a_rollout_tells_the_return():
    class Still:
        def reset(self, seeds=None, mask=None): ...

        def select_action(self, observation, active=None):
            return np.zeros((len(observation["state"]), 6))

    world = Locomotion("HalfCheetah-v5", steps=30)
    world.reset(0)
    told = []
    for _ in range(30):
        world.step(np.zeros(6))
        told.append(world.info()["success"])
    assert told == [False] * 29 + [True]
    (one,) = rollout(Still(), "HalfCheetah-v5", [0], max_steps=20)
    assert one.steps == 20 and not one.success and -20 < one.info["return"] < 20
    (one,) = rollout(Still(), "HalfCheetah-v5", [0])
    assert one.steps == 1000 and one.success


def test_pictures_show_the_goal_and_the_ball_and_a_runner_that_moves():
    env = make("Maze2D-UMaze-v0", observe=("rgb",))
    image = env.reset(seed=3)[0]["rgb"].astype(int)
    red = (image[..., 0] > 150) & (image[..., 1] < 120) & (image[..., 2] < 120)
    green = (image[..., 1] > image[..., 0] + 40) & (image[..., 1] > image[..., 2] + 40)
    assert red.sum() > 15 and green.sum() > 15
    world = make("Hopper-v5").unwrapped.world
    world.reset(0)
    here = world.frame(120, 160)
    world.data.qpos[0] += 0.5
    import mujoco

    mujoco.mj_forward(world.model, world.data)
    there = world.frame(120, 160)
    body = np.abs(here.astype(int) - here[0, 0]).max(-1) > 60
    assert body.sum() > 100, "no robot"
    changed = np.abs(here.astype(int) - there).max(-1) > 30
    assert 0 < changed.sum() < 200 and not changed[:85].any()  # the camera goes along: only the metres pass by


def test_a_maze_or_runner_that_is_none_is_told():
    with pytest.raises(ConfigError, match="no maze 'Ring'; there are UMaze, Medium, Large"):
        Maze2D("Ring")
    with pytest.raises(ConfigError, match="no runner 'Ant-v5'; there are Hopper-v5"):
        Locomotion("Ant-v5")
