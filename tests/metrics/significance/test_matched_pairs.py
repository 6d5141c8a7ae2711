"""MAPSSWE against NIST's sc_stats, a textbook's example and cases by hand."""

import math
import random
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from seqdsd.metrics import SegmentTest, mapsswe, wer

utterances = st.lists(st.tuples(*[st.text("ab \t", max_size=12)] * 3), min_size=1, max_size=6)


def by_sc_stats(folder: Path, refs: list[str], hyps_first: list[str], hyps_second: list[str]) -> SegmentTest:
    """NIST's own program, its numbers as printed: three decimals. p is not printed, and taken over as NaN."""
    if not shutil.which("sctk"):
        pytest.skip("sc_stats is not here: on Debian it comes with the package sctk")

    def write(name: str, lines: list[str]) -> Path:
        path = folder / f"{name}.trn"
        path.write_text("".join(f"{line} (speaker-{i})\n" for i, line in enumerate(lines)), encoding="utf-8")
        return path

    ref = write("ref", refs)
    for name, lines in (("first", hyps_first), ("second", hyps_second)):
        sclite = (
            f"sctk sclite -i spu_id -s -r {ref} trn -h {write(name, lines)} trn {name} -o sgml -n {name} -f 0"
        )
        subprocess.run([*sclite.split(), "-O", str(folder)], check=True, capture_output=True)
    # Through files, not sclite -p: what Debian's build pipes, its sc_stats cannot read.
    alignments = b"".join((folder / f"{name}.sgml").read_bytes() for name in ("first", "second"))
    sc_stats = ["sctk", "sc_stats", "-p", "-t", "mapsswe", "-v", "-n", "both", "-O", str(folder)]
    subprocess.run(sc_stats, input=alignments, check=True, capture_output=True)
    printed = (folder / "both.stats.mapsswe").read_text()
    numbers = [
        re.search(rf"\({what}: +(\S+)\)", printed)[1] for what in ("# segs", "mean", "std dev", "Z Stat")
    ]
    errors = re.search(r"^Totals +\d+ +(\d+) +(\d+)", printed, re.MULTILINE)
    return SegmentTest(
        int(numbers[0]),
        *map(float, numbers[1:]),
        math.nan,
        errors_before=int(errors[1]),
        errors_after=int(errors[2]),
    )


def as_printed(test: SegmentTest) -> tuple[float | int, ...]:
    return (
        test.num_segments,
        *(round(number, 3) for number in (test.mean, test.sd, test.z)),
        test.errors_before,
        test.errors_after,
    )


# What sc_stats of SCTK 2.4.10 (Debian sctk 2.4.10-20151007) printed, the phases' hypotheses written as NIST's
# transcripts, the later phase given first; here its two error counts are swapped back. For each phase:
#   sctk sclite -i spu_id -s -r ref.trn trn -h PHASE.trn trn PHASE -o sgml -n PHASE -f 0
# and then:
#   cat LATER.sgml EARLIER.sgml | sctk sc_stats -p -t mapsswe -v -n both; grep -a 'MTCH\|Totals' both.stats.mapsswe
PRINTED = {
    ("dense-iter-0", "dense-iter-2"): (92, -0.859, 0.956, -8.616, 152, 73),
    ("sparse-iter-1", "dense-iter-1"): (77, -0.195, 0.889, -1.923, 99, 84),
    ("sparse-iter-2", "dense-iter-2"): (55, -0.127, 0.695, -1.357, 80, 73),
}


@pytest.mark.parametrize(("before", "after"), PRINTED)
def test_real_speech_as_sc_stats_printed_it(an4_pair, before, after):
    assert as_printed(mapsswe(*an4_pair(before, after))) == PRINTED[before, after]


