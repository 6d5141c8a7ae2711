import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdsd.data import BucketBatchSampler, padding_share

DATA = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[2] / "../shared/data"))

durations = st.lists(st.floats(0.1, 20.0), min_size=1, max_size=60)
budgets = st.floats(1.0, 5.0)  # times the longest
seeds = st.integers(0, 2**31)


def plan(seconds, *, budget=None, **options):
    return list(BucketBatchSampler(seconds, max_batch_seconds=budget or 4 * max(seconds), **options))


@given(durations, budgets, seeds, st.booleans())
def test_every_utterance_is_in_exactly_one_batch(seconds, ratio, seed, by_length):
    batches = plan(seconds, budget=ratio * max(seconds), seed=seed, by_length=by_length)
    assert sorted(index for batch in batches for index in batch) == list(range(len(seconds)))
    assert all(batches)


@given(durations, budgets, seeds, st.booleans())
def test_no_batch_exceeds_the_budget_with_its_padding(seconds, ratio, seed, by_length):
    budget = ratio * max(seconds)
    for batch in plan(seconds, budget=budget, seed=seed, by_length=by_length):
        assert len(batch) * max(seconds[index] for index in batch) <= budget


@given(durations, seeds, st.integers(0, 1000))
def test_an_epoch_is_a_function_of_seed_and_epoch(seconds, seed, epoch):
    np.random.seed(seed % 100)  # no global state has a say
    first = plan(seconds, seed=seed, epoch=epoch)
    np.random.seed(1 + seed % 100)
    assert plan(seconds, seed=seed, epoch=epoch) == first


@given(durations, seeds, st.booleans(), st.integers(0, 70))
def test_first_leaves_out_the_batches_already_done(seconds, seed, by_length, first):
    options = {"seed": seed, "epoch": 3, "by_length": by_length}
    rest = BucketBatchSampler(seconds, max_batch_seconds=2 * max(seconds), first=first, **options)
    whole = plan(seconds, budget=2 * max(seconds), **options)
    assert list(rest) == whole[first:] and len(rest) == len(whole[first:])


def test_epochs_and_seeds_differ_in_order_and_in_company():
    seconds = np.random.default_rng(0).uniform(1, 5, 200).tolist()
    plans = [plan(seconds, seed=seed, epoch=epoch) for seed, epoch in ((0, 1), (0, 2), (1, 1))]
    companies = [{frozenset(batch) for batch in batches} for batches in plans]
    for one, other in ((0, 1), (0, 2)):
        assert plans[one] != plans[other]
        assert len(companies[one] & companies[other]) < len(companies[one]) / 2


def test_batches_do_not_come_by_length():
    seconds = np.random.default_rng(0).uniform(1, 5, 200).tolist()
    longest = [max(seconds[index] for index in batch) for batch in plan(seconds, epoch=1)]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.5


@given(durations, seeds)
def test_sorta_grad_goes_from_the_shortest_to_the_longest(seconds, seed):
    order = [index for batch in plan(seconds, seed=seed, by_length=True) for index in batch]
    assert [seconds[index] for index in order] == sorted(seconds)


def test_batches_are_as_full_as_the_budget_allows():
    assert [len(batch) for batch in plan([1.0] * 10, budget=4.0, by_length=True)] == [4, 4, 2]
    assert plan([1.0, 3.0, 2.0], budget=4.0, by_length=True) == [[0, 2], [1]]


# shards ------------------------------------------------------------------------------------------

in_shards = st.lists(st.tuples(st.floats(0.1, 20.0), st.integers(0, 9)), min_size=1, max_size=60)
numbers_open = st.integers(1, 12)


@given(in_shards, seeds, numbers_open, st.booleans(), st.integers(0, 70))
def test_with_shards_an_epoch_has_every_utterance_once_and_can_be_taken_up(
    utterances, seed, open_shards, by_length, first
):
    seconds, shards = zip(*utterances, strict=True)
    options = {"seed": seed, "shards": shards, "open_shards": open_shards, "by_length": by_length}
    batches = plan(seconds, epoch=2, **options)
    assert sorted(index for batch in batches for index in batch) == list(range(len(seconds)))
    assert plan(seconds, epoch=2, **options) == batches
    assert plan(seconds, epoch=2, first=first, **options) == batches[first:]


