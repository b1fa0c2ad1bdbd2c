import h5py
import numpy as np
import pytest

from common.errors import DataError
from control.demonstrations.collect import Settings, collect
from control.demonstrations.d4rl import maze_episodes, read_d4rl
from control.demonstrations.load import check_task, read_episodes
from control.demonstrations.mazes import stream
from control.workers import local_pool

LENGTHS = (4, 1, 6, 3)
ENDED = (True, True, False, None)  # terminated, cut by the time limit, unfinished when the file was written


def columns(width=11, actions=3, seed=0):
    """A file's arrays: episodes of `LENGTHS`, every observation another number."""
    draws, total = np.random.default_rng(seed), sum(LENGTHS)
    found = {
        "observations": draws.normal(size=(total, width)).astype("f4"),
        "next_observations": draws.normal(size=(total, width)).astype("f4"),
        "actions": draws.uniform(-1, 1, (total, actions)).astype("f4"),
        "rewards": np.arange(total, dtype="f4"),
        "terminals": np.zeros(total, bool),
        "timeouts": np.zeros(total, bool),
    }
    begin = 0
    for length, ended in zip(LENGTHS, ENDED, strict=True):
        found["next_observations"][begin : begin + length - 1] = found["observations"][begin + 1 : begin + length]
        begin += length
        if ended is not None:
            found["terminals" if ended else "timeouts"][begin - 1] = True
    return found


def write(path, arrays, **more):
    with h5py.File(path, "w") as file:
        for name, values in {**arrays, **more}.items():
            file[name] = values
        file["infos/qpos"] = np.zeros((sum(LENGTHS), 6))
    return path


def test_every_transition_comes_back_in_its_episode_with_how_it_ended(tmp_path):
    arrays = columns()
    path = write(tmp_path / "hopper-medium-v2.hdf5", arrays)
    found = read_d4rl(path)
    assert [len(one) for one in found] == list(LENGTHS)
    assert [one.terminated for one in found] == [True, True, False, False]
    state = [one.observations["state"] for one in found]
    np.testing.assert_array_equal(np.concatenate([one[:-1] for one in state]), arrays["observations"])
    np.testing.assert_array_equal(np.concatenate([one[1:] for one in state]), arrays["next_observations"])
    np.testing.assert_array_equal(np.concatenate([one.actions for one in found]), arrays["actions"])
    np.testing.assert_array_equal(np.concatenate([one.rewards for one in found]), arrays["rewards"])
    assert len(read_episodes(path)) == 4
    check_task(path, "Hopper-v5")
    with pytest.raises(DataError, match=r"medium-v2\.hdf5 holds .*\(11,\).*wanted .*\(17,\).* of Walker2d-v5"):
        check_task(path, "Walker2d-v5")


def test_without_next_observations_the_transition_that_leads_nowhere_is_left_out(tmp_path):
    arrays = columns()
    del arrays["next_observations"]
    found = read_d4rl(write(tmp_path / "maze.h5", arrays))
    assert [len(one) for one in found] == [3, 5, 2] and [one.terminated for one in found] == [True, False, False]
    np.testing.assert_array_equal(found[1].observations["state"], arrays["observations"][5:11])
    np.testing.assert_array_equal(found[1].rewards, [5, 6, 7, 8, 9])


def test_bad_files_are_named(tmp_path):
    arrays = columns()
    path = tmp_path / "set.hdf5"
    missing = {name: values for name, values in arrays.items() if name != "timeouts"}
    with pytest.raises(DataError, match=r"set\.hdf5 is no D4RL data set.*no timeouts \(it holds actions, infos"):
        read_d4rl(write(path, missing))
    with pytest.raises(DataError, match=r"set\.hdf5: .*'rewards': 13.*wanted as many of each"):
        read_d4rl(write(path, {**arrays, "rewards": arrays["rewards"][:-1]}))
    nan = arrays["rewards"].copy()
    nan[7] = np.nan
    with pytest.raises(DataError, match=r"set\.hdf5, episode 2: rewards holds values that are not finite"):
        read_d4rl(write(path, {**arrays, "rewards": nan}))
    whole = write(path, arrays).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"set\.hdf5 cannot be read as HDF5"):
        read_d4rl(path)
    with pytest.raises(DataError, match=r"nothing\.hdf5: no such demonstrations"):
        read_episodes(tmp_path / "nothing.hdf5")
    collect(Settings("TwoRoutes-v0"), tmp_path / "minari", 1, pool=local_pool(1), progress=False)
    with pytest.raises(DataError, match="is the inside of a Minari data set: give its folder"):
        read_d4rl(tmp_path / "minari" / "data" / "main_data.hdf5")


def test_d4rls_mazes_are_turned_onto_our_axes_and_refused_before():
    task = "Maze2D-Medium-v0"
    ours, _ = stream(task, 0, 1, 0.0)
    (one,) = ours
    state, middle = one.observations["state"], 4.0
    # the inverse of the documented turn: cell (row, column) = D4RL's position + 0.2
    row, column = middle - 0.5 - state[:, 1], state[:, 0] + middle - 0.5
    theirs = np.stack([row - 0.2, column - 0.2, -state[:, 3], state[:, 2]], 1)
    foreign = type(one)({"state": theirs}, np.stack([-one.actions[:, 1], one.actions[:, 0]], 1), 0 * one.rewards)
    (back,) = maze_episodes([foreign], task)
    np.testing.assert_allclose(back.observations["state"], state, atol=1e-5)
    np.testing.assert_array_equal(back.actions, one.actions)
    np.testing.assert_array_equal(back.rewards, one.rewards)
    with pytest.raises(DataError, match=r"m of step \d+ is no floor of this maze: .*maze_episodes turns them"):
        check_task("set.hdf5", task, [foreign])