@pytest.mark.parametrize(("before", "after"), PRINTED)
def test_real_speech_as_sc_stats_scores_it(tmp_path, an4_pair, before, after):
    refs, hyps_before, hyps_after = an4_pair(before, after)
    nist = by_sc_stats(tmp_path, refs, hyps_after, hyps_before)
    swapped = replace(nist, errors_before=nist.errors_after, errors_after=nist.errors_before)
    assert as_printed(mapsswe(refs, hyps_before, hyps_after)) == as_printed(swapped)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_the_statistic_where_alignments_leave_no_choice(tmp_path, garbled, rate):
    source = random.Random(int(100 * rate))
    utterances = [[f"w{i}" for i in range(source.randrange(1, 20))] for _ in range(150)]
    refs = [" ".join(words) for words in utterances]
    worse, better = ([garbled(words, source, r) for words in utterances] for r in (rate, 0.7 * rate))
    ours = mapsswe(refs, worse, better)
    nist = by_sc_stats(tmp_path, refs, better, worse)
    assert ours.num_segments > 50
    assert ours.errors_before == wer(refs, worse).errors
    assert as_printed(ours) == as_printed(
        replace(nist, errors_before=nist.errors_after, errors_after=nist.errors_before)
    )


def test_the_textbooks_example():
    """Jurafsky & Martin: four segments, where A makes 2, -1, -1 and 1 errors more than B."""
    test = mapsswe(
        ["it was the best of times it was the worst of times it was"],
        ["it was the best times it WON the TEST of times it was"],
        ["ITS the best of times it IS the worst of times OR it was"],
    )
    assert (test.num_segments, test.errors_before, test.errors_after) == (4, 3, 4)
    assert test.mean == pytest.approx(0.25)
    assert test.sd == pytest.approx(math.sqrt((1.75**2 + 2 * 1.25**2 + 0.75**2) / 3))
    assert test.z == pytest.approx(0.25 / (test.sd / 2))
    assert test.p_value == pytest.approx(2 * stats.norm.sf(test.z))


@pytest.mark.parametrize(
    ("hyp_before", "hyp_after", "num_segments"),
    [
        ("X b c Y e f", "a b c d e f", 2),  # two right words part them
        ("X b Y d e f", "a b c d e f", 1),  # one does not
        ("X b c d e f", "a b Y d e f", 1),  # both systems' errors count
        ("X b more c Y e f", "a b c d e f", 1),  # a word added between them joins
        ("X b c d e f", "a b more c Y e f", 1),
        ("a b c d e f more", "a b c d e f", 1),  # errors at the end need no boundary after them
        ("a b c d e f", "a b c d e f more", 1),
        ("a b c d e Y", "a b c d e f", 1),
        ("", "a b c d e f", 1),
        ("a b c d e f", "a b c d e f", 0),
    ],
)
def test_where_segments_end(hyp_before, hyp_after, num_segments):
    assert mapsswe(["a b c d e f"], [hyp_before], [hyp_after]).num_segments == num_segments


def test_segments_end_with_their_utterance():
    assert mapsswe(["a b", "c d"], ["a X", "Y d"], ["a b", "c d"]).num_segments == 2


def test_what_does_not_vary_shows_nothing():
    perfect = mapsswe(["a b c"], ["a b c"], ["a b c"])
    assert asdict(perfect) == asdict(SegmentTest(0, 0.0, 0.0, 0.0, 1.0, 0, 0))
    one = mapsswe(["a b c"], ["a b c"], ["a X Y"])
    assert (one.num_segments, one.mean, one.sd, one.z, one.p_value) == (1, 2, 0, 0, 1)
    two = mapsswe(["a b c", "a b c"], ["a b c"] * 2, ["a X c", "X Y Z"])
    assert (two.num_segments, two.mean, two.z) == (2, 2, pytest.approx(2))
    alike = mapsswe(["a b c"] * 9, ["a b c"] * 9, ["a X c"] * 9)
    assert (alike.num_segments, alike.mean, alike.sd, alike.z, alike.p_value) == (9, 1, 0, 0, 1)


def test_the_same_errors_differ_by_nothing(an4):
    refs, hyps = an4("dense-iter-0")
    same = mapsswe(refs, hyps, hyps)
    assert (same.mean, same.p_value) == (0, 1)
    assert same.errors_before == same.errors_after == wer(refs, hyps).errors


@settings(deadline=None)
@given(utterances)
def test_every_error_lies_in_a_segment(triples):
    refs, before, after = map(list, zip(*triples, strict=True))
    assume(any(map(str.split, refs)))
    test = mapsswe(refs, before, after)
    assert test.errors_before == wer(refs, before).errors
    assert test.errors_after == wer(refs, after).errors
    swapped = mapsswe(refs, after, before)
    assert (swapped.num_segments, swapped.mean, swapped.z) == (test.num_segments, -test.mean, -test.z)
    assert swapped.p_value == test.p_value
