"""Tests of differences against cases by hand, SciPy, NIST's sc_stats, sacreBLEU, and slow loops."""

import json
import math
import random
import re
import shutil
import subprocess
import time
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from seqdsd.metrics import bleu, significance, wer
from seqdsd.metrics.significance import (
    BootstrapTest,
    Interval,
    MeanTest,
    SegmentTest,
    bootstrap_bleu,
    bootstrap_wer,
    holm,
    in_words,
    mapsswe,
    paired_t_test,
    unpaired_t_test,
)

HYPS = Path(__file__).parents[2] / "recipes" / "an4" / "records" / "ds1-dsd-seed0" / "hyps"

scores = st.lists(st.integers(0, 1000).map(lambda tenths: tenths / 10), min_size=2, max_size=8)
utterances = st.lists(st.tuples(*[st.text("ab \t", max_size=12)] * 3), min_size=1, max_size=6)


def an4(phase: str) -> tuple[list[str], list[str]]:
    """References and hypotheses of the test utterances after a phase of the committed run."""
    lines = [json.loads(line) for line in (HYPS / f"{phase}.test.jsonl").read_text().splitlines()]
    return [line["ref"] for line in lines], [line["hyp"] for line in lines]


def an4_pair(before: str, after: str) -> tuple[list[str], list[str], list[str]]:
    return *an4(before), an4(after)[1]


# --- t-tests -----------------------------------------------------------------------------------------------------


def test_paired_by_hand():
    """Differences 1, 2, 3: mean 2, SD 1; with 2 degrees of freedom p = 1 - t / sqrt(t^2 + 2)."""
    test = paired_t_test([10, 20, 30], [11, 22, 33])
    t = 2 / (1 / math.sqrt(3))
    assert test.test == "paired t-test"
    assert (test.before.count, test.before.mean, test.before.sd) == (3, 20, 10)
    assert (test.difference, test.relative, test.degrees_of_freedom) == (2, 0.1, 2)
    assert test.statistic == pytest.approx(t)
    assert test.p_value == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    margin = 4.302653 / math.sqrt(3)  # the tables' t for 95 % and 2 degrees of freedom
    assert (test.low, test.high) == pytest.approx((2 - margin, 2 + margin))


def test_unpaired_by_hand():
    """Variances 1 and 4 of three each: standard error sqrt(5/3), degrees of freedom (5/3)^2 / (1/18 + 16/18)."""
    test = unpaired_t_test([1, 2, 3], [3, 5, 7])
    assert test.test == "unpaired t-test"
    assert test.statistic == pytest.approx(3 / math.sqrt(5 / 3))
    assert test.degrees_of_freedom == pytest.approx(25 / 9 / (17 / 18))
    assert test.relative == 1.5


@settings(deadline=None, max_examples=30)
@given(scores, scores, st.sampled_from([0.5, 0.95, 0.99]))
def test_unpaired_as_scipy_has_it(before, after, confidence):
    assume(len(set(before)) > 1 and len(set(after)) > 1)  # else it warns; see the next test
    expected = stats.ttest_ind(after, before, equal_var=False)
    test = unpaired_t_test(before, after, confidence=confidence)
    check_against_scipy(test, expected, confidence)
    assert test.difference == pytest.approx(np.mean(after) - np.mean(before))


def test_one_side_that_does_not_vary():
    test = unpaired_t_test([0.1, 0.1, 0.1], [0.1, 0.2, 0.4, 0.3])
    expected = stats.ttest_1samp([0.1, 0.2, 0.4, 0.3], 0.1)
    check_against_scipy(replace(test, low=test.low + 0.1, high=test.high + 0.1), expected, 0.95)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 1000)] * 2), min_size=2, max_size=8), st.sampled_from([0.5, 0.95]))
def test_paired_as_scipy_has_it(pairs, confidence):
    before, after = map(list, zip(*pairs, strict=True))
    assume(len({late - early for early, late in pairs}) > 1)
    expected = stats.ttest_rel(after, before)
    check_against_scipy(paired_t_test(before, after, confidence=confidence), expected, confidence)


