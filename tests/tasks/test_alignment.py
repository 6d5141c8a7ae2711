"""Word times against every path of a small utterance, and for both kinds of tokenizer."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from seqdsd.tasks.alignment import align_words
from seqdsd.text import CharacterTokenizer, SubwordTokenizer

ABC = CharacterTokenizer(" ab")
FRAME = 0.02


def log_probs_of(path: list[int], vocab: int, sharpness: float = 5.0) -> Tensor:
    logits = torch.zeros(len(path), vocab)
    logits[torch.arange(len(path)), torch.tensor(path)] = sharpness
    return logits.log_softmax(-1)


def collapsed(path: tuple[int, ...]) -> list[int]:
    merged = [token for i, token in enumerate(path) if i == 0 or token != path[i - 1]]
    return [token for token in merged if token]


def test_words_begin_and_end_with_their_tokens():
    #       -  a  a  b  -  ' ' ' ' -  b  -  b  -
    path = [0, 2, 2, 3, 0, 1, 1, 0, 3, 0, 3, 0]
    first, second = align_words(log_probs_of(path, 4), ABC.encode("ab bb"), ABC, frame_seconds=FRAME)
    assert (first.word, second.word) == ("ab", "bb")
    assert (first.start_seconds, first.end_seconds) == pytest.approx((1 * FRAME, 4 * FRAME))
    assert (second.start_seconds, second.end_seconds) == pytest.approx((8 * FRAME, 11 * FRAME))


def test_the_path_is_the_likeliest_that_spells_the_text():
    torch.manual_seed(0)
    for _ in range(10):
        log_probs = torch.randn(6, 4).log_softmax(-1)
        ids = ABC.encode("a b")
        paths = [path for path in product(range(4), repeat=6) if collapsed(path) == ids]
        best = max(paths, key=lambda path: sum(float(log_probs[t, v]) for t, v in enumerate(path)))
        words = align_words(log_probs, ABC.encode("a b"), ABC, frame_seconds=1.0)
        for word, token in zip(words, (2, 3), strict=True):
            frames = [t for t, v in enumerate(best) if v == token]
            assert (word.start_seconds, word.end_seconds) == (frames[0], frames[-1] + 1)
            expected = math.exp(sum(float(log_probs[t, token]) for t in frames) / len(frames))
            assert word.confidence == pytest.approx(expected, abs=1e-4)


def test_sub_words():
    tokenizer = SubwordTokenizer.train(["one two", "two three", "three one", "none"], 13)
    text = "none two one"
    ids = tokenizer.encode(text)
    assert len(ids) > 3  # some word is several pieces
    path = [id_ for token in ids for id_ in (token, 0)]
    words = align_words(
        log_probs_of(path, tokenizer.vocab_size), tokenizer.encode(text), tokenizer, frame_seconds=1.0
    )
    assert [word.word for word in words] == ["none", "two", "one"]
    position = 0
    for word in words:
        pieces = tokenizer.encode(word.word)
        silent = sum(
            not tokenizer.decode([piece]) for piece in pieces[:1]
        )  # a boundary may be a piece of its own
        assert word.start_seconds == position + 2 * silent
        position += 2 * len(pieces)
        assert word.end_seconds == position - 1


def test_tokens_that_the_tokenizer_would_not_choose_are_aligned_as_they_are():
    tokenizer = SubwordTokenizer.train(["one two", "two three", "three one", "none"], 13)
    tokens = tokenizer.encode("none")[1:]  # without the boundary that begins a word
    path = [id_ for token in tokens for id_ in (token, 0)]
    log_probs = log_probs_of(path, tokenizer.vocab_size)
    words = align_words(log_probs, tokens, tokenizer, frame_seconds=1.0)
    assert [word.word for word in words] == tokenizer.decode(tokens).split()
    assert words[0].start_seconds == 0


def test_no_text_has_no_words():
    assert align_words(torch.zeros(5, 4), ABC.encode(""), ABC, frame_seconds=FRAME) == []


def test_a_text_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="'aa' needs 3 frames, of which there are 2"):
        align_words(torch.zeros(2, 4), ABC.encode("aa"), ABC, frame_seconds=FRAME)


def test_half_precision():
    path = [0, 2, 0, 1, 3]
    words = align_words(log_probs_of(path, 4).bfloat16(), ABC.encode("a b"), ABC, frame_seconds=1.0)
    assert [(word.start_seconds, word.end_seconds) for word in words] == [(1, 2), (4, 5)]
