"""The bootstrap against slow loops, SciPy's, and sacreBLEU's paired one."""

import math
import random
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest
from scipy import stats

from seqdsd.metrics import (
    BootstrapTest,
    Interval,
    bleu,
    bootstrap_bleu,
    bootstrap_error_rate,
    bootstrap_wer,
    mapsswe,
    wer,
)
from seqdsd.metrics.significance import bootstrap


def summed_up(before, after, values, resampled) -> BootstrapTest:
    """Percentiles and p by their definitions, from resampled scores."""
    differences = [late - early for early, late in resampled]
    low, high = zip(*[np.percentile(side, [2.5, 97.5]) for side in (before, after, differences)], strict=True)
    points = [*values, values[1] - values[0]]
    intervals = [Interval(*map(float, ends)) for ends in zip(points, low, high, strict=True)]
    tails = [sum(d <= 0 for d in differences), sum(d >= 0 for d in differences)]
    p_value = min(1, 2 * (min(tails) + 1) / (len(differences) + 1))
    return BootstrapTest(
        *intervals, points[2] / values[0], float(p_value), len(differences), float(np.std(differences))
    )


def check_same(ours: BootstrapTest, slow: BootstrapTest) -> None:
    for part in ("before", "after", "difference"):
        assert asdict(getattr(ours, part)) == pytest.approx(asdict(getattr(slow, part)), abs=1e-9), part
    rest = [(test.relative, test.p_value, test.resamples, test.standard_error) for test in (ours, slow)]
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
def test_error_rates_as_a_slow_loop_has_them(an4_pair, before, after):
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
    num_unlike = 1 if order < 3 else 2  # captions whose counts differ
    slow = replace(slow, p_value=max(slow.p_value, 2 / 2**num_unlike))
    check_same(bootstrap_bleu(refs_per_item, hyps, better, order=order, resamples=200, seed=1), slow)


def test_error_rates_as_scipys_bootstrap_has_them(an4_pair):
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
def caption_pairs(an4, an4_pair) -> dict[str, tuple[list[list[str]], list[str], list[str]]]:
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


def test_draws_do_not_depend_on_how_many_are_held_at_once(an4_pair, monkeypatch):
    pair = an4_pair("dense-iter-0", "dense-iter-1")
    whole = bootstrap_wer(*pair, resamples=57)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 300)
    assert bootstrap_wer(*pair, resamples=57) == whole


def test_the_seed_decides(an4_pair):
    pair = an4_pair("dense-iter-0", "dense-iter-1")
    assert bootstrap_wer(*pair, seed=3) == bootstrap_wer(*pair, seed=3)
    assert bootstrap_wer(*pair, seed=3).before.low != bootstrap_wer(*pair, seed=4).before.low


