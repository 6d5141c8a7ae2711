"""BLEU against cases counted by hand, a slow count, sacreBLEU, and NeuralTalk's own script."""

import math
import subprocess
import sys
import textwrap
from collections import Counter
from itertools import zip_longest

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from seqdsd.metrics import Bleu, bleu, sentence_bleu

captions = st.lists(st.sampled_from("abc"), min_size=1, max_size=8).map(" ".join)
items = st.lists(st.tuples(st.lists(captions, min_size=1, max_size=4), captions), min_size=1, max_size=5)


def scores(result: Bleu) -> list[float]:
    return [result.bleu1, result.bleu2, result.bleu3, result.bleu4]


def sacrebleus(refs_per_item: list[list[str]], hyps: list[str]) -> list[tuple[float, str]]:
    """Scores and signatures of its BLEU-1 to BLEU-4."""
    streams = list(zip_longest(*refs_per_item))
    made = []
    for order in (1, 2, 3, 4):
        metric = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, force=True)
        made.append((metric.corpus_score(hyps, streams).score, str(metric.get_signature())))
    return made


def precision(refs_per_item: list[list[str]], hyps: list[str], order: int) -> float:
    """Clipped n-gram precision, as the definition has it."""

    def ngrams(text: str) -> Counter:
        words = text.split()
        return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))

    matches = total = 0
    for refs, hyp in zip(refs_per_item, hyps, strict=True):
        for ngram, count in ngrams(hyp).items():
            matches += min(count, max(ngrams(ref)[ngram] for ref in refs))
            total += count
    return matches / total if total else 0.0


def test_papinenis_example():
    """Papineni et al. 2002, section 2.1: a modified unigram precision of 2/7."""
    refs = ["the cat is on the mat", "there is a cat on the mat"]
    assert scores(bleu([refs], ["the the the the the the the"])) == pytest.approx([200 / 7, 0, 0, 0])


def test_brevity_by_hand():
    short = bleu([["a b c d"]], ["a b"])
    assert short.brevity_penalty == pytest.approx(math.exp(1 - 4 / 2))
    assert scores(short) == pytest.approx([100 * math.exp(-1), 100 * math.exp(-1), 0, 0])
    assert scores(short.without_brevity_penalty()) == pytest.approx([100, 100, 0, 0])
    assert bleu([["a b", "a b c d"]], ["a b"]).brevity_penalty == 1  # the closest reference counts,
    assert bleu([["a b c d", "a b"]], ["a b c"]).ref_length == 2  # the shorter of two as close


def test_lengths_are_pooled_before_the_penalty():
    score = bleu([["a b c"], ["a"]], ["a", "a b c"])
    assert (score.hyp_length, score.ref_length, score.brevity_penalty) == (4, 4, 1.0)


def test_the_few_as_other_programs_score_them(few):
    """Pinned from pycocoevalcap 1.2 (``Bleu(4)``) and NeuralTalk's eval/multi-bleu.perl, both run on ``few``."""
    standard = bleu(*few)
    assert scores(standard) == pytest.approx([65.297158, 61.386606, 56.251124, 50.702448], abs=1e-5)
    neuraltalk = [72.41379310, 68.07703547, 62.38184574, 56.22842839]
    assert scores(standard.without_brevity_penalty()) == pytest.approx(neuraltalk, abs=1e-7)
    assert (standard.hyp_length, standard.ref_length) == (29, 32)


def test_real_captions_as_other_programs_score_them(flickr8k_shortened):
    """Pinned as above; sacreBLEU is run here."""
    refs_per_item, hyps = flickr8k_shortened
    standard = bleu(refs_per_item, hyps)
    assert scores(standard) == pytest.approx([61.327968, 42.122237, 28.424321, 19.394849], abs=1e-5)
    neuraltalk = [64.71427004, 44.44806984, 29.99380618, 20.46576009]
    assert scores(standard.without_brevity_penalty()) == pytest.approx(neuraltalk, abs=1e-7)
    streams = [list(stream) for stream in zip(*refs_per_item, strict=True)]
    by_sacrebleu = sacrebleu.corpus_bleu(hyps, streams, tokenize="none", smooth_method="none", force=True)
    assert standard.bleu4 == pytest.approx(by_sacrebleu.score)
    assert standard.brevity_penalty == pytest.approx(by_sacrebleu.bp)


@settings(deadline=None)
@given(items)
def test_any_captions_as_sacrebleu_scores_them(pairs):
    """Also those of fewer than four words, where ``nltk.translate.bleu_score.corpus_bleu`` differs."""
    refs_per_item, hyps = map(list, zip(*pairs, strict=True))
    standard = bleu(refs_per_item, hyps)
    theirs = sacrebleus(refs_per_item, hyps)
    assert scores(standard) == pytest.approx([score for score, _ in theirs])
    assert {standard.signature} == {f"BLEU|{signature}" for _, signature in theirs}


