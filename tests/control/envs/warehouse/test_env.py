"""The warehouse behind gymnasium and stable-baselines3: contracts, physics, rays, ends of episodes, the twin."""

import hashlib
import inspect
import subprocess
import sys
import time
import warnings

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from common.errors import ConfigError
from control.envs.warehouse import IDS, register_all
from control.envs.warehouse.env import AGVWarehouse, WarehouseVecEnv
from control.envs.warehouse.geometry import boxes_to_points, cast_rays
from control.envs.warehouse.layout import Layout, LayoutError, Mover, discs_at
from control.envs.warehouse.levels import LEVELS
from control.envs.warehouse.measures import Coverage, barn, sct, spl, summary
from control.envs.warehouse.task import ActionError
from control.envs.warehouse.world import RAY_RANGE, directions

register_all()
EMPTY = Layout("Empty", (20.0, 20.0), (), (10.0, 10.0), (18.0, 18.0), 10_000, start_jitter=0.0)


@pytest.mark.parametrize("name", IDS)
def test_both_checkers_pass_without_a_warning(name):
    env = gym.make(f"tutelage/AGVWarehouse-{name}-v0", render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
        sb3_check_env(env)
    env.reset(seed=1)
    for _ in range(1000):
        seen, _, ended, cut, _ = env.step(env.action_space.sample())
        assert env.observation_space.contains(seen)
        if ended or cut:
            env.reset()


def fingerprint(backend: str, seed: int) -> str:
    """Of all that 300 steps with everything random returned, over the ends of episodes."""
    env = AGVWarehouse("SimpleDynamic", backend, randomisation=True, max_steps=120, speed="reversible")
    draws, found = np.random.default_rng(0), hashlib.sha256()
    found.update(env.reset(seed=seed)[0].tobytes())
    for _ in range(300):
        seen, *rest = env.step(draws.uniform(-1, 1, 2))
        if rest[1] or rest[2]:
            seen = np.concatenate([seen, env.reset()[0]])
        found.update(seen.tobytes() + repr(rest).encode())
    return found.hexdigest()


def test_an_episode_is_a_function_of_seed_and_actions_in_every_process():
    script = "".join([
        "import hashlib\nimport numpy as np\nfrom control.envs.warehouse.env import AGVWarehouse\n",
        inspect.getsource(fingerprint),
        "for backend in ('mujoco', 'kinematic'):\n    print(fingerprint(backend, 5))\n",
    ])  # fmt: skip
    elsewhere = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert elsewhere.stdout.split() == [fingerprint(backend, 5) for backend in ("mujoco", "kinematic")]
    assert fingerprint("mujoco", 6) != fingerprint("mujoco", 5)


def action_for(speed: float, yaw: float) -> np.ndarray:
    return np.array([2 * speed - 1, yaw / 1.5])


@pytest.mark.parametrize("backend", ["mujoco", "kinematic"])
def test_a_constant_command_drives_a_circle(backend):
    env = AGVWarehouse(EMPTY, backend)
    env.reset(seed=0, options={"start": (10.0, 10.0, 0.0)})
    places = np.array([env.step(action_for(0.5, 1.0))[-1]["pose"] for _ in range(60)])[10:, :2]
    A = np.column_stack([places, np.ones(len(places))])
    a, b, c = np.linalg.lstsq(A, -(places**2).sum(1), rcond=None)[0]
    assert np.sqrt((a**2 + b**2) / 4 - c) == pytest.approx(0.5, rel=0.01)


def test_the_twin_ends_where_mujoco_does():
    draws = np.random.default_rng(0)
    for _ in range(5):
        actions, ends = draws.uniform(-1, 1, (50, 2)), []
        for backend in ("mujoco", "kinematic"):
            env = AGVWarehouse(EMPTY, backend)
            env.reset(seed=0, options={"start": (10.0, 10.0, 1.0)})
            for action in actions:
                pose = env.step(action)[-1]["pose"]
            ends.append(pose)
        (x0, y0, h0), (x1, y1, h1) = ends
        assert np.hypot(x1 - x0, y1 - y0) < 0.10 and abs(np.degrees(h1 - h0)) < 5


def test_the_vehicle_does_not_slip_and_does_not_tunnel_a_thin_wall():
    env = AGVWarehouse(EMPTY)
    env.reset(seed=0, options={"start": (10.0, 10.0, 0.0)})
    for _ in range(20):
        env.step(action_for(0.5, 1.0))
    data = env.warehouse.world.data
    heading, (vx, vy, _) = data.qpos[2], data.qvel
    assert abs(vy * np.cos(heading) - vx * np.sin(heading)) < 0.03
    wall = Layout("Wall", (8.0, 8.0), ((4.0, 0.0, 4.1, 7.0),), (1.0, 1.0), (7.0, 1.0), 100, start_jitter=0.0)
    for backend in ("mujoco", "kinematic"):
        env = AGVWarehouse(wall, backend, collision="block")
        env.reset(seed=0, options={"start": (2.0, 1.0, 0.0)})
        xs = [env.step(np.array([1.0, 0.0]))[-1]["pose"][0] for _ in range(40)]
        assert max(xs) < 4.0 - 0.25 + 0.03 and env.warehouse.contacts[0] > 10


def random_places(env: AGVWarehouse, count: int, seed: int = 0):
    draws, size = np.random.default_rng(seed), np.array(env.layouts.size)
    return np.column_stack([draws.uniform(0.2, 0.8, (count, 2)) * size, draws.uniform(-np.pi, np.pi, count)])


def test_mujocos_rays_equal_the_analytic_ones():
    env = AGVWarehouse("ComplexDynamic")
    env.reset(seed=0)
    hall, world, checked = env.warehouse, env.warehouse.world, 0
    for pose in random_places(env, 1000):
        inside = boxes_to_points(pose[None, :2], hall.boxes[0]).min() < 0.01
        at = discs_at(hall.movers, hall.time)
        if inside or (np.linalg.norm(at[0, :, :2] - pose[:2], axis=1) < at[0, :, 2] + 0.01).any():
            continue
        world.data.qpos[:] = pose
        world._read()
        found = world.rays(hall.movers, hall.time)
        wanted = cast_rays(pose[None, :2], directions(pose[None, 2]), hall.boxes, at, RAY_RANGE)
        assert np.abs(found - wanted).max() < 1e-6
        assert (found[wanted >= RAY_RANGE] == RAY_RANGE).all()
        checked += 1
    assert checked > 800


def test_a_ray_beyond_its_range_reads_one_and_none_hits_the_hull():
    env = AGVWarehouse(EMPTY)
    seen, _ = env.reset(seed=0, options={"start": (10.0, 10.0, 0.3)})
    assert (seen[:36] == 1.0).all()


def test_mujocos_contacts_are_where_hull_and_boxes_meet():
    env = AGVWarehouse("Complex")
    env.reset(seed=0)
    world, checked = env.warehouse.world, 0
    for pose in random_places(env, 1000):
        gap = boxes_to_points(pose[None, :2], env.warehouse.boxes[0]).min() - 0.25
        if abs(gap) > 0.005:
            world.data.qpos[:], world.data.qvel[:] = pose, 0
            mujoco.mj_forward(world.model, world.data)
            assert (world.data.ncon > 0) == (gap < 0)
            checked += 1
    assert checked > 900


def test_an_episode_ends_once_and_its_outcomes_add_up():
    env = AGVWarehouse("Simple", max_steps=7)
    env.reset(seed=0, options={"goal": (7.0, 7.0)})
    *_, info = [env.step(np.array([-1.0, 1.0])) for _ in range(6)][-1]
    assert "spl" not in info
    _, reward, ended, cut, info = env.step(np.array([-1.0, 1.0]))
    assert cut and not ended and reward == 0 and info["is_timeout"]
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(2))
    env.reset(seed=0, options={"start": (1.0, 1.0, 0.0), "goal": (1.7, 1.0)})
    while True:
        _, reward, ended, cut, info = env.step(np.array([1.0, 0.0]))
        if ended:
            break
    assert reward == 1.0 and not cut and info["is_success"] and info["success"]
    assert info["is_success"] + info["is_collision"] + info["is_timeout"] == 1
    last = AGVWarehouse("Simple", max_steps=round(info["time_to_goal"] / 0.2))
    last.reset(seed=0, options={"start": (1.0, 1.0, 0.0), "goal": (1.7, 1.0)})
    for _ in range(last.warehouse.limit[0]):
        _, reward, ended, cut, _ = last.step(np.array([1.0, 0.0]))
    assert (reward, ended, cut) == (1.0, True, False)  # the goal with the last step: not cut
    assert info["shortest_path"] == pytest.approx(0.2) and info["path_length"] >= 0.98 * 0.2


