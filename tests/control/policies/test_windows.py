import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError
from control.demonstrations.store import Episode
from control.policies.windows import WindowDataset


def counting(length, first=0):
    """States first, first + 1, ...; the action of a step is a hundred times its state."""
    state = np.arange(first, first + length + 1, dtype=np.float32)[:, None]
    return Episode({"state": state}, 100 * state[:-1], np.zeros(length, np.float32))


def test_a_window_holds_the_last_observations_and_the_actions_from_now_on():
    data = WindowDataset([counting(30)], horizon=4, observed=2)
    one = data[10]
    assert one["observation"]["state"][:, 0].tolist() == [9, 10]
    assert one["action"][:, 0].tolist() == [1000, 1100, 1200, 1300]


def test_diffusion_policys_alignment_begins_at_the_oldest_observation():
    one = WindowDataset([counting(30)], horizon=4, observed=2, offset=1)[10]
    assert one["action"][:, 0].tolist() == [900, 1000, 1100, 1200]


def test_edges_repeat_and_episodes_do_not_mix():
    data = WindowDataset([counting(6), counting(5, first=50)], horizon=4, observed=3, after=3)
    batch = data.batch(range(len(data)))
    states, actions = batch["observation"]["state"][..., 0], batch["action"][..., 0]
    assert states[0].tolist() == [0, 0, 0] and states[1].tolist() == [0, 0, 1]
    assert actions[5].tolist() == [500, 500, 500, 500]
    assert len(data) == 11
    assert states[6].tolist() == [50, 50, 50] and actions[6].tolist() == [5000, 5100, 5200, 5300]
    for row in torch.cat([states * 100, actions], 1):
        assert (row < 5000).all() or (row >= 5000).all()


@pytest.mark.parametrize("after, last", [(0, 26), (3, 29), (1, 27)])
def test_a_window_reaches_at_most_so_far_behind_its_episode(after, last):
    data = WindowDataset([counting(30)], horizon=4, after=after)
    assert data.batch([len(data) - 1])["observation"]["state"][0, -1, 0].item() == last


def test_a_batch_is_its_windows_one_by_one():
    data = WindowDataset([counting(30), counting(20, 100)], horizon=8)
    batch = data.__getitems__([3, 40, 7])
    for row, index in enumerate([3, 40, 7]):
        assert torch.equal(batch["action"][row], data[index]["action"])
        assert torch.equal(batch["observation"]["state"][row], data[index]["observation"]["state"])


def test_a_short_episode_still_gives_a_window_and_no_episodes_are_an_error():
    assert len(WindowDataset([counting(2)], horizon=16, after=7)) == 1
    with pytest.raises(DataError, match="collect demonstrations first"):
        WindowDataset([], horizon=4)
    with pytest.raises(DataError, match=r"lack \['rgb'\]; they hold \['state'\]"):
        WindowDataset([counting(5)], horizon=4, names=("rgb",))
    with pytest.raises(ConfigError, match="horizon 0"):
        WindowDataset([counting(5)], horizon=0)
