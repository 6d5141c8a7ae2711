"""Arms against each other: effects and p-values against scipy's tests and numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from seqdsd.kinds import BLEU, WER
from seqdsd.records.asked_seeds import AskedSeeds
from seqdsd.reports.comparison.arms import Comparison, compare_runs
from seqdsd.reports.comparison.contrasts import Contrast, contrasts, headline, headlines, score_in_words
from seqdsd.reports.comparison.tables import comparison_notes
from seqdsd.reports.runs.reading import Run, read_runs

BASELINE = (20, 22, 19, 23, 21)  # wrong words of 120, as the fixture has them
LLR = (19, 22, 18, 21, 22)
DSD = (18, 19, 17, 20, 18)
DSDSD = (15, 16, 13, 17, 14)

# Better by a little: significant alone, not as one of three.
BASELINE_NEAR = (0.100, 0.110, 0.105, 0.112)
LLR_NEAR = (0.102, 0.107, 0.106, 0.110)
DSDSD_NEAR = (0.096, 0.102, 0.102, 0.110)


@pytest.fixture(scope="module")
def runs(comparison) -> list[Run]:
    return list(read_runs([comparison]).runs)


@pytest.fixture(scope="module")
def whole(runs) -> Comparison:
    return compare_runs(runs)[0]


@pytest.fixture
def made(runs):
    """A comparison of other scores: for each arm, the last phase's WER by seed."""

    def made(**scores: tuple[float, ...]) -> Comparison:
        return compare_runs(
            [scored(arm, seed, wer) for arm in scores for seed, wer in enumerate(scores[arm])]
        )[0]

    def scored(arm: str, seed: int, wer: float) -> Run:
        run = next(run for run in runs if run.folder.path.name == arm)
        *earlier, last = run.phases
        return replace(run, seed=seed, phases=(*earlier, {**last, "test": {**last["test"], "wer": wer}}))

    return made


def pair(found: tuple[Contrast, ...], after: str, before: str) -> Contrast:
    (one,) = [one for one in found if (one.after.arm, one.before.arm) == (after, before)]
    return one


def holm(p_values: list[float]) -> list[float]:
    """Written otherwise: the largest of the corrected p-values of all that are no larger."""
    size = len(p_values)
    ranked = sorted(p_values)
    steps = [min(1.0, (size - rank) * p_value) for rank, p_value in enumerate(ranked)]
    return [max(steps[: ranked.index(p_value) + 1]) for p_value in p_values]


def test_the_six_contrasts(whole):
    found = contrasts(whole, split="test", metric=WER)
    assert [(one.after.arm, one.before.arm) for one in found] == [
        ("DSD", "Baseline"),
        ("DSD", "LLR"),
        ("DSDSD", "Baseline"),
        ("DSDSD", "LLR"),
        ("LLR", "Baseline"),
        ("DSDSD", "DSD"),
    ]
    assert all(one.paired.count == (5, 5) and not one.problem for one in found)


def test_fewer_errors_are_an_improvement(whole):
    one = pair(contrasts(whole, split="test", metric=WER), "DSDSD", "Baseline")
    assert one.improvement == pytest.approx((21 - 15) / 120)  # of the means
    assert one.relative == pytest.approx(6 / 21)
    assert one.unpaired.improvement == one.paired.improvement == pytest.approx(6 / 120)
    assert one.paired.relative == pytest.approx(6 / 21)
    assert one.unpaired.low < one.paired.low < 6 / 120 < one.paired.high < one.unpaired.high
    assert (one.before.mean, one.after.mean) == (pytest.approx(21 / 120), pytest.approx(15 / 120))


def test_effects_are_scipys(whole):
    one = pair(contrasts(whole, split="test", metric=WER), "DSDSD", "Baseline")
    before, after = ([wrong / 120 for wrong in arm] for arm in (BASELINE, DSDSD))
    for effect, theirs in (
        (one.unpaired, stats.ttest_ind(before, after, equal_var=False)),
        (one.paired, stats.ttest_rel(before, after)),
    ):
        assert effect.p_value == pytest.approx(theirs.pvalue)
        assert (effect.low, effect.high) == pytest.approx(theirs.confidence_interval(0.95))
        assert effect.count == (5, 5)
    assert (one.unpaired.test, one.paired.test) == ("unpaired t-test", "paired t-test")