@given(in_shards, seeds, numbers_open, st.booleans())
def test_few_shards_are_open_at_a_time(utterances, seed, open_shards, by_length):
    """Once a shard is left, it is not come back to; until then, at most so many others are read from."""
    seconds, shards = zip(*utterances, strict=True)
    batches = plan(seconds, seed=seed, shards=shards, open_shards=open_shards, by_length=by_length)
    order = [shards[index] for batch in batches for index in batch]
    spans = {shard: (order.index(shard), len(order) - 1 - order[::-1].index(shard)) for shard in set(order)}
    for place in range(len(order)):
        assert sum(begin <= place <= end for begin, end in spans.values()) <= open_shards


def test_epochs_take_shards_in_different_orders_and_company():
    seconds = np.random.default_rng(0).uniform(1, 5, 400).tolist()
    shards = [index // 20 for index in range(400)]
    options = {"shards": shards, "open_shards": 4}
    plans = [plan(seconds, epoch=epoch, **options) for epoch in (1, 2)]
    first_shards = [{shards[index] for batch in batches[:5] for index in batch} for batches in plans]
    assert first_shards[0] != first_shards[1] and all(len(one) == 4 for one in first_shards)
    longest = [max(seconds[index] for index in batch) for batch in plans[0]]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.5
    for start in range(0, 400, 80):  # by length among four shards, then among the next four
        order = [index for batch in plan(seconds, by_length=True, **options) for index in batch]
        part = [seconds[index] for index in order[start : start + 80]]
        assert part == sorted(part)


def test_windows_of_shards_are_even():
    """Nine shards, eight open: five and four, not eight and a last one alone."""
    shards = [index // 10 for index in range(90)]
    batches = plan([1.0] * 90, budget=10.0, shards=shards, open_shards=8)
    assert len({shards[index] for batch in batches[:5] for index in batch}) == 5
    assert len({shards[index] for batch in batches[5:] for index in batch}) == 4


def test_all_shards_open_is_as_without():
    seconds = np.random.default_rng(0).uniform(1, 5, 50).tolist()
    shards = list(range(50))
    assert plan(seconds, by_length=True, shards=shards, open_shards=50) == plan(seconds, by_length=True)


def test_an_utterance_longer_than_a_batch_is_alone_in_its_own():
    """However lengths are jittered, and wherever it lies among them."""
    for epoch in range(20):
        batches = plan([4.0, 1.0, 9.0, 4.0, 8.5, 3.0], budget=8.0, epoch=epoch)
        assert [2] in batches and [4] in batches
        assert sorted(index for batch in batches for index in batch) == list(range(6))
        assert max(len(batch) for batch in batches) > 1


def test_nothing_makes_no_batches():
    with pytest.raises(ValueError, match="no utterance"):
        BucketBatchSampler([], max_batch_seconds=8.0)


def test_padding_share_by_hand():
    # Valid 1 + 3 + 2 = 6 s; padded 2 * 3 + 1 * 2 = 8 s.
    assert padding_share([1.0, 3.0, 2.0], [[0, 1], [2]]) == pytest.approx(0.25)


@pytest.mark.skipif(
    not (DATA / "an4" / "train.tsv").is_file(), reason="AN4 is not here; set SEQDSD_DATA to its parent folder"
)
@pytest.mark.parametrize("budget", [40.0, 120.0])
def test_little_of_an4_is_padding(budget):
    with (DATA / "an4" / "train.tsv").open() as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file, delimiter="\t")]
    assert padding_share(seconds, plan(seconds, budget=budget, epoch=1)) < 0.10
    in_given_order = [
        list(range(start, min(start + 16, len(seconds)))) for start in range(0, len(seconds), 16)
    ]
    assert padding_share(seconds, in_given_order) > 0.10  # so the bound says something
