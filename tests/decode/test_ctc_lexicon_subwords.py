"""The search over words spelt by sub-words, some of which are whole words, against every path scored by hand."""

import math
from dataclasses import replace
from itertools import groupby, product

import pytest
import torch
from torch import Tensor

from seqdsd.decode import greedy_decode
from seqdsd.decode.ctc_lexicon import LanguageModelError, LexiconDecoder, LexiconSearch, Spelling
from seqdsd.text.ngram import BEGIN, END, estimate_ngrams

pytest.importorskip("flashlight.lib.text.decoder", reason="needs flashlight-text (pip install 'seqdsd[lm]')")

SENTENCES = ["two two", "two to", "cat cats", "two cat", "cats two two", "fuzz fuz", "to to"]
PIECES = ["-", "▁two", "▁to", "▁cat", "s", "▁fu", "z"]
SPELLINGS = {"two": [1], "to": [2], "cat": [3], "cats": [3, 4], "fuz": [5, 6], "fuzz": [5, 6, 6]}
VOCAB = len(PIECES)
NUM_FRAMES = 6


def spell(word: str) -> list[int]:
    if word not in SPELLINGS:
        raise ValueError(f"{word} cannot be spelt")
    return SPELLINGS[word]


SPELLING = Spelling(spell, separator_id=None, vocab_size=VOCAB, blank_id=0)


@pytest.fixture
def model():
    return estimate_ngrams(SENTENCES, order=2)


@pytest.fixture
def arpa(tmp_path, model):
    path = tmp_path / "lm.arpa"
    path.write_text(model.arpa())
    return path


@pytest.fixture(scope="module")
def paths() -> tuple[Tensor, Tensor, list[tuple[str, ...]]]:
    """Every path of six frames that spells words, which sentence it spells, and the sentences."""
    kept, spelt, sentences = list[tuple[int, ...]](), list[int](), dict[tuple[str, ...], int]()
    for path in product(range(VOCAB), repeat=NUM_FRAMES):
        words = sentence_of([token for token, _ in groupby(path) if token])
        if words is not None:
            kept.append(path)
            spelt.append(sentences.setdefault(words, len(sentences)))
    return torch.tensor(kept), torch.tensor(spelt), list(sentences)


def sentence_of(tokens: list[int]) -> tuple[str, ...] | None:
    """The words that tokens spell, if they do: one begins with each piece that has a mark."""
    begins = [index for index, token in enumerate(tokens) if PIECES[token].startswith("▁")]
    if begins[:1] != [0]:
        return None if tokens else ()
    words = {tuple(spelling): word for word, spelling in SPELLINGS.items()}
    parts = [tuple(tokens[i:j]) for i, j in zip(begins, [*begins[1:], len(tokens)], strict=True)]
    return tuple(words[part] for part in parts) if all(part in words for part in parts) else None


def slow_scores(log_probs: Tensor, paths, model, search: LexiconSearch) -> dict[tuple[str, ...], float]:
    """Of each sentence: all paths that spell it, the language model's probability of its words, and the bonuses."""
    every_path, spelt, sentences = paths
    probs = log_probs[0].double()[torch.arange(NUM_FRAMES), every_path].sum(-1).exp()
    acoustic = torch.zeros(len(sentences), dtype=torch.double).index_add_(0, spelt, probs).log()
    scores = {}
    for words, score in zip(sentences, acoustic.tolist(), strict=True):
        language = sum(model.log10_prob(word, [BEGIN, *words[:i]]) for i, word in enumerate((*words, END)))
        hot = search.hot_word_bonus * sum(word in search.hot_words for word in words)
        scores[words] = score + search.lm_weight * language + search.word_bonus * len(words) + hot
    return scores


def heard(*frames: str, sharpness: float = 4.0) -> Tensor:
    """Log-probabilities [1, frames, vocab] of a piece a frame; ``-`` is the blank."""
    logits = torch.zeros(len(frames), VOCAB)
    for frame, piece in enumerate(frames):
        logits[frame, PIECES.index(piece)] = sharpness
    return logits.log_softmax(-1)[None]


def words_of(decoder: LexiconDecoder, log_probs: Tensor) -> list[str]:
    return decoder(log_probs, torch.tensor([log_probs.shape[1]]))[0].words


@pytest.mark.parametrize(
    "search",
    [
        LexiconSearch(),
        LexiconSearch(lm_weight=0.0),
        LexiconSearch(lm_weight=3.0, word_bonus=2.0),
        LexiconSearch(word_bonus=-3.0),
        LexiconSearch(hot_words=("fuz",), hot_word_bonus=3.0),
    ],
)
@pytest.mark.parametrize("sharpness", [1.0, 2.0, 4.0])
def test_the_best_words_are_those_of_the_best_score(arpa, model, paths, search, sharpness):
    torch.manual_seed(0)
    wide = replace(search, beam_width=1000)  # the flattest outputs need more than 100
    decoder = LexiconDecoder(arpa, SPELLING, search=wide)
    for _ in range(10):
        log_probs = (sharpness * torch.randn(1, NUM_FRAMES, VOCAB)).log_softmax(-1)
        scores = slow_scores(log_probs, paths, model, search)
        best = max(scores, key=lambda words: scores[words])
        found = decoder(log_probs, torch.tensor([NUM_FRAMES]))[0]
        assert tuple(found.words) == best
        assert found.score == pytest.approx(scores[best], abs=1e-3)


