"""Kneser-Ney against its formulas written out, against its own promises, and against KenLM reading what is written."""

import math
from collections import Counter

import pytest

from seqdsd.text.ngram import BEGIN, END, UNKNOWN, estimate_ngrams

SENTENCES = [
    "one two three",
    "two three",
    "one two two",
    "three",
    "one three two one two three",
    "",
    "four one two",
    "two four",
]


def vocabulary(model) -> list[str]:
    return [word for (word,) in model.log10_probs[0] if word != BEGIN]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "history", [[], [BEGIN], [BEGIN, "one"], ["two", "three"], ["zebra"], ["three", "zebra"]]
)
def test_what_follows_any_history_sums_to_one(order, history):
    model = estimate_ngrams(SENTENCES, order=order)
    total = sum(10 ** model.log10_prob(word, history) for word in vocabulary(model))
    assert total == pytest.approx(1)


def slow_bigram_probability(word: str, before: str) -> float:
    """Chen and Goodman's interpolated form for bigrams, from counts taken anew each time."""
    tokens = [[BEGIN, *sentence.split(), END] for sentence in SENTENCES if sentence]
    bigrams = Counter(pair for one in tokens for pair in zip(one, one[1:], strict=False))
    words = {word for one in tokens for word in one} - {BEGIN}
    kinds_before = {one: sum(pair[1] == one for pair in bigrams) for one in words}

    def discount(counts: Counter, count: int) -> float:
        n = [sum(value == k for value in counts.values()) for k in range(5)]
        fallback = [0.5, 1.0, 1.5]
        if not n[1] or not n[2] or not n[3]:
            return fallback[min(count, 3) - 1]
        y = n[1] / (n[1] + 2 * n[2])
        found = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
        in_range = all(0 < one <= k for k, one in enumerate(found, start=1))
        return (found if in_range else fallback)[min(count, 3) - 1]

    kinds = Counter(kinds_before)
    unigram = (kinds[word] - discount(kinds, kinds[word])) / sum(kinds.values())
    spared = sum(discount(kinds, count) for count in kinds.values()) / sum(kinds.values())
    unigram += spared / (len(words) + 1)  # and the unknown word
    after = {pair: count for pair, count in bigrams.items() if pair[0] == before}
    total = sum(after.values())
    passed_on = sum(discount(bigrams, count) for count in after.values()) / total
    count = bigrams[before, word]
    kept = (count - discount(bigrams, count)) / total if count else 0.0
    return kept + passed_on * unigram


@pytest.mark.parametrize("before", [BEGIN, "one", "two", "three", "four"])
def test_bigrams_against_the_formulas(before):
    model = estimate_ngrams(SENTENCES, order=2)
    for word in ("one", "two", "three", "four", END):
        assert 10 ** model.log10_prob(word, [before]) == pytest.approx(slow_bigram_probability(word, before))


def test_discounts_are_estimated_where_they_can_be():
    """Of 8 single words, 4 pairs and 2 triples: Y = 8/16, D1 = 1 - 2/2*4/8 = 0.5, D2 = 2 - 3/2*2/4, D3 = 3 - 2*1/2."""
    words = [f"w{i}" for i in range(15)]
    times = [1] * 8 + [2] * 4 + [3] * 2 + [4]
    sentences = [word for word, count in zip(words, times, strict=True) for _ in range(count)]
    model = estimate_ngrams(sentences, order=1)  # the ends are the 16th word, counted 26 times
    total = sum(times) + len(sentences)
    spared = (8 * 0.5 + 4 * 1.25 + 2 * 2 + 2 + 2) / total
    assert 10 ** model.log10_prob("w0", []) == pytest.approx((1 - 0.5) / total + spared / 17)
    assert 10 ** model.log10_prob("w8", []) == pytest.approx((2 - 1.25) / total + spared / 17)
    assert 10 ** model.log10_prob("w14", []) == pytest.approx((4 - 2) / total + spared / 17)


def test_an_unseen_word_is_the_unknown_one():
    model = estimate_ngrams(SENTENCES, order=3)
    assert model.log10_prob("zebra", ["one"]) == model.log10_prob(UNKNOWN, ["one"])


def test_kenlm_reads_the_same_probabilities(tmp_path):
    kenlm = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    from flashlight.lib.text.dictionary import Dictionary

    model = estimate_ngrams(SENTENCES, order=3)
    path = tmp_path / "lm.arpa"
    path.write_text(model.arpa())
    words = ["one", "two", "three", "four", "zebra"]
    dictionary = Dictionary()
    for word in (*words, UNKNOWN):
        dictionary.add_entry(word)
    lm = kenlm.KenLM(str(path), dictionary)
    for sentence in ("one two three", "three three zebra four", "two"):
        state, history = lm.start(False), [BEGIN]
        for word in sentence.split():
            state, score = lm.score(state, dictionary.get_index(word))
            assert score == pytest.approx(model.log10_prob(word, history), abs=1e-5)
            history.append(word)
        assert lm.finish(state)[1] == pytest.approx(model.log10_prob(END, history), abs=1e-5)


def test_likelier_sentences_score_higher():
    model = estimate_ngrams(SENTENCES, order=3)
    assert model.log10_prob("two", [BEGIN, "one"]) > model.log10_prob("four", [BEGIN, "one"])
    assert math.isfinite(model.log10_prob("four", [BEGIN, "one"]))


@pytest.mark.parametrize(
    ("sentences", "order", "what"),
    [(["one"], 0, "order"), ([], 2, "no words"), (["", " "], 2, "no words"), (["one <s> two"], 2, "<s>")],
)
def test_what_cannot_be_is_refused(sentences, order, what):
    with pytest.raises(ValueError, match=what):
        estimate_ngrams(sentences, order=order)