def test_p_values_are_corrected_for_all_contrasts_of_a_score(whole):
    found = contrasts(whole, split="test", metric=WER)
    assert [one.p_holm for one in found] == pytest.approx(holm([one.paired.p_value for one in found]))
    assert {one.family for one in found} == {6}
    llr = pair(found, "LLR", "Baseline")
    assert llr.paired.p_value == pytest.approx(stats.ttest_rel(BASELINE, LLR).pvalue)
    assert not llr.is_significant and llr.verdict.startswith("not significant (p = 0.3")
    assert pair(found, "DSDSD", "Baseline").verdict == "better, p < 0.001"


def test_the_p_values_that_count_are_corrected_together(made):
    """One contrast has no seeds in common, so one family holds the p-values of both tests."""
    whole = made(baseline=(0.10, 0.12, 0.11, 0.13), llr=(0.105, 0.115, 0.11, 0.125), dsdsd=(0.09, 0.10, 0.10))
    arms = [
        replace(arm, runs={seed + 10: run for seed, run in arm.runs.items()}) if arm.name == "DSDSD" else arm
        for arm in whole.arms
    ]
    found = contrasts(replace(whole, arms=tuple(arms)), split="test", metric=WER)
    assert [one.effect.test for one in found] == ["unpaired t-test", "unpaired t-test", "paired t-test"]
    assert [one.p_holm for one in found] == pytest.approx(holm([one.effect.p_value for one in found]))
    assert {one.family for one in found} == {3}


def test_contrasts_that_cannot_be_tested_do_not_weaken_the_correction(made):
    # LLR is better than the baseline by the same on every seed: tried, but without a test.
    found = contrasts(
        made(baseline=(0.10, 0.12, 0.11), llr=(0.09, 0.11, 0.10), dsdsd=(0.08, 0.09, 0.095)),
        split="test",
        metric=WER,
    )
    llr = pair(found, "LLR", "Baseline")
    assert (llr.effect, llr.p_holm, llr.is_significant, llr.family) == (None, None, False, 3)
    tested = [one.effect.p_value for one in found if one.effect]
    assert [one.p_holm for one in found if one.effect] == pytest.approx(holm([*tested, 1.0])[:2])
    # One seed is no attempt.
    found = contrasts(
        made(baseline=(0.10, 0.12, 0.11), llr=(0.09,), dsdsd=(0.08, 0.09, 0.095)), split="test", metric=WER
    )
    only = pair(found, "DSDSD", "Baseline")
    assert only.family == 1 and only.p_holm == only.paired.p_value


def test_llr_is_taken_after_as_many_epochs(whole):
    found = contrasts(whole, split="test", metric=WER)
    dsd, dsdsd = pair(found, "DSD", "LLR"), pair(found, "DSDSD", "LLR")
    assert (dsd.before.phase, dsd.before.epochs, dsd.is_equal_epochs) == ("LLR Phase 2", (8,) * 5, True)
    assert dsd.before.scores[0] == pytest.approx((LLR[0] + 12) / 120)
    assert (dsdsd.before.phase, dsdsd.before.epochs) == ("LLR Phase 4", (12,) * 5)
    assert dsdsd.before.scores[0] == pytest.approx(LLR[0] / 120)
    assert pair(found, "LLR", "Baseline").after.phase == "LLR Phase 4"
    baseline = pair(found, "DSD", "Baseline")
    assert (baseline.before.epochs[0], baseline.after.epochs[0], baseline.is_equal_epochs) == (12, 8, False)


def test_a_better_bleu_is_an_improvement(caption_comparison):
    (one,) = compare_runs(read_runs([caption_comparison]).runs)
    contrast = pair(contrasts(one, split="test", metric=BLEU[3]), "DSDSD", "Baseline")
    before, after = (
        [arm.scores("test", BLEU[3])[seed] for seed in range(3)] for arm in (one.arms[0], one.arms[3])
    )
    assert (
        contrast.improvement == pytest.approx(sum(after) / 3 - sum(before) / 3) and contrast.improvement > 0
    )
    theirs = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (contrast.paired.low, contrast.paired.high) == pytest.approx(theirs)


