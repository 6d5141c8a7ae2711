"""Prefix beam search against all paths added up, against a slow dictionary search, and against itself in batches."""

import math
from collections import defaultdict
from itertools import product

import pytest
import torch
from torch import Tensor

from seqdsd.decode import beam_decode, greedy_decode


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_log_probs(*shape: int, sharpness: float = 1.0) -> Tensor:
    return (sharpness * torch.randn(shape)).log_softmax(-1)


def collapsed(path: tuple[int, ...], blank_id: int) -> tuple[int, ...]:
    merged = [token for i, token in enumerate(path) if i == 0 or token != path[i - 1]]
    return tuple(token for token in merged if token != blank_id)


def all_sequences(log_probs: Tensor, blank_id: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every token sequence: the sum over all its paths."""
    frames, vocab = log_probs.shape
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    for path in product(range(vocab), repeat=frames):
        sums[collapsed(path, blank_id)] += math.exp(sum(float(log_probs[t, v]) for t, v in enumerate(path)))
    return {tokens: math.log(value) for tokens, value in sums.items()}


def slow_search(log_probs: Tensor, width: int, blank_id: int) -> list[tuple[tuple[int, ...], float]]:
    """The algorithm as it is written down, with a dictionary of prefixes, in probabilities."""
    beams = {(): (1.0, 0.0)}  # ends in blank, ends in a token
    for scores in log_probs.double().exp():
        after: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        for prefix, (blank, token) in beams.items():
            after[prefix][0] += (blank + token) * float(scores[blank_id])
            for v in range(len(scores)):
                p = float(scores[v])
                if v == blank_id:
                    continue
                if prefix and v == prefix[-1]:
                    after[prefix][1] += token * p
                    after[(*prefix, v)][1] += blank * p
                else:
                    after[(*prefix, v)][1] += (blank + token) * p
        best = sorted(after.items(), key=lambda one: -sum(one[1]))[:width]
        beams = {prefix: (values[0], values[1]) for prefix, values in best if sum(values) > 0}
    return [(prefix, math.log(sum(values))) for prefix, values in beams.items()]


@pytest.mark.parametrize("blank_id", [0, 1, 2])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_beam_wide_enough_adds_up_all_paths(frames, blank_id):
    log_probs = random_log_probs(1, frames, 3)
    expected = all_sequences(log_probs[0], blank_id)
    found = beam_decode(log_probs, torch.tensor([frames]), beam_width=100, blank_id=blank_id)[0]
    assert {tuple(one.tokens): pytest.approx(one.log_prob, abs=1e-5) for one in found} == expected
    ranked = [one.log_prob for one in found]
    assert ranked == sorted(ranked, reverse=True)


@pytest.mark.parametrize("width", [1, 2, 3, 8])
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_against_the_slow_search(width, sharpness):
    for _ in range(5):
        log_probs = random_log_probs(30, 6, sharpness=sharpness)
        found = beam_decode(log_probs[None], torch.tensor([30]), beam_width=width)[0]
        expected = slow_search(log_probs, width, blank_id=0)
        assert [tuple(one.tokens) for one in found] == [tokens for tokens, _ in expected]
        assert [one.log_prob for one in found] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_it_finds_more_than_the_best_path():
    """Both frames are blank most likely, but "a" in one, the other or both together is likelier."""
    log_probs = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()
    assert greedy_decode(log_probs, torch.tensor([2])) == [[]]
    best = beam_decode(log_probs, torch.tensor([2]), beam_width=2)[0][0]
    assert best.tokens == [1]
    assert best.log_prob == pytest.approx(math.log(0.64))


def test_a_doubled_token_needs_a_blank_between():
    always = torch.tensor([[-1e4, 0.0]])
    blank = torch.tensor([[0.0, -1e4]])
    for frames, tokens in (([always] * 3, [1]), ([always, blank, always], [1, 1])):
        found = beam_decode(torch.cat(frames)[None], torch.tensor([3]), beam_width=4)
        assert found[0][0].tokens == tokens


def test_an_utterance_does_not_depend_on_its_batch():
    log_probs, lengths = random_log_probs(6, 20, 5), torch.tensor([20, 1, 7, 13, 20, 2])
    together = beam_decode(log_probs, lengths, beam_width=4)
    for item, length in enumerate(lengths.tolist()):
        alone = beam_decode(log_probs[item : item + 1, :length], torch.tensor([length]), beam_width=4)[0]
        assert [one.tokens for one in together[item]] == [one.tokens for one in alone]
        assert [one.log_prob for one in together[item]] == pytest.approx([one.log_prob for one in alone])


def test_what_lies_past_an_item_is_not_read():
    log_probs = random_log_probs(1, 9, 5)
    expected = beam_decode(log_probs[:, :5], torch.tensor([5]), beam_width=3)
    log_probs[:, 5:] = math.nan
    assert beam_decode(log_probs, torch.tensor([5]), beam_width=3) == expected


def test_no_sequence_is_found_twice():
    """Pruned prefixes that come back must be merged with what has been made of them."""
    log_probs = random_log_probs(4, 60, 4, sharpness=0.1)
    for found in beam_decode(log_probs, torch.full((4,), 60), beam_width=16):
        assert len({tuple(one.tokens) for one in found}) == len(found) == 16


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"beam_width": 0}, "beam_width"),
        ({"blank_id": 5}, "blank_id"),
        ({"num_frames": torch.tensor([4])}, r"\[1, 3\]"),
        ({"num_frames": torch.tensor([0])}, r"\[1, 3\]"),
    ],
)
def test_what_is_out_of_range_is_refused(options, what):
    options = {"num_frames": torch.tensor([3]), "beam_width": 2, **options}
    with pytest.raises(ValueError, match=what):
        beam_decode(random_log_probs(1, 3, 5), options.pop("num_frames"), **options)


def test_nan_is_refused():
    log_probs = random_log_probs(2, 5, 4)
    log_probs[1, 3] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        beam_decode(log_probs, torch.tensor([5, 5]), beam_width=3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_the_gpu():
    log_probs, lengths = random_log_probs(6, 20, 5, sharpness=3.0), torch.tensor([20, 1, 7, 13, 20, 2])
    expected = beam_decode(log_probs, lengths, beam_width=4)
    actual = beam_decode(log_probs.cuda(), lengths, beam_width=4)
    assert [[one.tokens for one in item] for item in actual] == [
        [one.tokens for one in item] for item in expected
    ]
