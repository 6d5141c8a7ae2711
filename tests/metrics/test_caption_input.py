"""What every caption metric refuses, and how all of them say what was compared."""

import pytest

from seqdsd.metrics import bleu, cider_d, rouge_l

METRICS = [bleu, cider_d, rouge_l]


@pytest.mark.parametrize("score", METRICS)
@pytest.mark.parametrize(
    ("refs_per_item", "hyps", "message"),
    [
        ([], [], "there are no items"),
        ([["a"], ["b"]], ["a"], "references for 2 items but 1 hypotheses"),
        ([["a"], []], ["a", "b"], "item 1 has no reference"),
        ([["a"], "b c"], ["a", "b c"], "item 1: its references are one string"),
        ("a", ["a"], "wrap a single item in lists"),
        ([["a"]], "a", "wrap a single item in lists"),
    ],
)
def test_what_cannot_be_scored(score, refs_per_item, hyps, message):
    with pytest.raises(ValueError, match=message):
        score(refs_per_item, hyps)


@pytest.mark.parametrize("score", METRICS)
def test_signature_tells_the_number_of_references(score):
    assert "|nrefs:2|" in score([["a", "b"], ["a", "c"]], ["a", "a"]).signature
    assert "|nrefs:var|" in score([["a", "b"], ["a"]], ["a", "a"]).signature