def test_a_collision_ends_the_episode_or_blocks_the_vehicle():
    for backend in ("mujoco", "kinematic"):
        for mode, ends in (("terminate", True), ("block", False)):
            env = AGVWarehouse("Simple", backend, collision=mode, reward="sparse_collision")
            env.reset(seed=0, options={"start": (1.0, 3.0, np.pi / 2)})
            rewards = []
            for _ in range(10):
                _, reward, ended, _, info = env.step(np.array([1.0, 0.0]))
                rewards.append(reward)
                if ended:
                    break
            assert ended is ends and min(rewards) == pytest.approx(-0.1)
            if ended:
                assert info["is_collision"] and info["min_clearance"] < 0.01


def test_a_mover_that_runs_into_the_vehicle_is_a_collision_in_both():
    layout = Layout("Mover", (8.0, 8.0), (), (4.0, 4.0), (7.0, 7.0), 300, (Mover((1.0, 4.0), (7.0, 4.0)),), 0.0)
    for backend in ("mujoco", "kinematic"):
        env = AGVWarehouse(layout, backend)
        env.reset(seed=0)
        for _ in range(80):
            _, _, ended, _, info = env.step(np.array([-1.0, 0.0]))
            if ended:
                break
        assert ended and info["is_collision"]


def test_rewards_beyond_the_sparse_one():
    env = AGVWarehouse("Simple", "kinematic", reward="shaped", gamma=1.0)
    env.reset(seed=0, options={"start": (1.0, 1.0, 0.0)})
    before = env.warehouse.potential[0]
    total = sum(env.step(np.array([1.0, 0.0]))[1] for _ in range(10))
    assert total == pytest.approx(env.warehouse.potential[0] - before) and total > 0
    env = AGVWarehouse("Simple", "kinematic", reward="sparse_step")
    env.reset(seed=0)
    assert env.step(np.array([-1.0, 0.0]))[1] == pytest.approx(-1 / 200)


