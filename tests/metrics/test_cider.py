"""CIDEr-D against cases counted by hand, a slow version from the paper's equations, and coco-caption."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdsd import __version__
from seqdsd.metrics import cider_d

captions = st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join)
items = st.lists(st.tuples(st.lists(captions, min_size=1, max_size=4), captions), min_size=1, max_size=6)


def ngrams(text: str, order: int) -> Counter:
    words = text.split()
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def slow_cider_d(refs_per_item: list[list[str]], hyps: list[str]) -> float:
    """Equations 1 to 4 of the paper, an n-gram at a time."""
    score = 0.0
    for order in (1, 2, 3, 4):
        in_documents = Counter(
            ngram for refs in refs_per_item for ngram in set().union(*(ngrams(ref, order) for ref in refs))
        )

        def weights(text: str, order=order, in_documents=in_documents) -> dict:
            idf = {ngram: math.log(len(hyps) / max(1, in_documents[ngram])) for ngram in ngrams(text, order)}
            return {ngram: count * idf[ngram] for ngram, count in ngrams(text, order).items()}

        for refs, hyp in zip(refs_per_item, hyps, strict=True):
            of_hyp = weights(hyp)
            for ref in refs:
                of_ref = weights(ref)
                shared = sum(
                    min(of_hyp[ngram], of_ref[ngram]) * of_ref[ngram] for ngram in of_hyp.keys() & of_ref
                )
                norms = math.hypot(*of_hyp.values()) * math.hypot(*of_ref.values())
                longer_by = len(hyp.split()) - len(ref.split())
                penalty = math.exp(-(longer_by**2) / (2 * 6**2))
                score += 10 * penalty * (shared / norms if norms else 0) / len(refs) / len(hyps) / 4
    return score


@pytest.mark.parametrize(
    ("ref", "hyp", "score"),
    [
        ("a b", "a b", 10 * (1 + 1) / 4),  # no 3- and 4-grams
        ("a b", "a x", 10 * (1 / 2) / 4),
        ("a b", "a a", 10 * 1 / (2 * math.sqrt(2)) / 4),  # the second "a" is clipped, but still in the norm
        ("a b", "a", 10 * 1 / math.sqrt(2) / 4 * math.exp(-1 / 72)),  # one word too short
        ("a b", "x y", 0),
        ("a b", "", 0),
        ("", "a", 0),
        ("a b c d", "a b c d", 10),
    ],
)
def test_by_hand(ref, hyp, score):
    """The other item shares no word, so that all n-grams are equally rare, and scores 0."""
    assert cider_d([[ref], ["u v"]], [hyp, ""]).score == pytest.approx(score / 2)


def test_what_every_item_says_is_worth_nothing():
    refs = [["the a"], ["the b"], ["the c"]]
    assert cider_d(refs, ["the", "the", "the"]).score == 0
    assert cider_d(refs, ["a", "", ""]).score > 0


def test_the_references_are_averaged():
    both = cider_d([["a b", "c d"], ["u v"]], ["a b", ""]).score
    # Of one reference 2 of 4 orders match entirely; the other has none.
    assert both == pytest.approx(10 * (2 / 4) / 2 / 2)


def test_one_item_has_no_rare_words():
    assert cider_d([["a b c d"]], ["a b c d"]).score == 0


@settings(deadline=None)
@given(items)
def test_it_is_what_the_equations_say(pairs):
    refs_per_item, hyps = map(list, zip(*pairs, strict=True))
    score = cider_d(refs_per_item, hyps).score
    assert score == pytest.approx(slow_cider_d(refs_per_item, hyps))
    assert -1e-9 <= score <= 10 + 1e-9


@settings(deadline=None)
@given(items, st.randoms())
def test_the_order_of_items_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    one, other = (cider_d(*map(list, zip(*some, strict=True))).score for some in (pairs, shuffled))
    assert one == pytest.approx(other)


def test_the_few_as_coco_caption_scores_them(few):
    """Pinned from pycocoevalcap 1.2 (``Cider()``), run on ``few``."""
    assert cider_d(*few).score == pytest.approx(1.438915836875751)


def test_real_captions_as_coco_caption_scores_them(flickr8k, flickr8k_shortened):
    """Pinned as above."""
    assert cider_d(*flickr8k).score == pytest.approx(0.7886754251977479)
    assert cider_d(*flickr8k_shortened).score == pytest.approx(0.6109749483389225)


def test_signature_says_how():
    signature = cider_d([["a"], ["b"]], ["a", "b"]).signature
    assert signature == f"CIDEr-D|n:1-4|sigma:6|items:2|nrefs:1|case:mixed|tok:none|seqdsd {__version__}"
