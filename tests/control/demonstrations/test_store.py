import json

import numpy as np
import pytest

from common.errors import DataError
from control.demonstrations.collect import Settings, collect
from control.demonstrations.load import check_task, read_episodes
from control.demonstrations.store import Episode, read_minari, task_of, write_minari
from control.envs import make
from control.workers import local_pool

ENDS = ((True, None), (False, None), (False, True), (True, False))  # success, terminated


def episodes():
    draws, found = np.random.default_rng(0), []
    for number, (success, terminated) in enumerate(ENDS):
        steps = 3 + number
        state, rewards = draws.normal(size=(steps + 1, 11)).astype("f4"), draws.normal(size=steps).astype("f4")
        actions = draws.uniform(-1, 1, (steps, 3)).astype("f4")
        found.append(Episode({"state": state}, actions, rewards, success, number, terminated=terminated))
    return found


def written(folder, found=None, **description):
    described = {"task": "Hopper-v5", "ref_min_score": -20.27, "ref_max_score": 3234.3, **description}
    return write_minari(folder, found or episodes(), make("Hopper-v5"), identifier="tutelage/hopper-v0",
                        description=described)  # fmt: skip


def test_a_round_trip_gives_equal_arrays_one_observation_more_and_how_each_episode_ended(tmp_path):
    back = read_minari(written(tmp_path / "set"))
    for one, wanted in zip(back, episodes(), strict=True):
        np.testing.assert_array_equal(one.observations["state"], wanted.observations["state"])
        np.testing.assert_array_equal(one.actions, wanted.actions)
        np.testing.assert_array_equal(one.rewards, wanted.rewards)
        assert len(one.observations["state"]) == len(one.actions) + 1 and one.seed == wanted.seed
    assert [one.terminated for one in back] == [True, False, True, False]  # where not given: if it succeeded
    assert [one.success for one in back] == [success for success, _ in ENDS]


def test_minaris_own_reader_sees_the_ends_and_the_reference_scores(tmp_path):
    import minari

    found = minari.MinariDataset(written(tmp_path / "set") / "data")
    ends = [(one.terminations[-1], one.truncations[-1]) for one in found.iterate_episodes()]
    assert ends == [(True, False), (False, True), (True, False), (False, True)]
    assert not any(one.terminations[:-1].any() or one.truncations[:-1].any() for one in found.iterate_episodes())
    assert minari.get_normalized_score(found, np.array([3234.3, -20.27])) == pytest.approx([1, 0])


def test_a_data_set_of_another_task_is_refused_by_name(tmp_path):
    folder = written(tmp_path / "set")
    check_task(folder, "Hopper-v5")
    check_task(folder, "tutelage/Hopper-v5")
    with pytest.raises(DataError, match=r"set holds Hopper-v5, wanted Maze2D-UMaze-v0: take a data set of that task"):
        check_task(folder, "Maze2D-UMaze-v0")
    older = written(tmp_path / "older", task=None, description=json.dumps({"task": "Walker2d-v5"}))
    assert task_of(older) == "Walker2d-v5"
    nameless = written(tmp_path / "nameless", task=None)
    assert task_of(nameless) is None
    check_task(nameless, "Hopper-v5", read_episodes(nameless))
    with pytest.raises(DataError, match=r"nameless holds .*\(11,\).*wanted .*\(17,\).*a data set of another task"):
        check_task(nameless, "HalfCheetah-v5")


def test_a_collection_says_of_which_task_it_is(tmp_path):
    collect(Settings("tutelage/TwoRoutes-v0"), tmp_path / "set", 1, pool=local_pool(1), progress=False)
    assert task_of(tmp_path / "set") == "TwoRoutes-v0"
    check_task(tmp_path / "set", "TwoRoutes-v0")
    with pytest.raises(DataError, match="holds TwoRoutes-v0, wanted PushT-v0"):
        check_task(tmp_path / "set", "PushT-v0")


def test_rewards_that_are_not_finite_are_named_with_file_and_episode(tmp_path):
    found = episodes()
    found[2].rewards[1] = np.nan
    folder = written(tmp_path / "set", found)
    with pytest.raises(DataError, match="set, episode 2: rewards holds values that are not finite: collect or export"):
        read_minari(folder)


def test_damaged_metadata_are_named(tmp_path):
    folder = written(tmp_path / "set")
    (folder / "data" / "metadata.json").write_text('{"task": "Hop')
    with pytest.raises(DataError, match=r"metadata\.json cannot be read .*collect or download"):
        task_of(folder)
