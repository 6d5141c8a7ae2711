"""The tables of comparisons: the paper's own Table 1 as input, and Table 10 from a comparison worked out by hand."""

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
from scipy import stats

from seqdsd import kinds
from seqdsd.kinds import BLEU, NEURALTALK_BLEU, WER
from seqdsd.records import RunFolder
from seqdsd.reports.comparison.arms import Comparison, compare_runs
from seqdsd.reports.comparison.pairs import pair_tests
from seqdsd.reports.comparison.tables import (
    comparison_notes,
    contrast_grid,
    pair_grid,
    seed_grid,
    table_1,
    table_10,
)
from seqdsd.reports.runs.reading import read_runs

RECIPES = Path(__file__).parents[3] / "recipes"
SPEECH = kinds.SPEECH.families[0]


@pytest.fixture(scope="module")
def speech(comparison) -> Comparison:
    return compare_runs(read_runs([comparison]).runs)[0]


@pytest.fixture(scope="module")
def captions(caption_comparison) -> Comparison:
    return compare_runs(read_runs([caption_comparison]).runs)[0]


@pytest.fixture(scope="module")
def classes(class_comparison) -> Comparison:
    return compare_runs(read_runs([class_comparison]).runs)[0]


def percent(*wrong: int) -> tuple[str, str]:
    """Mean and standard deviation of error rates, as a table has them."""
    rates = [100 * one / 120 for one in wrong]
    return f"{mean(rates):.2f}", f"{stdev(rates):.2f}"


# Table 10


def test_table_10(speech):
    grid = table_10(speech, split="test", family=SPEECH)
    assert grid.plain_header == ("Arm", "Phase", "test WER mean", "SD", "Seeds", "Sparsity", "Epochs", "LR")
    baseline, dense, llr, shared, last, improve = grid.sections
    assert baseline == (("Baseline", "Baseline", *percent(20, 22, 19, 23, 21), "5", "0%", "12", "0.002"),)
    # The phases that arms share stand once, with all their arms.
    assert dense == (
        ("LLR, DSD, DSDSD", "Dense Iter 0", *percent(32, 34, 31, 35, 33), "5", "0%", "4", "0.002"),
    )
    assert [row[:2] for row in llr] == [("LLR", f"LLR Phase {number}") for number in (1, 2, 3, 4)]
    assert [row[:2] for row in shared] == [("DSD, DSDSD", "Sparse Iter 1"), ("DSD, DSDSD", "Dense Iter 1")]
    assert shared[0][2:] == (*percent(24, 25, 23, 26, 24), "5", "50%", "2", "0.001")
    assert last[1] == ("DSDSD", "Dense Iter 2", *percent(15, 16, 13, 17, 14), "5", "0%", "2", "0.0001")
    assert improve == (
        ("Improve (abs)", "DSD on Baseline (12 : 8 epochs)", "2.17", *["-"] * 5),  # 21 to 18.4 of 120
        ("Improve (rel)", "DSD on Baseline (12 : 8 epochs)", "12.38", *["-"] * 5),
        ("Improve (abs)", "DSDSD on Baseline", "5.00", *["-"] * 5),
        ("Improve (rel)", "DSDSD on Baseline", "28.57", *["-"] * 5),
    )


def test_table_10_says_what_its_numbers_are(speech):
    said = table_10(speech, split="test", family=SPEECH).caption
    assert said.startswith(
        "DeepSpeech 1 on AN4: test scores, mean and standard deviation over seeds 0, 1, 2, 3, 4, in percent."
    )
    assert "The baseline's learning rate is divided by 1.05 an epoch, that of the other arms by 1" in said
    assert "Signature: words|split on white space|no normalisation|seqdsd" in said


def test_cycles_of_the_learning_rate_are_said(make_arm):
    optimizer = {"kind": "adamw", "curve": "cosine", "warmup": 0.2, "anneal": 1.0}
    arms = [make_arm(f"here/{arm}", arm, optimizer=optimizer).path for arm in ("dense", "baseline", "dsd")]
    one = "The baseline's learning rate makes one cycle over all its epochs"
    notes = comparison_notes(compare_runs(read_runs(arms).runs)[0])
    assert notes == [f"{one}, that of the other arms within each phase"]
    assert comparison_notes(compare_runs(read_runs(arms[1:2]).runs)[0]) == [one]
    assert comparison_notes(compare_runs(read_runs(arms[2:]).runs)[0]) == []


