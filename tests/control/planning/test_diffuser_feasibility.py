"""Measures of plans: 0 for what the simulators do, more for what they cannot, exact where a number is known."""

import numpy as np
import pytest

from control.envs import make
from control.planning.diffuser import feasibility


@pytest.fixture(scope="module")
def maze():
    return make("Maze2D-UMaze-v0").unwrapped.world


def driven(world, seed: int, steps: int) -> np.ndarray:
    """(1, steps + 1, S) what a world does under random actions."""
    world.reset(seed)
    draws, states = np.random.default_rng(seed), [world.state()]
    for _ in range(steps):
        world.step(draws.uniform(-1, 1, world.action_space.shape))
        states.append(world.state())
    return np.array(states)[None]


def test_a_simulated_way_is_feasible(maze):
    states = driven(maze, 3, 200)
    assert feasibility.in_walls(states, maze) == 0
    assert feasibility.kinematic_residual(states) < 2e-4  # float32 positions, over dt
    assert feasibility.kinematic_residual(states[:, ::8], 8) < 0.3  # a new force in every step of the eight
    assert feasibility.kinematic_residual(states[:, ::-8], 8) > 1  # backwards: no velocity fits


def test_a_way_through_the_wall_is_found_between_two_free_states(maze):
    ends = [maze.maze.cell_rowcol_to_xy(np.array(cell)) for cell in ((1, 1), (3, 1))]  # the wall of the U is between
    plan = np.zeros((2, 2, 4))
    plan[0, :, :2], plan[1, :, :2] = ends, [ends[0], ends[0] + 0.3]
    assert maze.on_floor(np.array(ends)).all()
    assert feasibility.in_walls(plan[:1], maze) == 1 and feasibility.in_walls(plan[1:], maze) == 0
    assert feasibility.in_walls(plan, maze) == 0.5
    plan[1, 1, :2] = 100
    assert feasibility.in_walls(plan[1:], maze) == 1  # outside is no floor


def test_residual_and_roughness_of_known_ways():
    t = np.arange(6) * 8 * feasibility.STEP
    bent = np.stack([0.5 * t**2, 0 * t, t, 0 * t], -1)[None]  # acceleration 1 m/s^2 along x
    assert feasibility.kinematic_residual(bent, 8) == pytest.approx(0, abs=1e-12)
    off = bent.copy()
    off[..., 3] += 0.25  # a velocity that the positions do not follow
    assert feasibility.kinematic_residual(off, 8) == pytest.approx(0.25)
    assert feasibility.roughness(bent) == pytest.approx((8 * feasibility.STEP) ** 4)
    assert feasibility.roughness(np.ones((2, 5, 4))) == 0


def test_a_runners_residual_is_0_with_the_true_actions_and_not_with_others():
    world = make("Hopper-v5").unwrapped.world
    world.reset(0)
    draws = np.random.default_rng(0)
    actions = draws.uniform(-1, 1, (5, 3))
    states = [world.state()]
    for action in actions:
        world.step(action)
        states.append(world.state())
    plans, spread = np.array(states)[None], np.ones(11)
    assert feasibility.dynamics_residual(plans, lambda a, b: actions, world, spread) < 1e-4
    assert feasibility.dynamics_residual(plans, lambda a, b: -actions, world, spread) > 0.05