def test_a_loss_is_below_zero_and_called_worse(made):
    (one,) = contrasts(made(baseline=(0.10, 0.11, 0.10), dsd=(0.20, 0.22, 0.21)), split="test", metric=WER)
    assert one.improvement == pytest.approx(-(0.63 - 0.31) / 3)
    assert one.relative == pytest.approx(-32 / 31)
    assert one.paired.low < one.paired.high < 0
    assert one.is_significant and one.verdict == "worse, p < 0.001"


def test_one_seed_has_a_difference_and_no_statistics(made):
    (one,) = contrasts(made(baseline=(0.10,), dsdsd=(0.09,)), split="test", metric=WER)
    assert one.improvement == pytest.approx(0.01)
    assert (one.unpaired, one.paired, one.effect) == (None, None, None)
    assert one.problem == "both arms have one complete seed in common, and a test needs two"
    (one,) = contrasts(made(baseline=(0.10, 0.11), dsdsd=(0.09,)), split="test", metric=WER)
    assert one.problem == "both arms have one complete seed in common, and a test needs two"


def test_the_paired_test_counts_where_the_seeds_are_the_same(made):
    (one,) = contrasts(made(baseline=(0.10, 0.12, 0.11), dsd=(0.09, 0.10, 0.10)), split="test", metric=WER)
    assert one.effect is one.paired


def test_a_missing_run_leaves_the_seeds_that_both_arms_have(made):
    # The seed that DSD lacks is the baseline's worst: its mean would make DSD look better than on the others.
    (one,) = contrasts(made(baseline=(0.10, 0.12, 0.30), dsd=(0.09, 0.10)), split="test", metric=WER)
    assert one.effect is one.paired and one.paired.count == one.unpaired.count == (2, 2)
    assert one.paired.p_value == pytest.approx(stats.ttest_rel([0.10, 0.12], [0.09, 0.10]).pvalue)
    assert list(one.before.scores) == [0, 1] and one.before.epochs == (12, 12)
    assert one.improvement == pytest.approx(0.015) and one.relative == pytest.approx(0.015 / 0.11)


def test_one_run_is_set_beside_that_of_its_seed(made):
    """As in a comparison under way: three baselines are there, and one DSDSD."""
    whole = made(baseline=(0.10, 0.20, 0.30), dsdsd=(0.09, 0.10, 0.10))
    baseline, dsdsd = whole.arms
    (one,) = contrasts(replace(whole, arms=(baseline, dsdsd.of_seeds([1]))), split="test", metric=WER)
    assert list(one.before.scores) == [1] and one.improvement == pytest.approx(0.10) and one.effect is None


def test_arms_with_one_seed_in_common_are_compared_unpaired(made):
    whole = made(baseline=(0.10, 0.12, 0.11), dsd=(0.09, 0.10, 0.10))
    baseline, dsd = whole.arms
    some = replace(whole, arms=(baseline.of_seeds([0, 1]), dsd.of_seeds([1, 2])))
    (one,) = contrasts(some, split="test", metric=WER)
    assert one.effect is one.unpaired and one.unpaired.count == (2, 2) and one.paired is None


def test_seeds_that_differ_by_the_same_prove_nothing(made):
    # Three words fewer on every seed: in floating point the differences vary by 1e-17, for which t would be 1e15.
    before, after = (tuple(wrong / 773 for wrong in some) for some in ((73, 75, 81), (70, 72, 78)))
    (one,) = contrasts(made(baseline=before, dsd=after), split="test", metric=WER)
    assert one.paired is None and one.effect is None and one.unpaired is not None
    assert one.problem == "all seeds differ by the same, so that nothing is known of chance"
    assert one.verdict == f"no test: {one.problem}" and not one.is_significant
    assert one.unpaired.p_value == pytest.approx(stats.ttest_ind(before, after, equal_var=False).pvalue)


def test_no_difference_at_all(made):
    (one,) = contrasts(made(baseline=(0.1, 0.1), dsd=(0.1, 0.1)), split="test", metric=WER)
    assert one.improvement == 0 and one.p_holm == 1 and not one.is_significant


def test_a_perfect_baseline_has_no_relative_improvement(made):
    (one,) = contrasts(made(baseline=(0.0, 0.0), dsd=(0.1, 0.2)), split="test", metric=WER)
    assert one.relative is None and one.paired.relative is None
    assert "% relative" not in headline(made(baseline=(0.0, 0.0), dsd=(0.1, 0.2)))