def test_table_10_of_captions_has_four_scores_a_row(captions):
    grid = table_10(captions, split="test", family=BLEU)
    assert grid.plain_header[2:7] == ("test BLEU-1", "test BLEU-2", "test BLEU-3", "test BLEU-4", "Seeds")
    scores = [captions.arm("DSDSD").scores("test", metric) for metric in BLEU]
    row = next(row for row in grid.rows if row[1] == "Dense Iter 2")
    assert row[2:6] == tuple(f"{mean(one.values()):.1f} ± {stdev(one.values()):.1f}" for one in scores)
    assert "without the brevity penalty" not in grid.caption and "in percent, " not in grid.caption
    again = table_10(captions, split="test", family=NEURALTALK_BLEU)
    assert "NeuralTalk BLEU is without the brevity penalty" in again.caption
    assert again.name != grid.name


def test_a_phase_that_two_arms_trained_apart_stands_twice(make_comparison):
    folder = make_comparison(seeds=[0, 1], arms=["dsd", "dsdsd"])
    runs = read_runs([folder]).runs
    one = next(run for run in runs if run.arm == "DSDSD")
    first = {**one.phases[0], "test": {**one.phases[0]["test"], "wer": 0.5}}
    other = replace(one, phases=(first, *one.phases[1:]))
    grid = table_10(
        compare_runs([other if run is one else run for run in runs])[0], split="test", family=SPEECH
    )
    assert [row[0] for row in grid.rows if row[1] == "Dense Iter 0"] == ["DSD", "DSDSD"]


def test_phases_that_ended_early_have_a_range_of_epochs(make_comparison):
    runs = read_runs([make_comparison(seeds=[0, 1], arms=["dsd"])]).runs
    short = {**runs[1].phases[1], "epochs": 1}
    runs = (runs[0], replace(runs[1], phases=(runs[1].phases[0], short, runs[1].phases[2])))
    grid = table_10(compare_runs(runs)[0], split="test", family=SPEECH)
    assert [row[-2] for row in grid.rows] == ["4", "1–2", "2"]


def test_one_seed_has_no_spread(make_comparison):
    grid = table_10(
        compare_runs(read_runs([make_comparison(seeds=[3])]).runs)[0], split="test", family=SPEECH
    )
    assert {row[3] for row in grid.rows} == {"-"}
    assert "one seed: no spread and no test" in grid.caption


def test_different_signatures_are_said(make_comparison):
    runs = read_runs([make_comparison(seeds=[0], arms=["dsd", "baseline"])]).runs
    last = {**runs[0].phases[-1], "test": {**runs[0].phases[-1]["test"], "signature": "other"}}
    runs = (replace(runs[0], phases=(*runs[0].phases[:-1], last)), *runs[1:])
    said = table_10(compare_runs(runs)[0], split="test", family=SPEECH).caption
    assert "computed in different ways and may not compare: other; words|split" in said


# Contrasts


def test_contrasts(speech):
    grid = contrast_grid(speech, split="test", family=SPEECH)
    assert [row[1] for row in grid.rows] == [
        "DSD on Baseline",
        "DSD on LLR Phase 2",
        "DSDSD on Baseline",
        "DSDSD on LLR Phase 4",
        "LLR on Baseline",
        "DSDSD on DSD",
    ]
    assert grid.rows[2][:7] == (
        "WER",
        "DSDSD on Baseline",
        "12 : 12",
        "17.50 ± 1.32",
        "12.50 ± 1.32",
        "5.00",
        "28.57",
    )
    assert grid.rows[2][7:] == ("[3.08, 6.92]", "<0.001", "[4.27, 5.73]", "<0.001", "better, p < 0.001")
    assert grid.rows[0][2] == "12 : 8"
    assert grid.rows[4][-1].startswith("not significant (p = 0.3")
    assert "Holm-corrected for the contrasts of one score" in grid.caption
    assert (
        "Confidence intervals and the p-values beside them (two-sided) are of each contrast alone"
        in grid.caption
    )
    # Beside the interval the p-value of this contrast alone, in the verdict the corrected one.
    alone = stats.ttest_rel((20, 22, 19, 23, 21), (19, 22, 18, 21, 22)).pvalue
    assert grid.rows[4][10] == f"{alone:.3f}"