def test_without_the_pose_the_observation_is_the_rest_of_it():
    full, blind = AGVWarehouse("Simple"), AGVWarehouse("Simple", observe_pose=False)
    a, b = full.reset(seed=3)[0], blind.reset(seed=3)[0]
    assert blind.observation_space.shape == (43,) and np.array_equal(np.delete(a, slice(41, 45)), b)


def test_the_observation_says_where_the_goal_is():
    env = AGVWarehouse(EMPTY)
    seen, _ = env.reset(seed=0, options={"start": (10.0, 10.0, 0.0), "goal": (10.0, 14.0)})
    assert seen[36] == pytest.approx(4 / EMPTY.diagonal) and seen[37:39] == pytest.approx([0, 1], abs=1e-6)
    hidden = AGVWarehouse("Simple", goal_visibility="line_of_sight")
    assert hidden.reset(seed=0)[0][36:39] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("mode", ["random", "moving"])
def test_goals_may_be_anywhere_and_may_move(mode):
    layout = Layout("Goals", (8.0, 8.0), LEVELS["Simple"].boxes, (1.0, 1.0), (1.0, 7.0), 50, start_jitter=0.3,
                    goal_mode=mode, goal_end=(6.0, 7.0))  # fmt: skip
    env = AGVWarehouse(layout, "kinematic")
    goals = set()
    for seed in range(4):
        env.reset(seed=seed)
        goals.add(tuple(env.warehouse.goal[0]))
    assert len(goals) == 4
    before = env.warehouse.goal[0].copy()
    env.step(np.array([-1.0, 0.0]))
    assert np.linalg.norm(env.warehouse.goal[0] - before) == pytest.approx(0.06 if mode == "moving" else 0, abs=1e-6)


@pytest.mark.parametrize("randomisation", [False, True])
def test_a_row_of_many_is_an_environment_of_its_own(randomisation):
    many = WarehouseVecEnv(3, "SimpleDynamic", randomisation=randomisation)
    many.seed(11)
    alone = [AGVWarehouse("SimpleDynamic", "kinematic", randomisation=randomisation) for _ in range(3)]
    seen = many.reset()
    single = [env.reset(seed=11 + i)[0] for i, env in enumerate(alone)]
    assert np.array_equal(seen, np.stack(single))
    draws = np.random.default_rng(0)
    for _ in range(60):
        actions = draws.uniform(-1, 1, (3, 2))
        seen, rewards, dones, infos = many.step(actions)
        for i, env in enumerate(alone):
            one, reward, ended, cut, info = env.step(actions[i])
            assert np.allclose(infos[i]["pose"], info["pose"]) and dones[i] == (ended or cut) and rewards[i] == reward
            if ended or cut:
                assert np.allclose(infos[i]["terminal_observation"], one, atol=1e-6)
                one = env.reset()[0]
            assert np.allclose(seen[i], one, atol=1e-6)


