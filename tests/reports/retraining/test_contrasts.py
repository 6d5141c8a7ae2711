"""Both tests of a study of retraining, against scipy's and numbers worked out by hand."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from seqdsd.records.asked_seeds import AskedSeeds, note_asked_seeds
from seqdsd.reports.retraining.contrasts import gains_on_parents, headline, study_contrasts
from seqdsd.reports.retraining.study import retraining_studies
from seqdsd.reports.retraining.tables import study_notes
from seqdsd.reports.runs.reading import read_runs

LLR = [[50, 52, 51], [60, 61, 62], [55, 55, 58], [49, 50, 49]]
DSD = [[48, 49, 48], [58, 57, 58], [54, 55, 53], [45, 46, 47]]
BAD = [[50, 53, 51], [66, 60, 69], [55, 58, 59], [49, 52, 50]]


def contrasts_of(folder, make=study_contrasts):
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    return make(study, split="test", metric=study.kind.primary)


@pytest.fixture
def made(make_study):
    return contrasts_of(make_study({"llr": (0, LLR), "dsd-0.3": (0.3, DSD), "dsd-0.8": (0.8, BAD)}))


def test_across_parents_each_counts_once(made):
    good, bad = made
    assert (good.name, bad.name) == ("dsd-0.3 on llr", "dsd-0.8 on llr")
    means = [np.mean(arm, axis=1) / 1000 for arm in (LLR, DSD, BAD)]
    expected = stats.ttest_rel(means[0], means[1])
    assert good.p_value == pytest.approx(expected.pvalue) and good.p_value < 0.05
    assert good.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert good.improvement == pytest.approx(np.mean(means[0] - means[1])) and good.improvement > 0
    assert good.relative == pytest.approx(good.improvement / np.mean(means[0]))
    other = stats.ttest_rel(means[0], means[2]).pvalue
    assert (good.p_holm, bad.p_holm) == pytest.approx((2 * expected.pvalue, other)) and good.family == 2
    assert good.verdict.startswith("better, p = ") and bad.verdict.startswith("not significant")
    assert (good.test.num_parents, good.test.num_repeats) == (4, (3, 3))


def test_table_10_s_test_is_of_each_parent_alone(made):
    good, _ = made
    for parent, one in enumerate(good.parents):
        expected = stats.ttest_ind(LLR[parent], DSD[parent], equal_var=False)
        assert one.p_value == pytest.approx(expected.pvalue)
        assert one.interval == pytest.approx(tuple(end / 1000 for end in expected.confidence_interval()))
        assert one.finding == ("better" if expected.pvalue < 0.05 else "neither")
    assert good.count("better") == sum(one.p_value < 0.05 for one in good.parents) > 0


def test_table_10_says_both_where_across_parents_there_is_nothing(make_study):
    """Of one parent it finds one sparsity better and the other worse, by fewer than three images of 1,000."""
    llr = [[50, 50, 51, 50], [60, 61, 60, 60], [55, 56, 55, 55], [48, 48, 49, 48]]
    light = [[48, 48, 48, 49], [61, 61, 62, 62], [54, 55, 54, 53], [49, 49, 50, 49]]
    heavy = [[52, 52, 53, 52], [59, 58, 59, 59], [56, 56, 57, 56], [47, 47, 48, 47]]
    made = contrasts_of(make_study({"llr": (0, llr), "dsd-0.3": (0.3, light), "dsd-0.5": (0.5, heavy)}))
    first = {one.after: one.parents[0] for one in made}
    assert (first["dsd-0.3"].finding, first["dsd-0.5"].finding) == ("better", "worse")
    assert first["dsd-0.3"].p_value < 0.01 and first["dsd-0.5"].p_value < 0.01
    assert all(one.p_value > 0.5 and one.p_holm == 1 for one in made)
    assert all(one.count("better") and one.count("worse") for one in made)


def test_arms_stand_beside_their_parents_too(make_study):
    folder = make_study({"llr": (0, LLR), "dsd-0.3": (0.3, DSD)}, given=60)
    llr, dsd = contrasts_of(folder, gains_on_parents)
    given = np.array([60, 61, 62, 63]) / 1000
    assert (llr.name, dsd.name) == ("llr on parents", "dsd-0.3 on parents") and llr.parents == ()
    expected = stats.ttest_rel(given, np.mean(LLR, axis=1) / 1000)
    assert llr.p_value == pytest.approx(expected.pvalue)
    assert llr.improvement == pytest.approx(np.mean(given) - np.mean(LLR) / 1000)


def test_what_cannot_be_tested_is_said(make_study):
    (one,) = contrasts_of(make_study({"llr": (0, [[50, 52]]), "dsd-0.3": (0.3, [[48, 49]])}))
    assert one.test is None and one.p_holm is None and one.verdict == "no test: one parent"
    assert one.parents[0].p_value is not None


def test_parents_that_all_differ_by_the_same_have_no_test(make_study):
    alike = {"llr": (0, [[50, 50], [60, 60]]), "dsd-0.3": (0.3, [[49, 49], [59, 59]])}
    (one,) = contrasts_of(make_study(alike))
    assert one.p_value is None and one.could_find() is None
    assert one.verdict == "no test: all parents differ by the same"
    assert [parent.finding for parent in one.parents] == ["neither", "neither"]


def test_the_headline_says_what_both_tests_find(make_study):
    folder = make_study({"llr": (0, LLR), "dsd-0.3": (0.3, DSD), "dsd-0.8": (0.8, BAD)})
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    said = headline(study)
    better = sum(stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05 for a, b in zip(LLR, DSD, strict=True))
    assert said.startswith(
        "ResNet-20 on CIFAR-10, retrained, 4 parents: dsd-0.3 on llr improves test Top-1 error by 0.28 points"
    )
    assert (
        "the best of 2 contrasts, for which p is Holm-corrected; significantly better are 1, worse 0" in said
    )
    assert f"would have said {better} times better and 0 times worse, of 8." in said


def test_the_headline_says_what_so_many_parents_could_have_found(make_study):
    folder = make_study({"llr": (0, LLR), "dsd-0.3": (0.3, DSD), "dsd-0.8": (0.8, BAD)})
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    differences = (np.mean(LLR, axis=1) - np.mean(DSD, axis=1)) / 10
    alone, corrected = (
        TTestPower().solve_power(nobs=4, alpha=alpha, power=0.8) * differences.std(ddof=1)
        for alpha in (0.05, 0.05 / 2)
    )
    said = f"With 4 parents it could have found {corrected:.2f} points at 80 % power ({alone:.2f} if it were the only"
    assert said in headline(study)


def test_the_headline_says_worse_where_it_is(make_study):
    folder = make_study({"llr": (0, LLR), "dsd-0.8": (0.8, [[score + 5 for score in one] for one in LLR])})
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    assert "dsd-0.8 on llr worsens test Top-1 error by 0.50 points (" in headline(study)


def test_retrainings_that_come_after_a_look_are_corrected_for(make_study):
    folder = make_study({"llr": (0, LLR), "dsd-0.3": (0.3, DSD), "dsd-0.8": (0.8, BAD)})
    before = contrasts_of(folder)
    by_parent = [[1000 * (parent + 1) + repeat for repeat in range(3)] for parent in range(4)]
    first, later = [*by_parent[0], *by_parent[1]], [*by_parent[2], *by_parent[3]]
    note_asked_seeds(folder, AskedSeeds(tuple(first), ()))
    assert [one.p_holm for one in contrasts_of(folder)] == [one.p_holm for one in before]
    note_asked_seeds(folder, AskedSeeds(tuple(later), tuple(first)))
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    after = contrasts_of(folder)
    assert [one.p_holm for one in after] == pytest.approx([min(1, 2 * one.p_holm) for one in before])
    assert [one.p_value for one in after] == [one.p_value for one in before]
    assert "6 retrainings of each arm came after a look at the result of 6:" in " ".join(study_notes(study))
    assert "p is multiplied by 2 looks at the result" in headline(study)


def test_retrainings_that_were_asked_for_and_are_not_there_are_said(make_study):
    folder = make_study({"llr": (0, LLR), "dsd-0.3": (0.3, DSD)})
    there = [1000 * (parent + 1) + repeat for parent in range(4) for repeat in range(3)]
    note_asked_seeds(folder, AskedSeeds((*there, 5000, 5001), ()))
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    assert study.still_to_come == {"llr": 2, "dsd-0.3": 2}
    said = "Asked for and not there yet, of the retrainings: llr (2 of 14), dsd-0.3 (2 of 14); finish them"
    assert said in " ".join(study_notes(study))
    (folder / "seeds.jsonl").unlink()
    note_asked_seeds(folder, AskedSeeds(tuple(there), ()))
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    assert study_notes(study) == []


def test_an_arm_that_was_cut_short_is_said_though_others_have_all(make_study):
    folder = make_study({"llr": (0, LLR), "dsd-0.3": (0.3, DSD), "dsd-0.8": (0.8, [one[:2] for one in BAD])})
    there = [1000 * (parent + 1) + repeat for parent in range(4) for repeat in range(3)]
    note_asked_seeds(folder, AskedSeeds(tuple(there), ()))
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    assert study.still_to_come == {"dsd-0.8": 4}
    assert "of the retrainings: dsd-0.8 (4 of 12); finish them" in " ".join(study_notes(study))
    (folder / "seeds.jsonl").unlink()
    first = [seed for seed in there if seed % 10 < 2]
    note_asked_seeds(folder, AskedSeeds(tuple(first), ()))
    note_asked_seeds(folder, AskedSeeds(tuple({*there} - {*first}), tuple(first)))  # a repeat more, later
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    assert study.still_to_come == {"dsd-0.8": 4}