def test_contrasts_of_captions_are_a_family_a_score(captions):
    grid = contrast_grid(captions, split="test", family=BLEU)
    assert [len(section) for section in grid.sections] == [6] * 4
    assert [section[0][0] for section in grid.sections] == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]


def test_contrasts_of_one_seed_are_no_tests(make_comparison):
    comparison = compare_runs(read_runs([make_comparison(seeds=[1])]).runs)[0]
    row = contrast_grid(comparison, split="test", family=SPEECH).rows[2]
    assert row[3:7] == ("18.33", "13.33", "5.00", "27.27")
    assert row[7:11] == ("-",) * 4
    assert row[11] == "no test: both arms have one complete seed in common, and a test needs two"


# Seeds and pairs


def test_seeds(speech):
    grid = seed_grid(speech, split="test", metric=WER)
    assert grid.header == ("Seed", "Baseline", "LLR", "DSD", "DSDSD")
    assert grid.sections[0][3] == ("3", "19.17", "17.50", "16.67", "14.17")
    assert grid.sections[1] == (
        ("Mean", *(percent(*wrong)[0] for wrong in WRONG)),
        ("SD", *(percent(*wrong)[1] for wrong in WRONG)),
    )


WRONG = ((20, 22, 19, 23, 21), (19, 22, 18, 21, 22), (18, 19, 17, 20, 18), (15, 16, 13, 17, 14))


def test_unfinished_and_missing_runs_are_said(make_comparison):
    runs = read_runs([make_comparison(seeds=[0, 1, 2], arms=["baseline", "dsd"])]).runs
    late, gone = (
        next(run for run in runs if (run.arm, run.seed) == one) for one in (("DSD", 1), ("Baseline", 2))
    )
    cut = replace(late, phases=late.phases[:2])
    comparison = compare_runs([cut if run is late else run for run in runs if run is not gone])[0]
    grid = seed_grid(comparison, split="test", metric=WER)
    assert grid.sections[0] == (("0", "16.67", "15.00"), ("1", "18.33", "unfinished"), ("2", "-", "14.17"))
    assert grid.sections[1][0] == ("Mean", percent(20, 22)[0], percent(18, 17)[0])
    assert "Unfinished and not counted: seed-1/dsd (2 of 3 phases)." in grid.caption
    assert table_10(comparison, split="test", family=SPEECH).rows[0][4] == "2"


def test_epochs_that_were_undone_are_said(make_comparison):
    """Once for arms that share the phase; by every table of the comparison and by the overview."""
    folder = make_comparison(seeds=[0, 1], arms=["baseline", "llr", "dsd"])
    for arm, phase, epochs in (("llr", 0, [3]), ("dsd", 0, [3]), ("dsd", 1, [1, 2])):
        run = RunFolder(folder / "seed-1" / arm)
        records = run.read_phases()
        records[phase]["restarts"] = [
            {"epoch": epoch, "back_to": 0, "learning_rate": 1e-3 / 2**number, "why": "losses"}
            for number, epoch in enumerate(epochs, start=1)
        ]
        run.write_phases(records)
    one = compare_runs(read_runs([folder]).runs)[0]
    note = (
        "Diverged, undone and trained on at half the rate, each time: Dense Iter 0 of LLR and DSD, seed 1 (epoch 3); "
        "Sparse Iter 1 of DSD, seed 1 (epoch 1, 2)."
    )
    asked = {"split": "test", "family": SPEECH}
    for grid in (
        table_10(one, **asked),
        contrast_grid(one, **asked),
        seed_grid(one, split="test", metric=WER),
    ):
        assert f" {note}" in grid.caption
    assert table_1([one]).caption.endswith(f" DeepSpeech 1 on AN4: {note}")


def test_runs_left_out_are_said(make_arm):
    folders = [make_arm(place, "dsd").path for place in ("a", "b")]
    (note,) = comparison_notes(compare_runs(read_runs(folders).runs)[0])
    assert note.startswith("Not counted: ") and "DSD with seed 0 a second time" in note