def test_scores_that_are_not_there(whole):
    assert contrasts(whole, split="test_wsj93", metric=WER) == ()
    assert contrasts(whole, split="test", metric=BLEU[0]) == ()


# What it could have found, and looks


def test_what_could_have_been_found_is_found_so_often(whole):
    """Differences of the fixture in wrong words: 5, 6, 6, 6, 7 of 120."""
    effect = pair(contrasts(whole, split="test", metric=WER), "DSDSD", "Baseline").effect
    sd = np.std([5 / 120, 6 / 120, 6 / 120, 6 / 120, 7 / 120], ddof=1)
    for num_tests, alpha in ((1, 0.05), (6, 0.05 / 6)):
        found = effect.could_find(num_tests=num_tests)
        drawn = found + sd * np.random.default_rng(0).normal(size=(20_000, 5))
        p_values = stats.ttest_1samp(drawn, 0, axis=1).pvalue
        assert np.mean(p_values < alpha) == pytest.approx(0.8, abs=0.01)


def test_seeds_that_all_differ_by_the_same_tell_nothing_of_power(made):
    same = made(baseline=(0.1, 0.2), dsd=(0.1, 0.2))
    (one,) = contrasts(same, split="test", metric=WER)
    assert one.effect.could_find() is None and "could have found" not in headline(same)


def looked(comparison: Comparison, *lines: tuple[list[int], list[int]]) -> Comparison:
    return replace(comparison, asked=tuple(AskedSeeds(tuple(one), tuple(other)) for one, other in lines))


def test_a_look_before_seeds_were_added_is_corrected_for(made):
    planned = made(baseline=BASELINE_NEAR, dsdsd=DSDSD_NEAR)
    (once,) = contrasts(planned, split="test", metric=WER)
    for innocent in (
        ([0, 1, 2, 3], []),
        ([1, 2, 3], [0]),  # of one seed there was no test to see
        ([5], [0, 1]),  # not of this comparison
        ([3], [7, 8]),
    ):
        (one,) = contrasts(looked(planned, innocent), split="test", metric=WER)
        assert (one.p_holm, one.num_looks) == (once.p_holm, 1)
    (twice,) = contrasts(looked(planned, ([0, 1], []), ([2, 3], [0, 1])), split="test", metric=WER)
    assert twice.p_holm == pytest.approx(2 * once.p_holm) and twice.num_looks == 2
    thrice = looked(planned, ([2], [0, 1]), ([3], [0, 1, 2]))
    assert contrasts(thrice, split="test", metric=WER)[0].p_holm == pytest.approx(3 * once.p_holm)
    assert "paired t-test, times 3 looks at the result. With these 4 seeds" in headline(thrice)
    (note,) = (note for note in comparison_notes(thrice) if "look" in note)
    assert note.startswith("Seed 3 came after a look at the result of seeds 0, 1, 2: who adds seeds until")
    assert note.endswith("multiplied by the 3 looks")


def test_seeds_that_were_asked_for_and_are_not_there_are_said(made):
    planned = made(baseline=BASELINE_NEAR, dsdsd=DSDSD_NEAR)
    (note,) = (
        note
        for note in comparison_notes(looked(planned, (list(range(6)), []), ([8], [])))
        if "Asked for" in note
    )
    assert note.startswith("Asked for and not there yet: seeds 4, 5; finish them")
    assert not any("Asked for" in note for note in comparison_notes(looked(planned, ([0, 1, 2, 3], []))))


def test_what_looking_does_and_what_the_correction_leaves_of_it():
    """No effect; after 5 seeds a look, and 2 more where nothing was found, up to 13: what docs/comparing.md says."""
    scores = np.random.default_rng(0).normal(size=(10_000, 13))
    found = {"bare": np.zeros(10_000, bool), "corrected": np.zeros(10_000, bool)}
    for look, count in enumerate((5, 7, 9, 11, 13), start=1):
        p_values = stats.ttest_1samp(scores[:, :count], 0, axis=1).pvalue
        found["bare"] |= p_values < 0.05
        found["corrected"] |= look * p_values < 0.05
    assert found["bare"].mean() == pytest.approx(0.13, abs=0.015)
    assert found["corrected"].mean() == pytest.approx(0.07, abs=0.01)


# In words


