"""The search over words against every sentence scored by hand, and what it refuses."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seqdsd.decode.ctc_lexicon import (
    LanguageModelError,
    LexiconDecoder,
    LexiconSearch,
    Spelling,
    read_arpa_words,
)
from seqdsd.text.ngram import BEGIN, END, estimate_ngrams

pytest.importorskip("flashlight.lib.text.decoder", reason="needs flashlight-text (pip install 'seqdsd[lm]')")

SENTENCES = ["cab bad", "cab bad", "bad cab", "cab", "dad bad", "add cab bad"]
IDS = {character: id_ for id_, character in enumerate(" abcd", start=1)}
VOCAB = 6


def spell(word: str) -> list[int]:
    if set(word) - IDS.keys():
        raise ValueError(f"{word} has letters outside the alphabet")
    return [IDS[character] for character in word]


SPELLING = Spelling(spell, separator_id=1, vocab_size=VOCAB, blank_id=0)


@pytest.fixture
def model():
    return estimate_ngrams(SENTENCES, order=2)


@pytest.fixture
def arpa(tmp_path, model):
    path = tmp_path / "lm.arpa"
    path.write_text(model.arpa())
    return path


def heard(text: str, sharpness: float = 4.0) -> Tensor:
    """Log-probabilities [1, frames, vocab] of a frame a character; ``-`` is the blank."""
    logits = torch.zeros(len(text), VOCAB)
    for frame, character in enumerate(text):
        logits[frame, IDS.get(character, 0)] = sharpness
    return logits.log_softmax(-1)[None]


def words_of(decoder: LexiconDecoder, text: str) -> list[str]:
    log_probs = heard(text)
    return decoder(log_probs, torch.tensor([log_probs.shape[1]]))[0].words


def ctc_log_prob(log_probs: Tensor, text: str) -> float:
    tokens = spell(text)
    return -float(
        F.ctc_loss(
            log_probs.transpose(0, 1),
            torch.tensor([tokens]),
            torch.tensor([log_probs.shape[1]]),
            torch.tensor([len(tokens)]),
            reduction="sum",
        )
    )


def slow_score(log_probs: Tensor, words: tuple[str, ...], model, search: LexiconSearch) -> float:
    """CTC's probability of the letters, whatever the separators around words, the language model's, and the bonuses."""
    gaps = [("", " ", "  "), *[(" ", "  ")] * (len(words) - 1), ("", " ", "  ")]
    texts = ["".join(sum(zip(around, (*words, ""), strict=True), ())) for around in product(*gaps)]
    acoustic = torch.tensor([ctc_log_prob(log_probs, text) for text in texts]).logsumexp(0)
    language = sum(model.log10_prob(word, [BEGIN, *words[:i]]) for i, word in enumerate((*words, END)))
    hot = search.hot_word_bonus * sum(word in search.hot_words for word in words)
    return float(acoustic) + search.lm_weight * language + search.word_bonus * len(words) + hot


@pytest.mark.parametrize(
    "search",
    [
        LexiconSearch(),
        LexiconSearch(lm_weight=0.0),
        LexiconSearch(lm_weight=3.0, word_bonus=2.0),
        LexiconSearch(hot_words=("add",), hot_word_bonus=3.0),
    ],
)
def test_the_best_words_are_those_of_the_best_score(arpa, model, search):
    torch.manual_seed(0)
    decoder = LexiconDecoder(arpa, SPELLING, search=search)
    sentences = [one for n in (1, 2) for one in product(("cab", "bad", "dad", "add"), repeat=n)]
    for _ in range(10):
        log_probs = (2 * torch.randn(1, 8, VOCAB)).log_softmax(-1)
        scores = {words: slow_score(log_probs, words, model, search) for words in sentences}
        best = max(scores, key=lambda words: scores[words])
        found = decoder(log_probs, torch.tensor([8]))[0]
        assert tuple(found.words) == best
        assert found.score == pytest.approx(scores[best], abs=0.1)  # three separators in a row are paths, too


def test_repeats_blanks_and_doubled_letters(arpa):
    decoder = LexiconDecoder(arpa, SPELLING, search=LexiconSearch(lm_weight=0.1))
    assert words_of(decoder, "ccaa-bb  bbadd") == ["cab", "bad"]
    assert words_of(decoder, "aad-dd") == ["add"]
    assert words_of(decoder, " cab ") == ["cab"]


def test_the_language_model_decides_where_the_network_cannot(arpa):
    log_probs = heard("cab -ad")
    log_probs[0, 4] = torch.full((VOCAB,), 1 / VOCAB).log()
    found = LexiconDecoder(arpa, SPELLING)(log_probs, torch.tensor([7]))[0]
    assert found.words == ["cab", "bad"]  # "cab dad" was never seen


def test_hot_words_are_found_whether_known_or_not(arpa):
    assert "dab" not in read_arpa_words(arpa)
    hot = LexiconSearch(hot_words=("dab",))
    assert words_of(LexiconDecoder(arpa, SPELLING, search=hot), "dab") == ["dab"]
    assert words_of(LexiconDecoder(arpa, SPELLING), "dab") != ["dab"]


def test_other_weights_on_the_same_model(arpa):
    decoder = LexiconDecoder(arpa, SPELLING)
    log_probs, length = heard("bad dad", sharpness=1.5), torch.tensor([7])
    for search in (LexiconSearch(lm_weight=4.0), LexiconSearch(hot_words=("dab",)), LexiconSearch()):
        fresh = LexiconDecoder(arpa, SPELLING, search=search)
        assert decoder.with_search(search)(log_probs, length) == fresh(log_probs, length)
    again = LexiconDecoder(arpa, SPELLING, search=LexiconSearch(hot_words=("dab",))).with_search(
        LexiconSearch()
    )
    assert again(log_probs, length) == decoder(log_probs, length)


def test_items_of_a_batch_are_decoded_to_their_own_lengths(arpa):
    decoder = LexiconDecoder(arpa, SPELLING)
    padded = torch.cat((heard("cab-bbb"), heard("bad cab")))
    found = decoder(padded, torch.tensor([3, 7]))
    assert [one.words for one in found] == [["cab"], ["bad", "cab"]]


def test_nothing_can_be_heard(arpa):
    assert words_of(LexiconDecoder(arpa, SPELLING), "-----") == []


def test_words_that_cannot_be_spelt_are_listed(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(estimate_ngrams([*SENTENCES, "cab zoo"], order=2).arpa())
    decoder = LexiconDecoder(path, SPELLING)
    assert decoder.unspelt == ["zoo"]
    assert words_of(decoder, "cab") == ["cab"]


@pytest.mark.parametrize(
    ("sentences", "what"),
    [(["CAB BAD", "BAD"], r"cannot spell 2 of its 2 words \('BAD', 'CAB'\).*another alphabet.*build-lm")],
)
def test_another_alphabet_is_refused(tmp_path, sentences, what):
    path = tmp_path / "lm.arpa"
    path.write_text(estimate_ngrams(sentences, order=2).arpa())
    with pytest.raises(LanguageModelError, match=f"{path}: the network {what}"):
        LexiconDecoder(path, SPELLING)


def test_a_hot_word_of_another_alphabet_is_refused(arpa):
    with pytest.raises(LanguageModelError, match="hot words.*cannot spell: zoo"):
        LexiconDecoder(arpa, SPELLING, search=LexiconSearch(hot_words=("zoo", "dab")))


@pytest.mark.parametrize("content", [b"", b"not a model\n", bytes(range(256)), b"\\data\\\nngram 1=9\n"])
def test_what_is_no_language_model_is_refused(tmp_path, content):
    path = tmp_path / "lm.arpa"
    path.write_bytes(content)
    with pytest.raises(LanguageModelError, match=str(path)):
        LexiconDecoder(path, SPELLING)


def test_a_truncated_model_is_refused(arpa):
    arpa.write_text(arpa.read_text()[:-150])
    with pytest.raises(LanguageModelError, match=f"{arpa}: KenLM cannot read it"):
        LexiconDecoder(arpa, SPELLING)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LanguageModelError, match="none.arpa"):
        LexiconDecoder(tmp_path / "none.arpa", SPELLING)
    with pytest.raises(LanguageModelError, match="none.bin"):
        LexiconDecoder(tmp_path / "none.bin", SPELLING, words=["cab"])


@pytest.mark.parametrize(
    "options",
    [
        {"beam_width": 0},
        {"lm_weight": -1.0},
        {"lm_weight": math.nan},
        {"word_bonus": math.inf},
        {"hot_words": ("a",), "lm_weight": 0.0},
    ],
)
def test_weights_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options)).replace("hot_words", "hot words")):
        LexiconSearch(**options)


@pytest.mark.parametrize("num_frames", [[0], [4]])
def test_lengths_out_of_range_are_refused(arpa, num_frames):
    with pytest.raises(ValueError, match=r"\[1, 3\]"):
        LexiconDecoder(arpa, SPELLING)(heard("cab"), torch.tensor(num_frames))


def test_nan_is_refused(arpa):
    with pytest.raises(ValueError, match="not finite"):
        LexiconDecoder(arpa, SPELLING)(torch.full((1, 3, VOCAB), math.nan), torch.tensor([3]))


def test_another_vocabulary_is_refused(arpa):
    with pytest.raises(ValueError, match="7 tokens"):
        LexiconDecoder(arpa, SPELLING)(torch.zeros(1, 3, 7), torch.tensor([3]))


@pytest.mark.parametrize("count", ["-1", "99999999999", "1e3", "", "9" * 300])
def test_counts_that_no_file_can_hold_are_refused_before_kenlm_sees_them(tmp_path, model, count):
    """A negative count ended the process by signal 11."""
    path = tmp_path / "lm.arpa"
    lines = model.arpa().splitlines()
    lines[2] = f"ngram 2={count}"
    path.write_text("\n".join(lines))
    with pytest.raises(LanguageModelError, match=r"lm\.arpa:3: .* is no number of n-grams"):
        LexiconDecoder(path, SPELLING)