def test_runs_of_another_test_set_are_said(make_comparison):
    runs = read_runs([make_comparison(seeds=[0, 1], arms=["baseline", "dsd"])]).runs
    small = replace(
        runs[3], phases=tuple({**one, "test": {**one["test"], "utterances": 7}} for one in runs[3].phases)
    )
    _, missing, left_out = comparison_notes(compare_runs([*runs[:3], small])[0])
    assert missing == "Not there: DSD of seed 1"
    assert left_out.startswith("Not counted: ") and "test has 7 utterances, not 42" in left_out


def test_other_commits_and_threads_are_said(speech, make_comparison):
    assert not any("were made with different" in note for note in comparison_notes(speech))
    first, second = read_runs([make_comparison(seeds=[0, 1], arms=["dsd"])]).runs
    for changes, said in (
        ({"threads": 2}, "different numbers of threads (1; 2)"),
        ({"git_commit": "0a"}, "different git commits (0a; 6f7db7ee1d90)"),
        ({"git_commit": "0a", "threads": 2}, "git commits (0a; 6f7db7ee1d90) and numbers of threads (1; 2)"),
        ({"machine": "another"}, "different machines (Linux x86_64, a processor, 2 CPUs; another)"),
        ({"versions": {"seqdsd": "0.1.0", "torch": "2.9"}}, "different versions of torch (2.14.1; 2.9)"),
    ):
        other = replace(second, provenance={**second.provenance, **changes})
        (note,) = comparison_notes(compare_runs([first, other])[0])
        assert note.startswith("The runs were made with ") and note.endswith(said)


def test_pairs(speech):
    tests = pair_tests(speech, split="test", resamples=200)
    grid = pair_grid(speech, tests)
    assert [len(section) for section in grid.sections] == [4] * 5
    row = grid.rows[1]
    assert row[:6] == ("0", "DSDSD on Baseline", "16.67", "12.50", "4.17", "25.00")
    low, high = (float(end) for end in row[6].strip("[]").split(", "))
    assert low < 4.17 < high
    # Turned so that fewer errors are above 0, as the column before.
    assert float(row[9]) == pytest.approx(-tests[1].mapsswe.z, abs=0.005) and float(row[9]) > 0
    assert tests[1].mapsswe_holm > 0.05 and row[-1].startswith("not significant (p = ")
    assert "(200 resamples of the test set)" in grid.caption
    assert "Holm-corrected for the 20 pairs tested" in grid.caption


def test_pairs_that_cannot_be_tested(make_comparison):
    folder = make_comparison(seeds=[0], arms=["baseline", "dsd"])
    for path in (folder / "seed-0/dsd/hyps").iterdir():
        path.unlink()
    comparison = compare_runs(read_runs([folder]).runs)[0]
    grid = pair_grid(comparison, pair_tests(comparison, split="test"))
    assert grid.rows == (("0", "DSD on Baseline (12 : 8 epochs)", *["-"] * 9, "no test"),)
    assert "Holm-corrected for the 0 pairs tested" in grid.caption
    assert "No test: " in grid.caption and "dense-iter-1.test.jsonl: missing" in grid.caption


def test_pairs_of_captions_have_no_mapsswe(captions):
    grid = pair_grid(captions, pair_tests(captions, split="test", resamples=100))
    assert len(grid.header) == 9 and "MAPSSWE" not in grid.caption
    assert grid.rows[1][1:5] == ("DSDSD on Baseline", "67.1", "75.5", "8.5")


def test_pairs_of_classifiers_are_told_by_mcnemars_test(classes):
    tests = pair_tests(classes, split="test", resamples=100)
    grid = pair_grid(classes, tests)
    assert grid.plain_header[-4:] == ("Right only before", "Right only after", "McNemar p (Holm)", "Verdict")
    found, row = tests[1].mcnemar, grid.rows[1]
    # Seed 0: 20 and 15 of 42 wrong.
    assert row[:6] == ("0", "DSDSD on Baseline", "47.62", "35.71", "11.90", "25.00")
    assert found.only_after - found.only_before == 5
    assert row[-4:-2] == (str(found.only_before), str(found.only_after))
    assert row[-1].startswith("not significant (p = ")
    assert "the same images, Top-1 error, in percent" in grid.caption
    assert "the verdict is by McNemar's test" in grid.caption and "speakers" not in grid.caption