def test_the_headline(whole):
    assert headline(whole) == (
        "AN4, 5 seeds: DSDSD 12.50 ± 1.32 % against the equal-epoch baseline's 17.50 ± 1.32 % WER: improvement 5.00 "
        "points (28.6 % relative), 95 % CI [4.27, 5.73] of this contrast alone, significantly better, "
        "p < 0.001; paired t-test, p Holm-corrected over 6 contrasts. With these 5 seeds it could have found 1.63 "
        "points at 80 % power (0.99 if this contrast were the only test), as far as their scatter tells."
    )
    assert headline(whole, against="LLR").startswith("AN4, 5 seeds: DSDSD 12.50 ± 1.32 % against LLR's 17.00")


def test_the_sentences_of_a_comparison(whole, made):
    assert headlines(whole) == [headline(whole), headline(whole, against="LLR")]
    without = made(baseline=(0.10, 0.11), dsdsd=(0.09, 0.10))
    assert headlines(without) == [headline(without)]


def test_the_headline_of_no_gain(made):
    said = headline(made(baseline=(0.100, 0.104, 0.093), dsdsd=(0.101, 0.098, 0.099)))
    assert said.startswith(
        "AN4, 3 seeds: DSDSD 9.93 ± 0.15 % against the equal-epoch baseline's 9.90 ± 0.56 % WER: improvement −0.03 "
        "points (−0.3 % relative), 95 % CI [−1.5"
    )
    assert "], not significant (p = 0.93); paired t-test." in said  # nothing to correct for


def test_the_headline_explains_an_interval_without_0_beside_no_significance(made):
    whole = made(baseline=BASELINE_NEAR, llr=LLR_NEAR, dsdsd=DSDSD_NEAR)
    one = pair(contrasts(whole, split="test", metric=WER), "DSDSD", "Baseline")
    assert one.effect.low > 0 and one.effect.p_value < 0.05 < one.p_holm
    said = headline(whole)
    assert "] of this contrast alone, not significant (p = " in said
    assert "; paired t-test, p Holm-corrected over 3 contrasts. With" in said


def test_the_headline_where_test_was_not_scored(runs):
    def without_test(run: Run) -> Run:
        return replace(
            run,
            phases=tuple({key: value for key, value in one.items() if key != "test"} for one in run.phases),
        )

    for arms in (("Baseline", "DSD", "DSDSD"), ("LLR",)):
        (one,) = compare_runs([without_test(run) for run in runs if run.arm in arms])
        assert headline(one).startswith("AN4: test was not scored")


def test_the_headline_says_where_epochs_differ(made):
    said = headline(made(baseline=(0.10, 0.11), dsd=(0.09, 0.12)))
    assert (
        "AN4, 2 seeds: DSD 10.50 ± 2.12 % against the baseline's (12 epochs to 8) 10.50 ± 0.71 % WER" in said
    )


def test_the_headline_without_statistics(made, runs):
    said = headline(made(baseline=(0.10,), dsdsd=(0.09,)))
    assert said == (
        "AN4, 1 seed: DSDSD 9.00 % against the equal-epoch baseline's 10.00 % WER: improvement 1.00 points; no "
        "statistics: both arms have one complete seed in common, and a test needs two."
    )
    assert headline(made(dsdsd=(0.09, 0.10))) == (
        "AN4, 2 seeds: DSDSD 9.50 ± 0.71 % WER; no equal-epoch baseline is there, so this does not show that pruning "
        "helped."
    )
    unfinished = [replace(run, phases=run.phases[:1]) for run in runs if run.arm == "DSDSD"]
    assert headline(compare_runs(unfinished)[0]) == "AN4: no complete run of DSD with a test score."


def test_the_headline_counts_the_seeds_of_both_sides(made):
    whole = made(baseline=(0.10, 0.11, 0.12), dsdsd=(0.09, 0.10))
    assert headline(whole).startswith("AN4, 2 seeds: DSDSD 9.50")
    baseline, dsdsd = whole.arms
    apart = replace(whole, arms=(baseline.of_seeds([2]), dsdsd))
    assert headline(apart).startswith("AN4, 2 and 1 seeds: DSDSD")
    assert "no statistics: Baseline has one complete seed, and a test needs two." in headline(apart)


def test_scores_in_words():
    assert score_in_words([0.1, 0.12], WER) == "11.00 ± 1.41 % WER"
    assert score_in_words([18.04], BLEU[3]) == "18.0 BLEU-4"
    assert score_in_words([], WER) == "without a WER"
