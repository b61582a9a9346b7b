"""Batches: every sample once, shares that make up the whole, and any epoch or batch by itself."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mirror_pl.data.sampler import EpochSampler
from mirror_pl.errors import ConfigError, DataError


def labels(reals: int, fakes: int) -> NDArray[np.int8]:
    return np.repeat(np.array([0, 1], np.int8), [reals, fakes])


def epoch(sampler: EpochSampler, number: int) -> list[list[tuple[int, int]]]:
    sampler.set_epoch(number)
    return list(sampler)


def ids(batches: list[list[tuple[int, int]]]) -> list[int]:
    return [sample_id for batch in batches for _, sample_id in batch]


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_processes_share_one_permutation(size: int, batch_size: int, ranks: int, number: int) -> None:
    """Every sample at most once, none left out but at the end; with one process the same global batches."""
    samplers = [EpochSampler(labels(size, 0), batch_size, 5, ranks, rank) for rank in range(ranks)]
    shares = [epoch(sampler, number) for sampler in samplers]
    together = size // (batch_size * ranks) * batch_size * ranks or size
    drawn = list(chain.from_iterable(ids(share) for share in shares))
    assert len(drawn) == len(set(drawn)) == together
    assert {len(share) for share in shares} == {len(samplers[0])}
    assert all(e == number for share in shares for batch in share for e, _ in batch)
    whole = epoch(EpochSampler(labels(size, 0), batch_size * ranks, 5), number)
    assert len(whole) == len(samplers[0])
    for number, batch in enumerate(whole):
        assert sorted(ids([share[number] for share in shares])) == sorted(ids([batch]))


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, number: int) -> list[int]:
        return ids(epoch(EpochSampler(labels(50, 50), 10, seed), number))

    orders = [order(seed, number) for seed in (0, 1) for number in (0, 1)]
    assert all(sorted(one) == list(range(100)) for one in orders)
    assert len({tuple(one) for one in orders}) == 4
    assert order(0, 1) == orders[1]


def test_balanced() -> None:
    """As many of each class; the larger one once each, the smaller one in whole permutations and a part."""
    sampler = EpochSampler(labels(10, 25), 5, 0, balanced=True)
    assert len(sampler) == 10
    drawn = np.array(ids(epoch(sampler, 3)))
    times = np.bincount(drawn, minlength=35)
    assert (times[10:] == 1).all()
    assert sorted(times[:10].tolist()) == [2] * 5 + [3] * 5
    other = np.bincount(ids(epoch(sampler, 4)), minlength=35)
    assert (other[:10] != times[:10]).any(), "others are drawn a third time"
    assert 5 <= (drawn[:25] < 10).sum() <= 20, "mixed"
    even = EpochSampler(labels(8, 8), 4, 0, balanced=True)
    assert sorted(ids(epoch(even, 0))) == list(range(16))


def test_after_the_last_batch_comes_the_next_epoch() -> None:
    sampler = EpochSampler(labels(9, 4), 3, 0)
    sampler.begin_at(1, 4)
    assert sampler.place == (2, 0)
    assert list(sampler) == epoch(EpochSampler(labels(9, 4), 3, 0), 2)


@pytest.mark.parametrize("batch", [0, 1, 3, 7])
def test_resumed_inside_an_epoch(batch: int) -> None:
    sampler = EpochSampler(labels(20, 13), 2, 1, ranks=2, rank=1)
    assert len(sampler) == 8
    whole = [epoch(sampler, number) for number in range(3)]
    resumed = EpochSampler(labels(20, 13), 2, 1, ranks=2, rank=1)
    resumed.begin_at(1, batch)
    assert len(resumed) == 8
    assert list(resumed) == whole[1][batch:]
    assert epoch(resumed, 1) == whole[1][batch:], "named again by Lightning: still where it was resumed"
    assert epoch(resumed, 2) == whole[2]


def test_a_pass_is_decided_when_it_begins() -> None:
    """A loader reads ahead; naming the next epoch must not change the pass under way."""
    sampler = EpochSampler(labels(9, 0), 3, 0)
    expected = [epoch(sampler, 0), epoch(sampler, 1)]
    sampler.set_epoch(0)
    under_way = iter(sampler)
    sampler.set_epoch(1)
    assert [list(under_way), list(sampler)] == expected


def test_what_cannot_be() -> None:
    for changes in ({"batch_size": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            EpochSampler(**({"labels": labels(3, 3), "batch_size": 1, "seed": 0} | changes))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no image"):
        EpochSampler(labels(0, 0), 1, 0)
    with pytest.raises(DataError, match="none that is fake"):
        EpochSampler(labels(3, 0), 1, 0, balanced=True)
    for place in ((0, 4), (-1, 0), (0, -1)):
        with pytest.raises(ConfigError, match="an epoch has 3 batches"):
            EpochSampler(labels(3, 0), 1, 0).begin_at(*place)