def test_a_classifiers_tables_name_its_network_and_have_both_errors(classes):
    assert (classes.title, classes.kind) == ("ResNet-20 on CIFAR-10", kinds.CLASSIFICATION)
    grid = table_10(classes, split="test", family=kinds.CLASSIFICATION.families[0])
    assert grid.plain_header[2:4] == ("test Top-1 error", "test Top-5 error")
    row = next(row for row in grid.rows if row[1] == "Dense Iter 2")
    rates = [100 * wrong / 42 for wrong in (15, 16, 13)]
    assert row[2] == f"{mean(rates):.2f} ± {stdev(rates):.2f}"
    assert [row[:4] for row in table_1([classes]).rows] == [
        ("ResNet-20", "Vision", "CIFAR-10", "Top-1 error")
    ]


# Table 1


@pytest.fixture
def paper(speech, captions):
    """Comparisons of the paper's scores, one seed each: the baseline's and DSD's."""

    def scored(comparison: Comparison, key: str, before: float, after: float, **changes) -> Comparison:
        arms = tuple(
            replace(arm, runs={0: _scored(arm.runs[0], key, score)})
            for name, score in (("Baseline", before), ("DSD", after))
            for arm in comparison.arms
            if arm.name == name
        )
        return replace(comparison, arms=arms, **changes)

    return [
        scored(captions, "bleu4", 16.8, 18.5),
        scored(speech, "wer", 0.3355, 0.3159, corpus="WSJ'93"),
        scored(speech, "wer", 0.1452, 0.1344, network="DeepSpeech 2", corpus="WSJ'93"),
    ]


def _scored(run, key, score):
    *earlier, last = run.phases
    return replace(run, phases=(*earlier, {**last, "test": {**last["test"], key: score}}))


DSD = "DSD (12 : 8 epochs)"  # of the fixture, whose baseline is as long as its DSDSD


def test_table_1_of_the_paper(paper):
    rows = table_1([replace(one, title=f"{one.network} on {one.corpus}") for one in paper]).rows
    # DSD paper, Table 1 (and for the second decimals, Tables 7 and 9).
    assert [row[:-1] for row in rows] == [
        ("NeuralTalk", "Captions", "Flickr8k", "BLEU-4", "1", "16.8", DSD, "18.5", "1.7", "10.1"),
        ("DeepSpeech 1", "Speech", "WSJ'93", "WER", "1", "33.55", DSD, "31.59", "1.96", "5.84"),
        ("DeepSpeech 2", "Speech", "WSJ'93", "WER", "1", "14.52", DSD, "13.44", "1.08", "7.44"),
    ]


def test_table_1_takes_the_longest_arm_and_its_verdict(speech, captions):
    rows = table_1([speech, captions]).rows
    assert rows[0][4:] == ("5", "17.50", "DSDSD", "12.50", "5.00", "28.57", "better, p < 0.001")
    assert rows[1][3:5] == ("BLEU-4", "3") and rows[1][-1].startswith("better, p = 0.02")


def test_table_1_sets_the_seeds_beside_each_other_that_both_have(make_comparison):
    folder = make_comparison(seeds=[0, 1, 2], arms=["baseline", "dsd", "dsdsd"])
    shutil.rmtree(folder / "seed-2/dsdsd")
    one = compare_runs(read_runs([folder]).runs)[0]
    row = table_1([one]).rows[0]
    assert row[4:9] == (
        "2",
        "17.50",
        "DSDSD",
        "12.92",
        "4.58",
    )  # of seeds 0 and 1: 20 and 22, 15 and 16 of 120
    assert "Not there: DSDSD of seed 2." in table_10(one, split="test", family=SPEECH).caption


def test_table_1_without_a_baseline_says_so():
    found = compare_runs(read_runs([RECIPES / "an4"]).runs)
    grid = table_1(found)
    # RESULTS.md: from 19.66 to 9.44 over the phases, which is no comparison.
    assert grid.rows[0][5:] == ("19.66 †", "DSDSD", "9.44", "10.22", "51.97", "no baseline")
    assert "†: no baseline has a score there; the run's own first phase, of fewer epochs." in grid.caption
    assert "†" not in table_1([]).caption


def test_table_1_leaves_out_what_has_no_dsd(speech):
    alone = replace(speech, arms=speech.arms[:1])
    assert table_1([alone]).rows == ()
