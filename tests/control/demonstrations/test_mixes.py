import json

import numpy as np
import pytest
import torch
from tqdm import tqdm

from common.errors import ConfigError
from control.demonstrations.agent import agent_of
from control.demonstrations.collect import main
from control.demonstrations.load import check_task
from control.demonstrations.mixes import agent_episode, collect_mix, record, sources, stages
from control.demonstrations.store import minari_metadata, read_minari
from control.envs import make
from control.workers import local_pool

TASK = "Hopper-v5"
SMALL = dict(n_steps=64, batch_size=32, n_epochs=1, policy_kwargs=dict(net_arch=[8]))


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


def ready(folder, name, seed):
    """An untrained agent of stable-baselines3 as a ready one."""
    import gymnasium as gym
    from stable_baselines3 import PPO

    folder.mkdir(exist_ok=True)
    model = PPO("MlpPolicy", gym.make(TASK), seed=seed, device="cpu", policy_kwargs=dict(net_arch=[8]))
    model.save(folder / f"{name}.zip")
    return model


@pytest.fixture(scope="module")
def agent():
    import gymnasium as gym
    from stable_baselines3 import PPO

    return agent_of(PPO("MlpPolicy", gym.make(TASK), seed=0, device="cpu").policy.state_dict(), TASK, "untrained")


def test_an_episode_holds_the_executed_actions_and_its_fall(agent):
    one = agent_episode(agent, TASK, 3)
    env = make(TASK)
    state = env.reset(seed=3)[0]["state"]
    for step, action in enumerate(one.actions):
        np.testing.assert_array_equal(state, one.observations["state"][step])
        observation, reward, ended, cut, _ = env.step(action)
        state = observation["state"]
        assert reward == pytest.approx(one.rewards[step], abs=1e-5) and not cut
        assert ended == (step == len(one) - 1)
    assert one.terminated is True and one.success is False and len(one) < 200
    np.testing.assert_array_equal(state, one.observations["state"][-1])


def test_the_time_limit_does_not_terminate(agent):
    one = agent_episode(agent, TASK, 0, make(TASK, max_steps=5))
    assert len(one) == 5 and one.terminated is False


def test_what_is_recorded_does_not_depend_on_the_pool_and_ends_with_the_episode_that_is_enough(agent):
    found = []
    for pool in (local_pool(1), Backwards()):
        with pool as workers:
            found.append(record(agent, TASK, 300, range(10, 60), workers, tqdm(disable=True)))
    assert [one.seed for one in found[0]] == list(range(10, 10 + len(found[0])))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a.observations["state"], b.observations["state"])
        np.testing.assert_array_equal(a.actions, b.actions)
    lengths = [len(one) for one in found[0]]
    assert sum(lengths) >= 300 > sum(lengths[:-1])
    with local_pool(1) as workers, pytest.raises(ConfigError, match=r"3 episodes are only .* of 3000 steps"):
        record(agent, TASK, 3000, range(3), workers, tqdm(disable=True))


def test_stages_are_spread_from_the_first_agent_to_the_medium_one():
    assert stages(200, list(range(0, 1001, 10))) == [0, 20, 40, 70, 90, 110, 130, 160, 180, 200]
    assert stages(20, [20, 0, 10, 30]) == [0, 10, 20]


