"""Error counts against cases counted by hand and a textbook edit distance."""

import subprocess
import sys
from dataclasses import asdict

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdsd.metrics import ErrorRate, cer, wer

utterances = st.lists(
    st.tuples(st.text("ab ", max_size=12), st.text("abc ", max_size=12)), min_size=1, max_size=6
)


def edit_distance(ref: list[str], hyp: list[str]) -> int:
    """Wagner and Fischer's table, one cell at a time."""
    table = [[max(i, j) if i == 0 or j == 0 else 0 for j in range(len(hyp) + 1)] for i in range(len(ref) + 1)]
    for i in range(1, len(ref) + 1):
        for j in range(1, len(hyp) + 1):
            substituted = table[i - 1][j - 1] + (ref[i - 1] != hyp[j - 1])
            table[i][j] = min(substituted, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


@pytest.mark.parametrize(
    ("ref", "hyp", "counts"),
    [
        ("a b c", "a b c", (3, 0, 0, 0)),
        ("a b c", "a x c", (2, 1, 0, 0)),
        ("a b c", "a c", (2, 0, 1, 0)),
        ("a b c", "a b b c", (3, 0, 0, 1)),
        ("a b c", "", (0, 0, 3, 0)),
        ("one", "one two three four", (1, 0, 0, 3)),
    ],
)
def test_counts_by_hand(ref, hyp, counts):
    score = wer([ref], [hyp])
    assert (score.hits, score.substitutions, score.deletions, score.insertions) == counts
    assert score.ref_words == len(ref.split())
    assert score.rate == pytest.approx(sum(counts[1:]) / len(ref.split()))


def test_rate_may_exceed_one():
    assert wer(["one"], ["a b c d"]).rate == 4.0


def test_an_empty_reference_counts_insertions():
    score = wer(["a b", ""], ["a b", "c d e"])
    assert (score.hits, score.insertions, score.ref_words, score.rate) == (2, 3, 2, 1.5)


def test_nothing_is_normalised():
    assert wer(["Yes, Sir"], ["yes sir"]).substitutions == 2
    assert wer([" a \t b\n"], ["a b"]).rate == 0  # white space only separates words
    assert cer([" ab"], ["ab"]).deletions == 1
    assert cer(["a  b"], ["a b"]).deletions == 1


def test_characters_by_hand():
    score = cer(["ab cd", "x"], ["ab cx", "xy"])
    assert (score.hits, score.substitutions, score.deletions, score.insertions) == (5, 1, 0, 1)
    assert score.ref_chars == 6
    assert score.rate == pytest.approx(2 / 6)


@settings(deadline=None)
@given(utterances)
def test_errors_are_the_edit_distance(pairs):
    refs, hyps = map(list, zip(*pairs, strict=True))
    for score, split in ((wer, str.split), (cer, list)):
        if not any(map(split, refs)):
            continue
        result = score(refs, hyps)
        assert result.errors == sum(edit_distance(split(r), split(h)) for r, h in pairs)
        assert result.ref_length == sum(len(split(r)) for r in refs)
        assert result.hits + result.substitutions + result.insertions == sum(len(split(h)) for h in hyps)


@settings(deadline=None)
@given(utterances.filter(lambda pairs: any(ref.split() for ref, _ in pairs)))
def test_word_rate_is_what_jiwer_gives_with_its_own_transforms(pairs):
    refs, hyps = map(list, zip(*pairs, strict=True))
    assert wer(refs, hyps).rate == pytest.approx(jiwer.wer(refs, hyps))


def test_shards_pool():
    refs, hyps = ["a b", "c", "d e f"], ["a", "c c", "x e f"]
    assert wer(refs[:1], hyps[:1]) + wer(refs[1:], hyps[1:]) == wer(refs, hyps)


def test_words_and_characters_do_not_pool():
    with pytest.raises(ValueError, match="cannot pool"):
        wer(["a"], ["a"]) + cer(["a"], ["a"])


def test_units_are_kept_apart():
    assert not hasattr(cer(["a"], ["a"]), "ref_words")
    assert not hasattr(wer(["a"], ["a"]), "ref_chars")
    assert wer(["a"], ["a"]).signature != cer(["a"], ["a"]).signature


def test_signature_says_how():
    from seqdsd import __version__

    assert wer(["a"], ["a"]).signature == f"words|split on white space|no normalisation|seqdsd {__version__}"


def test_plain_counts_go_to_json():
    assert asdict(wer(["a b"], ["a"])) == {
        "unit": "words",
        "hits": 1,
        "substitutions": 0,
        "deletions": 1,
        "insertions": 0,
    }


@pytest.mark.parametrize("refs", [[], [""], ["", "  "]])
def test_nothing_to_score(refs):
    with pytest.raises(ValueError, match="nothing to score"):
        wer(refs, ["a"] * len(refs))


def test_no_reference_no_rate():
    with pytest.raises(ValueError, match="nothing to score"):
        _ = ErrorRate("words", hits=0, substitutions=0, deletions=0, insertions=2).rate


def test_lists_must_pair_up():
    with pytest.raises(ValueError, match="2 references but 1 hypotheses"):
        wer(["a", "b"], ["a"])


def test_a_single_string_is_refused():
    with pytest.raises(ValueError, match="wrap a single one in a list"):
        wer("a b", "a b")


def test_torch_stays_out():
    code = "import sys, seqdsd.metrics, seqdsd.reports; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
