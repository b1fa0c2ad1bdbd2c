from collections import Counter
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import ConfigError
from perception.datasets import SceneSampler, SequenceBatchSampler, SequenceSampler
from perception.datasets import sampler as sampler_module
from perception.datasets.sampler import Walks, contiguous_share


def fake_dataset(lengths):
    ends = np.cumsum(lengths)
    return SimpleNamespace(sequences=[list(range(e - n, e)) for n, e in zip(lengths, ends, strict=True)])


@pytest.fixture
def as_rank(monkeypatch):
    """Pretend to be one rank of several."""
    return lambda rank, world: monkeypatch.setattr(sampler_module, "get_dist_info", lambda: (rank, world))


def batches(lengths, batch_size, count, seed=3, start=0):
    sampler = SequenceBatchSampler(SequenceSampler(fake_dataset(lengths), seed), batch_size)
    sampler.set_start(start)
    return list(islice(sampler, count))


LENGTHS = [5, 3, 7, 4, 4, 6, 1, 2]


def test_every_slot_walks_its_sequence_in_order_and_flags_its_start():
    dataset = fake_dataset(LENGTHS)
    firsts = {sequence[0] for sequence in dataset.sequences}
    for before, after in zip(*(lambda b: (b, b[1:]))(batches(LENGTHS, 3, 200)), strict=False):
        for old, new in zip(before, after, strict=True):
            assert new.start == (new.index in firsts)
            assert new.start or (new.index == old.index + 1 and new.walk == old.walk)


def test_an_epoch_deals_every_sequence_exactly_once():
    walks = Walks(LENGTHS, 3, seed=1)
    dealt = {walk: sequence for step in islice(walks.steps(), 200) for sequence, _, walk in step}
    for epoch in range(4):
        assert sorted(dealt[epoch * 8 + k] for k in range(8)) == list(range(8))


def test_epochs_and_seeds_have_their_own_order():
    def order(seed, epoch):
        walks = Walks(LENGTHS, 1, seed)
        return tuple(walks._sequence(epoch * len(LENGTHS) + k) for k in range(len(LENGTHS)))

    assert len({order(0, 0), order(0, 1), order(1, 0)}) == 3


@pytest.mark.parametrize("start", [1, 2, 9, 57, 400])
def test_a_jump_gives_the_same_batches_as_walking_there(start):
    assert batches(LENGTHS, 3, 5, start=start) == batches(LENGTHS, 3, start + 5)[start:]


def test_a_jump_over_forty_thousand_iterations_costs_one_deal_per_sequence_and_none_per_frame():
    walks = Walks([20] * 1400, 64, seed=0)
    deals = Counter()
    original = walks._sequence
    walks._sequence = lambda walk: deals.update(["deal"]) or original(walk)
    next(walks.steps(39_980))
    assert deals["deal"] == (39_980 // 20 + 1) * 64  # one per walk dealt, none per frame
    assert [f for _, f, _ in next(walks.steps(39_980))] == [0] * 64


def test_draw_numbers_are_unique_and_the_same_for_any_split_into_ranks(as_rank):
    whole = batches(LENGTHS, 4, 30)
    assert len({item.draw for batch in whole for item in batch}) == 4 * 30
    parts = []
    for rank in range(2):
        as_rank(rank, 2)
        parts.append(batches(LENGTHS, 2, 30))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_no_two_slots_share_a_walk_and_none_waits():
    for batch in batches(LENGTHS, 8, 100):
        assert len({item.walk for item in batch}) == 8


def test_more_slots_than_sequences_is_an_error_that_states_both_and_the_remedy(as_rank):
    as_rank(0, 4)
    with pytest.raises(ConfigError, match=r"12 batch slots .* only 8 sequences.*at most 8, raise split_sequences"):
        SequenceBatchSampler(SequenceSampler(fake_dataset(LENGTHS), 0), 3)


def test_another_sampler_under_the_batch_sampler_is_refused():
    with pytest.raises(ConfigError, match=r"sampler=dict\(type=SequenceSampler\), got list"):
        SequenceBatchSampler([1, 2], 3)


def test_evaluation_visits_every_sample_once_in_scene_order():
    items = list(SceneSampler(fake_dataset(LENGTHS)))
    assert [item.index for item in items] == list(range(sum(LENGTHS)))
    assert [item.index for item in items if item.start] == [0, 5, 8, 15, 19, 23, 29, 30]


@pytest.mark.parametrize("world", [1, 2, 3, 8, 11])
def test_ranks_share_whole_scenes_without_loss_or_repetition(as_rank, world):
    union = []
    for rank in range(world):
        as_rank(rank, world)
        sampler = SceneSampler(fake_dataset(LENGTHS))
        items = list(sampler)
        assert len(items) == len(sampler)
        assert not items or items[0].start
        union += [item.index for item in items]
    assert union == list(range(sum(LENGTHS)))


def test_shares_of_equal_scenes_are_equal():
    sequences = fake_dataset([40] * 16).sequences
    assert [len(contiguous_share(sequences, rank, 8)) for rank in range(8)] == [2] * 8