def test_real_captions_as_sacrebleu_scores_them(flickr8k, flickr8k_shortened):
    for captions in (flickr8k, flickr8k_shortened):
        theirs = sacrebleus(*captions)
        assert scores(bleu(*captions)) == pytest.approx([score for score, _ in theirs], abs=1e-9)


@settings(deadline=None)
@given(items)
def test_without_penalty_it_is_the_mean_of_precisions(pairs):
    refs_per_item, hyps = map(list, zip(*pairs, strict=True))
    precisions = [precision(refs_per_item, hyps, order) for order in (1, 2, 3, 4)]
    slow = [100 * math.prod(precisions[:order]) ** (1 / order) for order in (1, 2, 3, 4)]
    assert scores(bleu(refs_per_item, hyps, brevity_penalty=False)) == pytest.approx(slow)


@settings(deadline=None)
@given(items)
def test_the_two_variants_differ_by_the_penalty(pairs):
    refs_per_item, hyps = map(list, zip(*pairs, strict=True))
    standard, without = bleu(refs_per_item, hyps), bleu(refs_per_item, hyps, brevity_penalty=False)
    assert without == standard.without_brevity_penalty()
    assert without.brevity_penalty == 1
    assert scores(standard) == pytest.approx([standard.brevity_penalty * score for score in scores(without)])


@settings(deadline=None)
@given(items, st.randoms())
def test_the_order_of_items_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    results = [bleu(*map(list, zip(*some, strict=True))) for some in (pairs, shuffled)]
    assert results[0] == results[1]


def test_a_perfect_match_scores_100():
    refs = [["a b c d", "x"], ["e f g h i"]]
    assert scores(bleu(refs, ["a b c d", "e f g h i"])) == [100, 100, 100, 100]


def test_nothing_said_scores_0():
    silent = bleu([["a b"], ["c"]], ["", ""])
    assert (scores(silent), silent.brevity_penalty) == ([0, 0, 0, 0], 0)
    assert scores(silent.without_brevity_penalty()) == [0, 0, 0, 0]


def test_nothing_is_normalised():
    assert bleu([["A dog."]], ["a dog ."]).matches == (0, 0, 0, 0)
    assert bleu([["a  dog\t"]], [" a dog"]).bleu2 == 100  # white space only separates words


def test_signature_says_how():
    how = f"nrefs:1|case:mixed|eff:no|tok:none|smooth:none|version:{sacrebleu.__version__}"
    standard = bleu([["a"]], ["a"])
    assert standard.signature == f"BLEU|{how}"
    neuraltalk = "multi-bleu without brevity penalty (NeuralTalk)"
    assert standard.without_brevity_penalty().signature == f"{neuraltalk}|{how}"


@pytest.mark.parametrize(
    ("refs", "hyp", "score"),
    [
        (["a b c d e"], "a b c d e", 100),
        (["a b"], "a b", 100),  # orders that the caption is too short for do not count
        (["a b c"], "", 0),
        (["a b c"], "x y z", 0),
        # Precisions 2/3, then 1/2 match of 2, then 1/4 match of 1.
        (["a b c"], "a x c", 100 * (2 / 3 * 1 / 4 * 1 / 4) ** (1 / 3)),
        (["a b c d"], "a b", 100 * math.exp(-1)),
    ],
)
def test_sentences_by_hand(refs, hyp, score):
    assert sentence_bleu(refs, hyp) == pytest.approx(score)


def test_sentences_as_sacrebleu_smooths_them(flickr8k, few):
    metric = BLEU(tokenize="none", smooth_method="exp", effective_order=True, force=True)
    for captions in (few, flickr8k):
        for refs, hyp in list(zip(*captions, strict=True))[:200]:
            for said in (hyp, " ".join(hyp.split()[:3])):
                assert sentence_bleu(refs, said) == pytest.approx(metric.sentence_score(said, refs).score), (
                    said
                )


def test_nltk_is_imported_by_the_first_score_alone():
    """Half a second of every command's start, else."""
    code = """
        import sys, seqdsd.cli, seqdsd.metrics, seqdsd.reports.report
        assert "nltk" not in sys.modules
        seqdsd.metrics.bleu([["a"]], ["a"])
        assert "nltk" in sys.modules and "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_sentence_needs_a_list_of_references():
    with pytest.raises(ValueError, match="no reference"):
        sentence_bleu([], "a")
    with pytest.raises(ValueError, match="wrap a single reference in a list"):
        sentence_bleu("a b", "a")