def test_the_command_mixes_ready_agents_half_and_half(tmp_path, capsys):
    agents, out = tmp_path / "agents", tmp_path / "hopper-medium-expert-like"
    ready(agents, "medium", 0)
    ready(agents, "expert", 1)
    command = [TASK, str(out), "--mix", "medium-expert", "--steps", "400", "--agents", str(agents), "--workers", "1"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "hopper-medium-expert-like" and told["steps"] >= 400
    assert all(200 <= told["agents"][kind]["steps"] < 400 for kind in ("medium", "expert"))
    found = read_minari(out)
    assert len(found) == told["episodes"] == told["terminated"] and all(one.terminated for one in found)
    returns = [one.rewards.sum() for one in found]
    assert told["return_mean"] == pytest.approx(np.mean(returns), abs=0.06)
    held = minari_metadata(out)
    assert held["dataset_id"] == "tutelage/hopper-medium-expert-like-v0" and held["ref_max_score"] == 3234.3
    check_task(out, TASK)
    assert main(command) == 2 and "exists: remove it" in capsys.readouterr().err


class Interrupted(local_pool):
    """A pool of this process that counts its tasks and is interrupted before it gives the result `stop`."""

    given = 0

    def __init__(self, stop=None):
        super().__init__(1)
        self.stop = stop

    def submit(self, function, *arguments):
        self.given += 1
        super().submit(function, *arguments)

    def next(self):
        if self.given == self.stop:
            raise KeyboardInterrupt
        return super().next()


def test_a_killed_recording_goes_on_where_it_stopped_unless_the_agents_are_others(tmp_path):
    agents = tmp_path / "agents"
    ready(agents, "medium", 0)
    given = (TASK, tmp_path / "set", "medium", 600, agents)
    with pytest.raises(KeyboardInterrupt):
        collect_mix(*given, pool=Interrupted(4), progress=False)
    assert not (tmp_path / "set").exists() and len(list((tmp_path / "set.collecting" / "0").glob("[0-9].npz"))) == 3
    whole, rest = Interrupted(), Interrupted()
    told = collect_mix(*given, pool=rest, progress=False)
    wanted = collect_mix(TASK, tmp_path / "whole", *given[2:], pool=whole, progress=False)
    assert told == wanted and rest.given == whole.given - 3 and not (tmp_path / "set.collecting").exists()
    for a, b in zip(read_minari(tmp_path / "set"), read_minari(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(a.observations["state"], b.observations["state"])
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.rewards, b.rewards)
        assert (a.seed, a.success, a.terminated) == (b.seed, b.success, b.terminated)
    with pytest.raises(KeyboardInterrupt):
        collect_mix(TASK, tmp_path / "other", *given[2:], pool=Interrupted(3), progress=False)
    ready(agents, "medium", 1)
    with pytest.raises(ConfigError, match=r"other\.collecting holds another collection.*choose another folder"):
        collect_mix(TASK, tmp_path / "other", *given[2:], progress=False)


def test_agents_are_trained_where_they_are_missing_and_too_short_a_training_is_told(tmp_path):
    options = dict(every=64, trials=1, options=SMALL)
    with pytest.raises(ConfigError, match=r"the best agent of 64 steps returns \d+, medium is 1e\+06: train longer"):
        sources(TASK, "medium", tmp_path / "one", 64, progress=False, medium=1e6, **options)
    found = sources(TASK, "medium-replay", tmp_path / "two", 192, progress=False, medium=-1e3, **options)
    assert found == [("step 0", tmp_path / "two" / "step_0.pth")]
    summary = collect_mix(TASK, tmp_path / "set", "medium-expert", 100, tmp_path / "two", agent_steps=128,
                          pool=local_pool(1), progress=False, medium=-1e3, **options)  # fmt: skip
    assert {row["file"] for row in summary["agents"].values()} == {"medium.pth", "expert.pth"}
    assert max(int(path.stem[5:]) for path in (tmp_path / "two").glob("iter_*")) == 128


def test_requests_that_cannot_be_are_answered_with_what_to_give(tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match="Hopper-v5 is recorded in steps: give --steps 100000 --mix medium-expert"):
        main([TASK, out])
    with pytest.raises(ConfigError, match="Hopper-v5: give --mix, one of medium, expert"):
        main([TASK, out, "--steps", "100"])
    with pytest.raises(ConfigError, match="--agent-steps: only together with --steps"):
        main(["TwoRoutes-v0", out, "--agent-steps", "100"])
    with pytest.raises(ConfigError, match="Maze2D-UMaze-v0 has no mixes"):
        collect_mix("Maze2D-UMaze-v0", tmp_path / "out", "medium", 10, tmp_path)
    with pytest.raises(ConfigError, match="mix 'mixed': choose one of medium, expert"):
        sources(TASK, "mixed", tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_hopper_learns_within_a_minute_or_two(tmp_path):
    """PPO with rl-zoo's hyperparameters stands for a while after 8,192 steps; an untrained one falls at once."""
    from control.demonstrations.agents import Training, train_agent

    torch.manual_seed(0)
    found = train_agent(Training(TASK, every=4096), tmp_path, 8192, progress=False)
    means = [mean for _, mean, _ in found["evaluations"]]
    assert means[0] < 50 and max(means) > 150