def test_a_wider_confidence_gives_a_wider_interval(an4_pair):
    pair = an4_pair("dense-iter-0", "dense-iter-1")
    narrow, wide = (bootstrap_wer(*pair, confidence=confidence).difference for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_p_and_interval_agree_on_zero(an4_pair):
    for before, after in (
        ("dense-iter-0", "dense-iter-2"),
        ("sparse-iter-1", "dense-iter-1"),
        ("sparse-iter-2", "dense-iter-2"),
    ):
        test = bootstrap_wer(*an4_pair(before, after))
        assert (test.p_value < 0.05) == (test.difference.high < 0 or test.difference.low > 0)


def test_the_same_system_twice(an4):
    refs, hyps = an4("dense-iter-0")
    same = bootstrap_wer(refs, hyps, hyps)
    assert (same.difference, same.relative, same.p_value) == (Interval(0.0, 0.0, 0.0), 0, 1)
    same = bootstrap_bleu([[ref] for ref in refs], hyps, hyps)
    assert (same.difference, same.relative, same.p_value) == (Interval(0.0, 0.0, 0.0), 0, 1)


def test_perfect_and_silent_systems():
    perfect = bootstrap_wer(["a b", "c d"], ["a b", "c d"], ["a", "c"], resamples=50)
    assert perfect.before == Interval(0.0, 0.0, 0.0) and math.isnan(perfect.relative)
    assert perfect.after == Interval(0.5, 0.5, 0.5) and perfect.p_value == 0.5  # of two flips of a coin
    silent = bootstrap_bleu([["a b"], ["c d"]], ["", ""], ["a b", "c d"], order=2, resamples=50)
    assert silent.before == Interval(0.0, 0.0, 0.0) and silent.after == Interval(100.0, 100.0, 100.0)


def test_one_item_says_nothing():
    with pytest.raises(ValueError, match="nothing can be said of chance from 1 item"):
        bootstrap_wer(["a b c"], ["a b c"], ["x y z"])
    with pytest.raises(ValueError, match="needs two or more"):
        bootstrap_bleu([["a b c"]], ["a b c"], ["x y z"], order=1)


@pytest.mark.parametrize(("unlike", "alike"), [(2, 0), (5, 0), (5, 4), (9, 1), (1, 40)])
def test_few_items_that_differ_prove_no_more_than_as_many_coins(unlike, alike):
    """Resamples of items that all favour one system all do; five equal coins show one side by 1 in 16."""
    num_items = unlike + alike
    before, after = ["a x"] * num_items, ["a b"] * unlike + ["a x"] * alike
    test = bootstrap_wer(["a b"] * num_items, before, after, resamples=2_000)
    sign_test = stats.binomtest(unlike, unlike).pvalue
    assert test.p_value >= sign_test and (alike or test.p_value == sign_test)
    refs = [["a b"]] * num_items
    assert bootstrap_bleu(refs, before, after, order=1, resamples=2_000).p_value >= sign_test


def test_resamples_without_a_word_have_no_rate():
    """One of two references is empty: a quarter of the resamples draws nothing else."""
    test = bootstrap_wer(["a b", ""], ["a x", ""], ["a b", ""], resamples=1000)
    assert 700 < test.resamples < 800
    assert test.before == Interval(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="no resample has a score: 1 are too few"):
        bootstrap_wer(["a b", *[""] * 99], ["a x", *[""] * 99], ["a b", *[""] * 99], resamples=1, seed=1)


def coin_flips(garbled, seed: int) -> tuple[list[str], list[str], list[str]]:
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
def test_equal_systems_rarely_differ_significantly(garbled, test):
    """At 0.05, 200 tests raise 10 false alarms, give or take 3."""
    alarms = sum(test(*coin_flips(garbled, seed)).p_value < 0.05 for seed in range(200))
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


def test_speakers_are_drawn_with_all_that_they_said(an4_pair):
    """As a slow loop has it; ends and p-value by Student's t."""
    refs, *hyps = an4_pair("sparse-iter-1", "dense-iter-1")
    speakers = [f"speaker {index % 7}" for index in range(len(refs))]
    of_speaker = [[i for i, one in enumerate(speakers) if one == name] for name in sorted(set(speakers))]
    draws = np.random.default_rng(3).choice(7, size=(200, 7), replace=True)
    resampled = []
    for draw in draws:
        drawn = [i for speaker in draw for i in of_speaker[speaker]]
        one, other = (wer([refs[i] for i in drawn], [side[i] for i in drawn]).rate for side in hyps)
        resampled.append(other - one)
    found = bootstrap_wer(refs, *hyps, groups=speakers, resamples=200, seed=3)
    error = np.std(resampled) * math.sqrt(7 / 6)
    expected = stats.t(6, loc=found.difference.value, scale=error)
    assert [found.difference.low, found.difference.high] == pytest.approx(list(expected.interval(0.95)))
    assert found.standard_error == pytest.approx(error)
    p_value = 2 * min(expected.cdf(0), expected.sf(0))
    assert found.p_value == pytest.approx(max(p_value, 2 / 2**7)) and p_value > 2 / 2**7
    assert found.difference.value == bootstrap_wer(refs, *hyps, resamples=200).difference.value
    assert (found.num_groups, bootstrap_wer(refs, *hyps, resamples=200).num_groups) == (7, None)


def test_equal_systems_are_told_apart_once_in_twenty_only_if_speakers_are_drawn():
    """Some speakers suit the one system, some the other; which, is chance. Ten speakers say fifty utterances each."""
    generator = np.random.default_rng(0)
    speakers = [str(index // 50) for index in range(500)]
    refs = ["right"] * 500
    rejected = []
    for _ in range(300):
        rates = np.clip(generator.normal(0.3, 0.15, size=(2, 10)), 0.02, 0.98).repeat(50, axis=1)
        hyps = np.where(generator.random((2, 500)) < rates, "wrong", "right").tolist()
        rejected.append(
            [
                bootstrap_error_rate(refs, *hyps, groups=groups, resamples=400).p_value < 0.05
                for groups in (None, speakers)
            ]
        )
    of_items, of_speakers = np.mean(rejected, axis=0)
    assert of_speakers == pytest.approx(0.05, abs=0.025)
    assert of_items > 0.3


def test_groups_must_be_of_every_item_and_more_than_one():
    with pytest.raises(ValueError, match="got 1 groups but 2 items"):
        bootstrap_wer(["a", "b"], ["a", "b"], ["a", "c"], groups=["one"])
    with pytest.raises(ValueError, match="from 1 group of items"):
        bootstrap_wer(["a", "b"], ["a", "b"], ["a", "c"], groups=["one", "one"])
