from itertools import islice

import pytest

from common.engine.samplers import EndlessShuffle


def first(sampler, count):
    return list(islice(iter(sampler), count))


def test_every_epoch_shows_everything_once_in_a_new_order():
    drawn = first(EndlessShuffle(range(10), 4, seed=0), 30)
    epochs = [drawn[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("iteration", [0, 1, 2, 7, 100])
def test_a_resumed_sampler_goes_on_where_the_run_was(iteration):
    whole, resumed = (EndlessShuffle(range(10), 4, seed=3) for _ in range(2))
    resumed.set_start(iteration)
    assert first(resumed, 12) == first(whole, iteration * 4 + 12)[iteration * 4 :]


def test_the_ranks_share_what_one_process_would_see():
    one = EndlessShuffle(range(11), 4, seed=1)
    ranks = [EndlessShuffle(range(11), 2, seed=1) for _ in range(2)]
    for rank, sampler in enumerate(ranks):
        sampler.rank, sampler.world = rank, 2
        sampler.set_start(3)
    one.set_start(3)
    dealt = [value for pair in zip(*(first(sampler, 10) for sampler in ranks), strict=True) for value in pair]
    assert dealt == first(one, 20)