def test_wrong_arguments_and_actions_are_refused():
    for kwargs, message in (
        ({"layout": "Simpel"}, "Simpel"), ({"backend": "unity"}, "backend"), ({"reward": "dense"}, "reward"),
        ({"rewards": "x"}, "unknown option"), ({"randomisation": {"ray_noise": -1}}, "ray_noise"),
        ({"randomisation": {"rain": 1}}, "rain"), ({"render_mode": "ascii"}, "render_mode"),
        ({"max_steps": 0}, "max_steps"), ({"movers": 3}, "for layout='Random'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            AGVWarehouse(**kwargs)
    env = AGVWarehouse("Simple", "kinematic")
    env.reset(seed=0)
    for action, message in (
        (np.zeros(3), r"shape \(3,\): wanted \(2,\)"),
        ([np.nan, 0], "clip it"),
        ([0, -1.1], "clip it"),
    ):
        with pytest.raises(ActionError, match=message):
            env.step(action)
    with pytest.raises(ActionError, match="clip it"):
        WarehouseVecEnv(2).step(np.full((2, 2), 2.0))
    for options, message in (
        ({"goal": (5.5, 2.2)}, "inside a wall or shelf.*move it"), ({"goal": (1.0, 2.0, 3.0)}, "goal=.*finite x, y"),
        ({"start": (1.0, 1.0, np.nan)}, "start=.*heading"), ({"start": (1.0,)}, "start="),
    ):  # fmt: skip
        with pytest.raises(LayoutError, match=message):
            env.reset(options=options)
    with pytest.raises(gym.error.ResetNeeded):  # half an episode is none
        env.step(np.zeros(2))
    for options in ({"layout_sed": 1}, {"layout_seed": 1}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            env.reset(options=options)


def test_measures_by_hand():
    assert spl(True, 12.0, 9.0) == 0.75 and spl(True, 8.0, 9.0) == 1.0 and spl(False, 9.0, 9.0) == 0.0
    assert sct(True, 20.0, 10.0) == 0.5 and barn(True, 15.0, 10.0) == 0.5 and barn(True, 100.0, 10.0) == 0.125
    common = {"sct": 0, "barn": 0, "min_clearance": 0.1, "yaw_change": 0.0}
    rows = [
        {"is_success": True, "is_collision": False, "is_timeout": False, "spl": 1.0, "path_length": 2.0,
         "shortest_path": 1.0, "time_to_goal": 3.0, **common},
        {"is_success": False, "is_collision": True, "is_timeout": False, "spl": 0.0, "path_length": 2.0,
         "shortest_path": 1.0, "time_to_goal": None, **common},
    ]  # fmt: skip
    found = summary(rows)
    assert found["success"] == found["collision"] == 0.5 and found["path_ratio"] == 2.0 and found["time_to_goal"] == 3.0
    assert found["success_low"] < 0.5 < found["success_high"]
    cover = Coverage((8.0, 8.0), 4)
    cover.add(np.array([[0.0, 0.0], [7.9, 7.9], [7.9, 7.9], [8.5, -1]]))
    assert cover.share == 3 / 16 and cover.visits.sum() == 4


def test_a_step_costs_little_more_than_its_physics_and_its_rays():
    """In turns and in processor time: a busy machine slows both. At twice as much, 5,000 steps fit in a second on the
    machine of benchmarks/results/agv_throughput.md."""
    env = AGVWarehouse("Simple", collision="block", max_steps=10**6)
    env.reset(seed=0)
    hall, action = env.warehouse, np.array([0.0, 0.3])
    world = hall.world

    def bare():
        mujoco.mj_step(world.model, world.data, nstep=10)
        world.rays(hall.movers, hall.time)

    ratios = []
    for _ in range(7):
        seconds = []
        for work in (lambda: env.step(action), bare):
            begun = time.process_time()
            for _ in range(200):
                work()
            seconds.append(time.process_time() - begun)
        ratios.append(seconds[0] / seconds[1])
    print(f"a step costs {np.median(ratios):.2f} times its physics and rays")
    assert np.median(ratios) < 2.5