def test_last_pieces_are_held_and_words_repeated_after_a_blank(arpa):
    decoder = LexiconDecoder(arpa, SPELLING, search=LexiconSearch(lm_weight=0.1))
    for frames, words in (
        ("▁two ▁two ▁two", ["two"]),
        ("▁two ▁two ▁to ▁to", ["two", "to"]),
        ("▁two - ▁two", ["two", "two"]),
        ("▁two ▁two - - ▁two ▁two", ["two", "two"]),
        ("▁cat ▁cat s s s ▁two", ["cats", "two"]),
        ("▁fu z z z", ["fuz"]),
        ("▁fu z z - z z ▁to", ["fuzz", "to"]),
        ("- - -", []),
    ):
        assert words_of(decoder, heard(*frames.split())) == words, frames


def test_the_language_model_decides_where_the_network_is_unsure(arpa, model, paths):
    """Max decoding hears "cat two", which was never said; an "s" is nearly as likely, and "cats two" was."""
    log_probs = heard("▁cat", "-", "-", "▁two", "▁two", "-")
    log_probs[0, 1, PIECES.index("s")] = log_probs[0, 1, 0] - 0.3
    log_probs = log_probs.log_softmax(-1)
    length = torch.tensor([NUM_FRAMES])
    [greedy] = greedy_decode(log_probs, length)
    assert [PIECES[token] for token in greedy] == ["▁cat", "▁two"]
    search = LexiconSearch(lm_weight=2.0)
    scores = slow_scores(log_probs, paths, model, search)
    assert max(scores, key=lambda words: scores[words]) == ("cats", "two")
    assert LexiconDecoder(arpa, SPELLING, search=search)(log_probs, length)[0].words == ["cats", "two"]


def test_other_weights_on_the_same_model(arpa):
    decoder = LexiconDecoder(arpa, SPELLING)
    log_probs, length = heard("▁two", "▁two", "s", "▁cat", sharpness=1.5), torch.tensor([4])
    for search in (LexiconSearch(lm_weight=4.0), LexiconSearch(hot_words=("cats",)), LexiconSearch()):
        fresh = LexiconDecoder(arpa, SPELLING, search=search)
        assert decoder.with_search(search)(log_probs, length) == fresh(log_probs, length)


def test_items_of_a_batch_are_decoded_to_their_own_lengths(arpa):
    padded = torch.cat((heard("▁two", "▁two", "s", "▁cat"), heard("▁two", "-", "▁two", "▁cat")))
    found = LexiconDecoder(arpa, SPELLING)(padded, torch.tensor([2, 4]))
    assert [one.words for one in found] == [["two"], ["two", "two", "cat"]]


def test_what_has_too_few_frames_is_never_found(tmp_path):
    """ "fuzz" needs a blank between its equal pieces: text that no path spells could not be aligned."""
    path = tmp_path / "lm.arpa"
    path.write_text(estimate_ngrams(["fuzz", "fuzz fuzz"], order=2).arpa())
    decoder = LexiconDecoder(path, SPELLING, search=LexiconSearch(word_bonus=20.0))
    assert words_of(decoder, heard("▁fu", "z", "z")) == []
    assert words_of(decoder, heard("▁fu", "z", "-", "z")) == ["fuzz"]


def test_words_that_cannot_be_spelt_are_listed_or_refused(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(estimate_ngrams([*SENTENCES, "two zoos"], order=2).arpa())
    assert LexiconDecoder(path, SPELLING).unspelt == ["zoos"]
    path.write_text(estimate_ngrams(["TWO CATS"], order=2).arpa())
    with pytest.raises(LanguageModelError, match="cannot spell 2 of its 2 words"):
        LexiconDecoder(path, SPELLING)


@pytest.mark.parametrize("separator_id", [None, 6])
def test_a_word_of_no_tokens_cannot_be_spelt(arpa, separator_id):
    spelling = replace(SPELLING, spell=lambda word: spell(word) if word else [], separator_id=separator_id)
    assert LexiconDecoder(arpa, spelling, ["two", "to", ""]).unspelt == [""]
    with pytest.raises(LanguageModelError, match="hot words that the network cannot spell"):
        LexiconDecoder(arpa, spelling, search=LexiconSearch(hot_words=("",)))


def test_nan_is_refused(arpa):
    with pytest.raises(ValueError, match="not finite"):
        LexiconDecoder(arpa, SPELLING)(torch.full((1, 3, VOCAB), math.nan), torch.tensor([3]))
