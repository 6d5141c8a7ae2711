"""Greedy decoding against groupby in a loop, and cases read off by hand."""

from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdsd.decode import greedy_decode


def slow_decode(path: list[int], blank_id: int) -> list[int]:
    return [token for token, _ in groupby(path) if token != blank_id]


def peaked(paths: list[list[int]], vocab: int = 5) -> torch.Tensor:
    """Log-probs whose best path is ``paths``, all of one length."""
    one_hot = torch.nn.functional.one_hot(torch.tensor(paths), vocab).float()
    return (5 * one_hot).log_softmax(dim=-1)


@st.composite
def batches(draw):
    vocab = draw(st.integers(1, 4))
    frames = draw(st.integers(1, 12))
    path = st.lists(st.integers(0, vocab - 1), min_size=frames, max_size=frames)
    paths = draw(st.lists(path, min_size=1, max_size=5))
    lengths = [draw(st.integers(1, frames)) for _ in paths]
    return paths, lengths, vocab, draw(st.integers(0, vocab - 1))


@settings(deadline=None)
@given(batches())
def test_against_a_slow_loop(batch):
    paths, lengths, vocab, blank_id = batch
    decoded = greedy_decode(peaked(paths, vocab), torch.tensor(lengths), blank_id=blank_id)
    expected = [slow_decode(path[:n], blank_id) for path, n in zip(paths, lengths, strict=True)]
    assert decoded == expected


@pytest.mark.parametrize(
    ("path", "tokens"),
    [
        ([1, 1, 2, 2], [1, 2]),
        ([1, 0, 1, 1], [1, 1]),  # a blank keeps two equal tokens apart
        ([0, 0, 0, 0], []),
        ([0, 3, 0, 4], [3, 4]),
    ],
)
def test_by_hand(path, tokens):
    assert greedy_decode(peaked([path]), torch.tensor([4])) == [tokens]


def test_frames_past_the_end_are_ignored_even_nan():
    log_probs = peaked([[1, 2, 3, 4], [1, 2, 3, 4]])
    log_probs[1, 2:] = torch.nan
    assert greedy_decode(log_probs, torch.tensor([4, 2], dtype=torch.int32)) == [[1, 2, 3, 4], [1, 2]]


def test_an_item_does_not_depend_on_its_batch():
    log_probs = torch.randn(6, 30, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    lengths = torch.tensor([30, 1, 7, 15, 29, 30])
    alone = [greedy_decode(log_probs[i : i + 1, :n], lengths[i : i + 1])[0] for i, n in enumerate(lengths)]
    assert greedy_decode(log_probs, lengths) == alone


@pytest.mark.parametrize("lengths", [[0, 4], [4, 5], [-1, 2]])
def test_lengths_out_of_range(lengths):
    with pytest.raises(ValueError, match=r"num_frames must lie in \[1, 4\]"):
        greedy_decode(peaked([[1, 2, 3, 4]] * 2), torch.tensor(lengths))


@pytest.mark.parametrize("blank_id", [-1, 5])
def test_blank_outside_the_vocabulary(blank_id):
    with pytest.raises(ValueError, match=f"blank_id is {blank_id}, outside the vocabulary of 5"):
        greedy_decode(peaked([[1, 2]]), torch.tensor([2]), blank_id=blank_id)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_the_gpu():
    log_probs = torch.randn(8, 50, 29, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    lengths = torch.arange(43, 51)
    assert greedy_decode(log_probs.cuda(), lengths.cuda()) == greedy_decode(log_probs, lengths)
