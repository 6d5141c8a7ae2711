"""ROUGE-L against cases counted by hand, the textbook's table, and coco-caption."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdsd import __version__
from seqdsd.metrics import rouge_l

words = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=10)


def f_measure(precision: float, recall: float) -> float:
    """Lin 2004, equation 4, with beta 1.2."""
    return (1 + 1.44) * precision * recall / (recall + 1.44 * precision)


def longest_common_subsequence(one: list[str], other: list[str]) -> int:
    """The textbook's table, one cell at a time."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            table[i][j] = max(
                table[i - 1][j], table[i][j - 1], table[i - 1][j - 1] + (one[i - 1] == other[j - 1])
            )
    return table[-1][-1]


@pytest.mark.parametrize(
    ("refs", "hyp", "score"),
    [
        (["a b c"], "a b c", 1),
        (["a b c d"], "a b", f_measure(1, 1 / 2)),
        (["a b"], "a b c d", f_measure(1 / 2, 1)),
        (["a x b y"], "b a", f_measure(1 / 2, 1 / 4)),  # order counts
        # Lin 2004, section 3.1: "police killed the gunman", once as "police kill the gunman".
        (["police killed the gunman"], "police kill the gunman", f_measure(3 / 4, 3 / 4)),
        (["police killed the gunman"], "the gunman kill police", f_measure(2 / 4, 2 / 4)),
        # The first reference gives the precision, the second the recall.
        (["a b c u v w x", "d"], "a b c d", f_measure(3 / 4, 1)),
        (["a b"], "x y", 0),
        (["a b"], "", 0),
        ([""], "a", 0),
        ([""], "", 0),
    ],
)
def test_by_hand(refs, hyp, score):
    assert rouge_l([refs], [hyp]).score == pytest.approx(score)


def test_items_are_averaged():
    assert rouge_l([["a b"], ["c"]], ["a b", "x"]).score == 0.5
    assert rouge_l([["c"], ["a b"]], ["x", "a b"]).score == 0.5


def slowly(ref: list[str], hyp: list[str]) -> float:
    common = longest_common_subsequence(ref, hyp)
    return f_measure(common / len(hyp), common / len(ref)) if common else 0.0


@settings(deadline=None)
@given(words, words)
def test_it_is_of_the_longest_common_subsequence_of_words(ref, hyp):
    assert rouge_l([[" ".join(ref)]], [" ".join(hyp)]).score == pytest.approx(slowly(ref, hyp))


def test_captions_longer_than_a_machine_word():
    ref, hyp = [str(i) for i in range(200)], [str(i) for i in range(0, 300, 3)]
    assert longest_common_subsequence(ref, hyp) == 67
    assert rouge_l([[" ".join(ref)]], [" ".join(hyp)]).score == pytest.approx(slowly(ref, hyp))


def test_the_few_as_coco_caption_scores_them(few):
    """Pinned from pycocoevalcap 1.2 (``Rouge()``), run on ``few``."""
    assert rouge_l(*few).score == pytest.approx(0.5082462985041036)


def test_real_captions_as_coco_caption_scores_them(flickr8k, flickr8k_shortened):
    """Pinned as above."""
    assert rouge_l(*flickr8k).score == pytest.approx(0.48759245032000953)
    assert rouge_l(*flickr8k_shortened).score == pytest.approx(0.4483923545432956)


def test_signature_says_how():
    how = "F, beta:1.2|refs:max of precision and of recall|nrefs:1|case:mixed|tok:none"
    assert rouge_l([["a"]], ["a"]).signature == f"ROUGE-L|{how}|seqdsd {__version__}"