def check_against_scipy(test: MeanTest, expected, confidence: float) -> None:
    interval = expected.confidence_interval(confidence)
    ours = [test.statistic, test.degrees_of_freedom, test.p_value, test.low, test.high]
    theirs = [expected.statistic, expected.df, expected.pvalue, interval.low, interval.high]
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_table_10_of_the_paper():
    """Sixteen runs each: fine-tuning 7.97 (SD 0.04), DSD 7.89 (SD 0.03); the paper says p < 0.001."""

    def sixteen(mean: float, sd: float) -> list[float]:
        spread = stats.norm.ppf((np.arange(16) + 0.5) / 16)
        return (mean + sd * spread / spread.std(ddof=1)).tolist()

    test = unpaired_t_test(sixteen(7.97, 0.04), sixteen(7.89, 0.03))
    assert (test.after.mean, test.after.sd) == pytest.approx((7.89, 0.03))
    expected = stats.ttest_ind_from_stats(7.89, 0.03, 16, 7.97, 0.04, 16, equal_var=False)
    assert (test.statistic, test.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert test.p_value < 0.001
    assert test.relative == pytest.approx(-0.08 / 7.97)


def test_pairing_finds_what_seeds_hide():
    before = [10.0, 12.0, 14.0, 16.0]
    after = [9.4, 11.6, 13.5, 15.5]
    assert unpaired_t_test(before, after).p_value > 0.5
    assert paired_t_test(before, after).p_value < 0.01


@pytest.mark.parametrize("test", [unpaired_t_test, paired_t_test])
def test_nothing_varies(test):
    """0.1 is no binary fraction: sums that round would invent a variance."""
    same = test([0.1] * 3, [0.1] * 3)
    assert (same.difference, same.low, same.high, same.statistic, same.p_value) == (0, 0, 0, 0, 1)
    worse = test([0.1] * 3, [0.3] * 3)
    assert (worse.statistic, worse.p_value, worse.after.sd) == (math.inf, 0, 0)
    assert worse.low == worse.high == worse.difference == pytest.approx(0.2)
    assert test([0.3] * 3, [0.1] * 3).statistic == -math.inf
    assert same.degrees_of_freedom == (4 if test is unpaired_t_test else 2)


def test_a_mean_does_not_depend_on_how_many_say_the_same():
    assert reduce(add, [0.1] * 10) / 10 != 0.1  # as sum is before Python 3.12
    assert unpaired_t_test([0.1] * 3, [0.1] * 10).p_value == 1


def test_the_limit_is_what_ever_smaller_variances_tend_to():
    p_values = [unpaired_t_test([1, 1 + tiny], [2, 2 + tiny]).p_value for tiny in (1e-1, 1e-4, 1e-8, 1e-15)]
    assert p_values == sorted(p_values, reverse=True)
    assert p_values[-1] < 1e-25 and unpaired_t_test([1, 1], [2, 2]).p_value == 0


def test_variances_too_small_to_square():
    test = unpaired_t_test([0, 1e-200], [0, 3e-200])
    assert test.statistic == pytest.approx(stats.ttest_ind([0, 3], [0, 1], equal_var=False).statistic)


def test_identical_samples_that_vary():
    varied = [0.31, 0.29, 0.3]
    paired = paired_t_test(varied, varied)
    assert (paired.difference, paired.statistic, paired.p_value) == (0, 0, 1)
    assert unpaired_t_test(varied, varied).p_value == 1
    assert unpaired_t_test(varied, varied).low < 0 < unpaired_t_test(varied, varied).high


def test_no_share_of_nothing():
    assert math.isnan(unpaired_t_test([0, 0], [1, 2]).relative)


@pytest.mark.parametrize("test", [unpaired_t_test, paired_t_test])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_none_are_named(test, bad):
    with pytest.raises(ValueError, match=rf"^before\[1\] is {bad}"):
        test([1, bad], [1, 2])
    with pytest.raises(ValueError, match=rf"^after\[0\] is {bad}"):
        test([1, 2], [bad, 2])


def test_scores_must_be_two_and_pair_up():
    with pytest.raises(ValueError, match="two or more scores a side, got 1 after"):
        unpaired_t_test([1, 2], [1])
    with pytest.raises(ValueError, match="3 scores before but 2 after"):
        paired_t_test([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, such as 0.95, got 95.0"):
        unpaired_t_test([1, 2], [1, 2], confidence=95.0)


# --- MAPSSWE -----------------------------------------------------------------------------------------------------


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
def test_real_speech_as_sc_stats_printed_it(before, after):
    assert as_printed(mapsswe(*an4_pair(before, after))) == PRINTED[before, after]


@pytest.mark.parametrize(("before", "after"), PRINTED)
def test_real_speech_as_sc_stats_scores_it(tmp_path, before, after):
    refs, hyps_before, hyps_after = an4_pair(before, after)
    nist = by_sc_stats(tmp_path, refs, hyps_after, hyps_before)
    swapped = replace(nist, errors_before=nist.errors_after, errors_after=nist.errors_before)
    assert as_printed(mapsswe(refs, hyps_before, hyps_after)) == as_printed(swapped)


def garbled(words: list[str], source: random.Random, rate: float) -> str:
    """Errors whose alignment leaves no choice of segment: no two words of an utterance are the same."""
    heard = []
    for word in words:
        error = source.random()
        heard += [] if error < rate / 3 else [word.upper() if error < 2 * rate / 3 else word]
        heard += [f"extra{source.randrange(10**9)}"] if source.random() < rate / 3 else []
    return " ".join(heard)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_the_statistic_where_alignments_leave_no_choice(tmp_path, rate):
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


def test_the_same_errors_differ_by_nothing():
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


# --- Bootstrap ---------------------------------------------------------------------------------------------------


def summed_up(before, after, values, resampled) -> BootstrapTest:
    """Percentiles and p by their definitions, from resampled scores."""
    differences = [late - early for early, late in resampled]
    low, high = zip(*[np.percentile(side, [2.5, 97.5]) for side in (before, after, differences)], strict=True)
    points = [*values, values[1] - values[0]]
    intervals = [Interval(*map(float, ends)) for ends in zip(points, low, high, strict=True)]
    tails = [sum(d <= 0 for d in differences), sum(d >= 0 for d in differences)]
    p_value = min(1, 2 * (min(tails) + 1) / (len(differences) + 1))
    return BootstrapTest(*intervals, points[2] / values[0], float(p_value), len(differences))


def check_same(ours: BootstrapTest, slow: BootstrapTest) -> None:
    for part in ("before", "after", "difference"):
        assert asdict(getattr(ours, part)) == pytest.approx(asdict(getattr(slow, part)), abs=1e-9), part
    rest = [(test.relative, test.p_value, test.resamples) for test in (ours, slow)]
    assert rest[0] == pytest.approx(rest[1])


def slowly(score, refs, before, after, *, resamples: int, seed: int) -> BootstrapTest:
    """One resample after the other, scored from its texts."""
    draws = np.random.default_rng(seed).choice(len(refs), size=(resamples, len(refs)), replace=True)
    resampled = [
        tuple(score([refs[i] for i in draw], [hyps[i] for i in draw]) for hyps in (before, after))
        for draw in draws
    ]
    values = [score(refs, hyps) for hyps in (before, after)]
    return summed_up(*zip(*resampled, strict=True), values, resampled)


@pytest.mark.parametrize(
    ("before", "after"), [("dense-iter-0", "dense-iter-2"), ("sparse-iter-2", "dense-iter-2")]
)
def test_error_rates_as_a_slow_loop_has_them(before, after):
    refs, *hyps = an4_pair(before, after)
    slow = slowly(lambda refs, hyps: wer(refs, hyps).rate, refs, *hyps, resamples=150, seed=5)
    check_same(bootstrap_wer(refs, *hyps, resamples=150, seed=5), slow)
    assert slow.before.value == wer(refs, hyps[0]).rate


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_as_a_slow_loop_has_it(few, order):
    """Few items, with a short, an empty and a poor caption: no 4-gram matches in many a resample."""
    refs_per_item, hyps = few
    better = [refs[0] for refs in refs_per_item[:2]] + hyps[2:]
    slow = slowly(
        lambda refs, hyps: getattr(bleu(refs, hyps), f"bleu{order}"),
        refs_per_item,
        hyps,
        better,
        resamples=200,
        seed=1,
    )
    check_same(bootstrap_bleu(refs_per_item, hyps, better, order=order, resamples=200, seed=1), slow)


def test_error_rates_as_scipys_bootstrap_has_them():
    """Other draws: the ends of an interval differ by chance, here by at most five of its standard errors."""
    refs, *hyps = an4_pair("dense-iter-0", "dense-iter-1")
    words = [len(ref.split()) for ref in refs]
    errors = [[wer([ref or "x"], [hyp]).errors for ref, hyp in zip(refs, side, strict=True)] for side in hyps]
    statistic_of = {
        "before": lambda words, early, late, axis: early.sum(axis) / words.sum(axis),
        "after": lambda words, early, late, axis: late.sum(axis) / words.sum(axis),
        "difference": lambda words, early, late, axis: (late - early).sum(axis) / words.sum(axis),
    }
    ours = bootstrap_wer(refs, *hyps)
    for part, statistic in statistic_of.items():
        theirs = stats.bootstrap(
            (words, *errors),
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=10_000,
            random_state=1,
        )
        # The variance of a sample's 2.5 % point is q (1 - q) / n / density^2, the normal density there 0.0584 / SD.
        tolerance = 5 * math.sqrt(2 * 0.025 * 0.975 / 10_000) / 0.0584 * theirs.standard_error
        interval = getattr(ours, part)
        assert interval.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance), part
        assert interval.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance), part
        assert tolerance < (interval.high - interval.low) / 15


def sacrebleus_scores(refs_per_item, hyps, draws) -> list[float]:
    metric = BLEU(tokenize="none", smooth_method="none", effective_order=True, force=True)
    items = [metric.sentence_score(hyp, refs) for refs, hyp in zip(refs_per_item, hyps, strict=True)]
    counts = np.array([[item.sys_len, item.ref_len, *item.counts, *item.totals] for item in items])
    sums = [counts[draw].sum(axis=0).tolist() for draw in draws]
    return [BLEU.compute_bleu(total[2:6], total[6:], total[0], total[1]).score for total in sums]


@pytest.fixture
def caption_pairs() -> dict[str, tuple[list[list[str]], list[str], list[str]]]:
    """Real hypotheses with BLEU differences from slight to clear; AN4's with single references are always here."""
    refs, early, late = an4_pair("sparse-iter-1", "dense-iter-1")
    return {
        "slight": ([[ref] for ref in refs], early, late),
        "clear": ([[ref] for ref in refs], an4("dense-iter-0")[1], late),
        "backwards": ([[ref] for ref in refs], late, an4("dense-iter-0")[1]),
    }


@pytest.mark.parametrize("pair", ["slight", "clear", "backwards", "flickr8k"])
def test_bleu_as_sacrebleus_paired_bootstrap_has_it(monkeypatch, request, caption_pairs, pair):
    """The same draws from the same seed, so that all must agree to rounding (sacreBLEU counts in float32)."""
    if pair == "flickr8k":
        refs_per_item, before = request.getfixturevalue("flickr8k")
        after = [" ".join(hyp.split()[:-1]) if i % 15 == 0 else hyp for i, hyp in enumerate(before)]
    else:
        refs_per_item, before, after = caption_pairs[pair]
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    streams = [list(stream) for stream in zip(*refs_per_item, strict=True)]
    named = [("before", before), ("after", after)]
    results = PairedTest(named, {"BLEU": metric}, streams, test_type="bs", n_samples=400)()[1]["BLEU"]

    draws = np.random.default_rng(12345).choice(len(before), size=(400, len(before)), replace=True)
    resampled = [sacrebleus_scores(refs_per_item, hyps, draws) for hyps in (before, after)]
    values = [result.score for result in results]
    slow = summed_up(*resampled, values, list(zip(*resampled, strict=True)))
    ours = bootstrap_bleu(refs_per_item, before, after, resamples=400, seed=12345)
    check_same(ours, slow)

    # Its interval is half the distance between the 11th and the 390th of 400 scores; our ends are within one of these.
    for side, result, scores in zip((ours.before, ours.after), results, resampled, strict=True):
        assert (side.high - side.low) / 2 == pytest.approx(result.ci, rel=0.02)
        assert np.mean(scores) == pytest.approx(result.mean, rel=1e-4)

    # Its p-value by its own definition, from the same differences.
    absolute = np.abs(np.subtract(*resampled))
    exceeding = np.count_nonzero(absolute - absolute.mean() > abs(values[1] - values[0]))
    assert results[1].p_value == pytest.approx((exceeding + 1) / 401, abs=0.003)
    # These differences have one sign in nearly all resamples: it looks at one side of them.
    assert results[1].p_value == pytest.approx(ours.p_value / 2, abs=0.008)


def test_ten_thousand_resamples_of_a_thousand_images_take_less_than_three_seconds(
    flickr8k, flickr8k_shortened
):
    start = time.process_time()
    test = bootstrap_bleu(*flickr8k, flickr8k_shortened.hyps)
    assert time.process_time() - start < 3
    assert test.resamples == 10_000
    assert test.before.value == pytest.approx(bleu(*flickr8k).bleu4)
    assert test.difference.value == pytest.approx(test.after.value - test.before.value)


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    pair = an4_pair("dense-iter-0", "dense-iter-1")
    whole = bootstrap_wer(*pair, resamples=57)
    monkeypatch.setattr(significance, "_DRAWS_AT_ONCE", 300)
    assert bootstrap_wer(*pair, resamples=57) == whole


def test_the_seed_decides():
    pair = an4_pair("dense-iter-0", "dense-iter-1")
    assert bootstrap_wer(*pair, seed=3) == bootstrap_wer(*pair, seed=3)
    assert bootstrap_wer(*pair, seed=3).before.low != bootstrap_wer(*pair, seed=4).before.low


def test_a_wider_confidence_gives_a_wider_interval():
    pair = an4_pair("dense-iter-0", "dense-iter-1")
    narrow, wide = (bootstrap_wer(*pair, confidence=confidence).difference for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_p_and_interval_agree_on_zero():
    for before, after in PRINTED:
        test = bootstrap_wer(*an4_pair(before, after))
        assert (test.p_value < 0.05) == (test.difference.high < 0 or test.difference.low > 0)


def test_the_same_system_twice():
    refs, hyps = an4("dense-iter-0")
    same = bootstrap_wer(refs, hyps, hyps)
    assert (same.difference, same.relative, same.p_value) == (Interval(0.0, 0.0, 0.0), 0, 1)
    same = bootstrap_bleu([[ref] for ref in refs], hyps, hyps)
    assert (same.difference, same.relative, same.p_value) == (Interval(0.0, 0.0, 0.0), 0, 1)


def test_perfect_and_silent_systems():
    perfect = bootstrap_wer(["a b", "c d"], ["a b", "c d"], ["a", "c"], resamples=50)
    assert perfect.before == Interval(0.0, 0.0, 0.0) and math.isnan(perfect.relative)
    assert perfect.after == Interval(0.5, 0.5, 0.5) and perfect.p_value == pytest.approx(2 / 51)
    silent = bootstrap_bleu([["a b"], ["c d"]], ["", ""], ["a b", "c d"], order=2, resamples=50)
    assert silent.before == Interval(0.0, 0.0, 0.0) and silent.after == Interval(100.0, 100.0, 100.0)


def test_resamples_without_a_word_have_no_rate():
    """One of two references is empty: a quarter of the resamples draws nothing else."""
    test = bootstrap_wer(["a b", ""], ["a x", ""], ["a b", ""], resamples=1000)
    assert 700 < test.resamples < 800
    assert test.before == Interval(0.5, 0.5, 0.5)


def coin_flips(seed: int) -> tuple[list[str], list[str], list[str]]:
    """Two systems that err equally often, on 50 utterances of which some are harder."""
    source = random.Random(seed)
    utterances = [[f"w{i}" for i in range(source.randrange(3, 12))] for _ in range(50)]
    rates = [source.random() / 2 for _ in utterances]
    both = (
        [garbled(*pair, source, rate) for *pair, rate in zip(utterances, rates, strict=True)]
        for _ in range(2)
    )
    return [" ".join(words) for words in utterances], *both


@pytest.mark.parametrize("test", [mapsswe, lambda *texts: bootstrap_wer(*texts, resamples=500)])
def test_equal_systems_rarely_differ_significantly(test):
    """At 0.05, 200 tests raise 10 false alarms, give or take 3."""
    alarms = sum(test(*coin_flips(seed)).p_value < 0.05 for seed in range(200))
    assert 2 <= alarms <= 20


@pytest.mark.parametrize("test", [mapsswe, bootstrap_wer])
def test_utterances_that_cannot_be_compared(test):
    with pytest.raises(ValueError, match="2 references but 1 hypotheses after"):
        test(["a", "b"], ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="2 references but 3 hypotheses before"):
        test(["a", "b"], ["a", "b", "c"], ["a", "b"])
    with pytest.raises(ValueError, match="nothing to score: the 1 references hold no words"):
        test([" "], ["a"], ["a"])
    with pytest.raises(ValueError, match="nothing to score"):
        test([], [], [])
    with pytest.raises(ValueError, match="wrap a single one in a list"):
        test("a", "a", "a")


def test_images_that_cannot_be_compared():
    with pytest.raises(ValueError, match="2 items but 1 hypotheses"):
        bootstrap_bleu([["a"], ["b"]], ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="item 1 has no reference"):
        bootstrap_bleu([["a"], []], ["a", "b"], ["a", "b"])
    with pytest.raises(ValueError, match="order must be from 1 to 4, got 5"):
        bootstrap_bleu([["a"]], ["a"], ["a"], order=5)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        bootstrap_bleu([["a"]], ["a"], ["a"], resamples=0)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        bootstrap_wer(["a"], ["a"], ["a"], confidence=1.0)


# --- Holm, and p-values in words ---------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx(
        [0.03, 0.06, 0.06]
    )  # 0.01 x 3, 0.03 x 2, 0.04 is pulled up
    assert holm([0.5, 0.01]) == pytest.approx([0.5, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_as_statsmodels_has_it():
    """Pinned: statsmodels 0.15.0, ``multipletests(p_values, method="holm")[1]``."""
    p_values = [0.01, 0.04, 0.03, 0.005, 0.2, 0.03]
    assert holm(p_values) == pytest.approx([0.05, 0.12, 0.12, 0.03, 0.2, 0.12])


def steps_down(p_values: list[float], alpha: float) -> list[bool]:
    """Holm's procedure as it was published: reject the smallest while it is small enough, then stop."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] * (len(p_values) - rank) > alpha:
            break
        rejected[index] = True
    return rejected


p_value_lists = st.lists(st.integers(0, 1000).map(lambda n: n / 1000), max_size=8)


@given(p_value_lists, st.sampled_from([0.01, 0.05, 0.1, 0.3]))
def test_holm_rejects_what_the_procedure_rejects(p_values, alpha):
    assert [adjusted <= alpha for adjusted in holm(p_values)] == steps_down(p_values, alpha)


@given(p_value_lists, st.randoms())
def test_holm_keeps_order_and_bounds(p_values, source):
    adjusted = holm(p_values)
    assert all(p_value <= larger <= 1 for p_value, larger in zip(p_values, adjusted, strict=True))
    assert [a for _, a in sorted(zip(p_values, adjusted, strict=True))] == sorted(adjusted)
    shuffled = source.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in shuffled]) == [adjusted[i] for i in shuffled]


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan])
def test_holm_names_what_is_no_p_value(bad):
    with pytest.raises(ValueError, match=rf"p_values\[1\] is {bad}"):
        holm([0.5, bad])


@pytest.mark.parametrize(
    ("p_value", "words"),
    [
        (0.00099, "p < 0.001"),
        (0.001, "p = 0.001"),
        (0.0123, "p = 0.012"),
        (0.0499, "p = 0.0499"),  # 0.05 would be on the other side
        (0.04996, "p = 0.04996"),
        (0.05, "not significant (p = 0.05)"),
        (0.0501, "not significant (p = 0.05)"),
        (0.21, "not significant (p = 0.21)"),
        (1, "not significant (p = 1)"),
        (0, "p < 0.001"),
    ],
)
def test_p_values_in_words(p_value, words):
    assert in_words(p_value) == words


def test_words_depend_on_alpha():
    assert in_words(0.02, alpha=0.01) == "not significant (p = 0.02)"
    assert in_words(0.0005, alpha=0.0001) == "not significant (p < 0.001)"
