"""Every registered task, by loops over the registry: gymnasium's checker, seeds, actions, observations."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from common.errors import ConfigError
from control.envs import TASKS, make
from control.envs.registry import METAWORLD

# one of each world in the fast suite; all in the slow one
FEW = ["MetaWorld-reach-v3", "MetaWorld-push-pushed-v0", "MetaWorld-reach-moving-v0", "TwoRoutes-v0", "PushT-v0",
       "PointMaze-Ring-v3", "FetchPush-v4"]  # fmt: skip
REST = sorted(set(TASKS) - set(FEW))


def both(names):
    return [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)]


def episode(env, seed, steps=25):
    """States of an episode under random actions of its own."""
    draws = np.random.default_rng(seed)
    states = [env.reset(seed=seed)[0]["state"]]
    for _ in range(steps):
        observation, _, ended, cut, _ = env.step(draws.uniform(env.action_space.low, env.action_space.high))
        states.append(observation["state"])
        if ended or cut:
            break
    return np.array(states)


@pytest.mark.parametrize("name", both(FEW))
def test_gymnasiums_checker_accepts_the_task(name):
    env = gym.make(f"tutelage/{name}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Box observation space m(in|ax)imum value is.*")
        warnings.filterwarnings("ignore", message=".*For Box action spaces.*")
        check_env(env.unwrapped, skip_render_check=True)
    assert env.spec.max_episode_steps == TASKS[name].max_steps


@pytest.mark.parametrize("name", both(FEW))
def test_an_episode_is_a_function_of_its_seed_whatever_ran_before(name):
    env = make(name)
    first = episode(env, 3)
    other = episode(env, 4)
    assert not np.array_equal(first[0], other[0]), "two seeds, one layout"
    np.random.seed(0)
    again = episode(env, 3)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, episode(make(name), 3))


@pytest.mark.parametrize("name", FEW)
def test_success_is_told_after_reset_and_step_and_a_random_start_is_none(name):
    env = make(name)
    assert env.reset(seed=0)[1]["success"] in (True, False)
    assert env.step(np.zeros(env.action_space.shape))[4]["success"] in (True, False)
    assert not any(env.reset(seed=seed)[1]["success"] for seed in range(3))


def test_a_reset_without_a_seed_continues_the_environments_own_stream():
    env = make("TwoRoutes-v0")
    env.reset(seed=1)
    a, b = (env.reset()[0]["state"] for _ in range(2))
    env.reset(seed=1)
    np.testing.assert_array_equal(env.reset()[0]["state"], a)
    assert not np.array_equal(a, b)


def test_actions_are_clipped_and_impossible_ones_refused():
    env = make("TwoRoutes-v0")
    env.reset(seed=0)
    a = env.step(np.array([9.0, 0.0]))[0]["state"]
    env.reset(seed=0)
    np.testing.assert_array_equal(a, env.step(np.array([1.0, 0.0]))[0]["state"])
    with pytest.raises(ValueError, match=r"action of shape \(3,\).*wanted \(2,\)"):
        env.step(np.zeros(3))
    with pytest.raises(ValueError, match="finite: False"):
        env.step(np.array([np.nan, 0.0]))


def test_a_step_before_the_reset_or_after_the_end_is_refused():
    env = make("TwoRoutes-v0").unwrapped
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step(np.zeros(2))
    env.reset(seed=0)
    while not env.step(np.array([0.0, 1.0]))[2]:
        pass
    with pytest.raises(gym.error.ResetNeeded, match="after the episode ended"):
        env.step(np.zeros(2))


def test_an_unknown_task_or_observation_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no task 'MetaWorld-raech-v3'; did you mean MetaWorld-reach"):
        make("MetaWorld-raech-v3")
    with pytest.raises(ConfigError, match="choose some of state, rgb, points"):
        make("TwoRoutes-v0", observe=("depth",))
    with pytest.raises(ConfigError, match="PushT has no depth camera"):
        make("PushT-v0", observe=("points",))


def test_the_list_of_meta_worlds_tasks_is_the_packages():
    pytest.importorskip("metaworld")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert sorted(METAWORLD) == sorted(ALL_V3_ENVIRONMENTS) and len(METAWORLD) == 50


@pytest.mark.parametrize("name", ["door-open-v3", "dial-turn-v3"])  # tasks that move bodies of the model
def test_environments_share_no_state_with_the_scene_that_is_compiled_once(name):
    pytest.importorskip("metaworld")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    used, rng = make(f"MetaWorld-{name}"), np.random.default_rng(0)
    used.reset(seed=1)
    ours, native = make(f"MetaWorld-{name}"), ALL_V3_ENVIRONMENTS[name]()
    kept = vars(ours.unwrapped.world.native)
    native.__dict__.update({key: kept[key] for key in ("_partially_observable", "_freeze_rand_vec", "seeded_rand_vec",
                                                       "_set_task_called", "max_path_length")})  # fmt: skip
    vars(native).pop("sawyer_observation_space", None)
    native.seed(7)
    expected = native.reset()[0]
    seen = ours.reset(seed=7)[0]["state"]
    for _ in range(20):
        np.testing.assert_array_equal(seen, expected.astype(np.float32))
        action = rng.uniform(-1, 1, 4).astype(np.float32)
        seen, expected = ours.step(action)[0]["state"], native.step(action)[0]
    other = used.unwrapped.world
    assert other.model is not ours.unwrapped.world.model
    assert not np.array_equal(other.model.body_pos, ours.unwrapped.world.model.body_pos)


@pytest.mark.parametrize("name", both(["MetaWorld-reach-v3"]))
def test_meta_worlds_goal_stays_visible_after_a_step(name):
    if not name.startswith("MetaWorld"):
        pytest.skip("not Meta-World")
    env = make(name)
    env.reset(seed=0)
    observation, *_ = env.step(np.zeros(4))
    np.testing.assert_allclose(observation["state"][36:], env.unwrapped.world.native._target_pos, atol=0.06)
    assert observation["state"][36:].any()


def test_going_straight_touches_the_obstacle_and_each_side_is_told():
    env = make("TwoRoutes-v0")
    env.reset(seed=0)
    info = {}
    while not info.get("collision"):
        *_, ended, cut, info = env.step(np.array([0.0, 1.0]))
        assert not cut
    assert ended and not info["success"]
    for side in (-1, 1):
        env.reset(seed=0)
        for action in [np.array([side, 0.0])] * 10 + [np.array([0.0, 1.0])] * 30:
            *_, info = env.step(action)
        assert info["side"] == side and not info["collision"]


def test_going_over_to_the_other_side_before_the_obstacle_is_counted_and_behind_it_is_not():
    env = make("TwoRoutes-v0")

    def follow(*legs):
        env.reset(seed=0)
        for direction, steps in legs:
            for _ in range(steps):
                *_, info = env.step(np.array(direction, float))
        return info

    left, right, ahead = (-1, 0), (1, 0), (0, 1)
    assert follow((right, 10), (ahead, 30))["switches"] == 0
    assert follow((right, 2), (left, 2), (right, 10))["switches"] == 0  # a hesitation in front of the middle
    once = follow((right, 6), (left, 14), (ahead, 30))
    assert once["switches"] == 1 and once["side"] == -1
    assert follow((right, 8), (left, 20), (right, 20))["switches"] == 2
    behind = follow((right, 11), (ahead, 33), (left, 25))
    assert behind["switches"] == 0 and behind["side"] == 1 and not behind["collision"]


def test_the_target_of_the_moving_reach_flees_at_its_speed_inside_its_box():
    env = make("MetaWorld-reach-moving-v0")
    target = episode(env, 0, 200)[:, 36:]
    speed = np.linalg.norm(np.diff(target, axis=0), axis=1) * 80
    assert np.median(speed[1:]) == pytest.approx(0.25, rel=1e-3)
    world = env.unwrapped.world
    assert (target >= world.LOW - 1e-6).all() and (target <= world.HIGH + 1e-6).all()


def test_the_puck_is_knocked_aside_once():
    env = make("MetaWorld-push-pushed-v0")
    env.reset(seed=5)
    puck = []
    for _ in range(80):
        observation, *_ = env.step(np.array([0, 0, 1.0, 0]))
        puck.append(observation["state"][4:6])
    jumps = np.linalg.norm(np.diff(puck, axis=0), axis=1)
    assert (jumps > 0.02).sum() == 1 and 0.02 < jumps.max() < 0.081


def test_push_ts_state_holds_the_corners_that_the_package_itself_computes():
    env = make("PushT-v0")
    observation, info = env.reset(seed=100_000)
    native = env.unwrapped.world.native
    corners = native.get_keypoints(native._block_shapes).flatten()
    np.testing.assert_allclose(observation["state"], [*native.agent.position, *corners], rtol=1e-5)
    assert 0 <= info["coverage"] < 0.95


def test_push_t_starts_where_the_published_evaluations_start():
    random = np.random.RandomState(100_003)
    agent = [random.randint(50, 450), random.randint(50, 450)]
    np.testing.assert_array_equal(make("PushT-v0").reset(seed=100_003)[0]["state"][:2], agent)
