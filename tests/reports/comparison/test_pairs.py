"""Networks of one seed against each other: that the right hypotheses meet, and what is said where they cannot."""

import json
import shutil

import pytest

from seqdsd.kinds import SPEECH
from seqdsd.metrics.significance import (
    bootstrap_bleu,
    bootstrap_error_rate,
    bootstrap_wer,
    holm,
    mapsswe,
    mcnemar,
)
from seqdsd.records import RunFolder, write_json_lines
from seqdsd.reports.comparison.arms import Comparison, compare_runs
from seqdsd.reports.comparison.pairs import pair_tests
from seqdsd.reports.comparison.tables import pair_grid
from seqdsd.reports.runs.reading import read_runs

RESAMPLES = 200


def read(folder) -> Comparison:
    return compare_runs(read_runs([folder]).runs)[0]


def texts(folder, phase: str, key: str) -> list:
    lines = RunFolder(folder).hypotheses(phase, "test").read_text().splitlines()
    return [json.loads(line)[key] for line in lines]


@pytest.fixture
def two_arms(comparison, tmp_path):
    """The baseline and DSD of one seed, to be damaged."""
    for arm in ("baseline", "dsd"):
        shutil.copytree(comparison / "seed-0" / arm, tmp_path / "two" / arm)
    return tmp_path / "two"


def test_arms_of_as_many_epochs_on_every_seed(comparison):
    tests = pair_tests(read(comparison), split="test", resamples=RESAMPLES)
    # No pair of which one was trained longer than the other.
    names = ("DSD on LLR Phase 2", "DSDSD on Baseline", "DSDSD on LLR Phase 4", "LLR on Baseline")
    assert [(test.seed, test.name) for test in tests] == [(seed, name) for seed in range(5) for name in names]
    assert {test.epochs for test in tests} == {(8, 8), (12, 12)} and not any(test.problem for test in tests)
    # What the last phases said, read in another way.
    seed = comparison / "seed-3"
    refs, before = (texts(seed / "baseline", "Baseline", key) for key in ("ref", "hyp"))
    after = texts(seed / "dsdsd", "Dense Iter 2", "hyp")
    test = tests[13]
    assert test.mapsswe == mapsswe(refs, before, after)
    assert (test.mapsswe.errors_before, test.mapsswe.errors_after) == (23, 17)  # as the fixture has them
    assert test.bootstrap == bootstrap_wer(refs, before, after, resamples=RESAMPLES)
    assert test.bootstrap.difference.value == pytest.approx(-6 / 120)


def test_llr_is_taken_where_the_other_ends(comparison):
    test = pair_tests(read(comparison), split="test", resamples=RESAMPLES)[0]
    assert (test.before, test.before_phase, test.after_phase) == ("LLR", "LLR Phase 2", "Dense Iter 1")
    seed = comparison / "seed-0"
    refs, before = (texts(seed / "llr", "LLR Phase 2", key) for key in ("ref", "hyp"))
    assert test.mapsswe == mapsswe(refs, before, texts(seed / "dsd", "Dense Iter 1", "hyp"))


def test_each_test_is_corrected_for_all_pairs(comparison):
    tests = pair_tests(read(comparison), split="test", resamples=RESAMPLES)
    assert [test.mapsswe_holm for test in tests] == holm([test.mapsswe.p_value for test in tests])
    assert [test.bootstrap_holm for test in tests] == holm([test.bootstrap.p_value for test in tests])
    assert tests[0].mapsswe_holm > tests[0].mapsswe.p_value


def test_captions_by_bleu_alone(caption_comparison):
    tests = pair_tests(read(caption_comparison), split="test", resamples=RESAMPLES)
    seed = caption_comparison / "seed-1"
    refs, before = (texts(seed / "baseline", "Baseline", key) for key in ("refs", "hyp"))
    after = texts(seed / "dsdsd", "Dense Iter 2", "hyp")
    assert (tests[5].seed, tests[5].name) == (1, "DSDSD on Baseline")
    assert tests[5].bootstrap == bootstrap_bleu(refs, before, after, resamples=RESAMPLES)
    assert tests[5].mapsswe is None and tests[5].mapsswe_holm is None


def test_classes_by_mcnemars_test(class_comparison):
    tests = pair_tests(read(class_comparison), split="test", resamples=RESAMPLES)
    seed = class_comparison / "seed-1"
    refs, before = (texts(seed / "baseline", "Baseline", key) for key in ("ref", "hyp"))
    after = texts(seed / "dsdsd", "Dense Iter 2", "hyp")
    assert (tests[5].seed, tests[5].name) == (1, "DSDSD on Baseline")
    assert tests[5].mcnemar == mcnemar(refs, before, after) and tests[5].mapsswe is None
    assert tests[5].bootstrap == bootstrap_error_rate(refs, before, after, resamples=RESAMPLES)
    assert tests[5].bootstrap.difference.value == pytest.approx(-6 / 42)  # as the fixture has them
    assert [test.mcnemar_holm for test in tests] == holm([test.mcnemar.p_value for test in tests])


def test_items_meet_by_their_ids(two_arms):
    (expected,) = pair_tests(read(two_arms), split="test", resamples=RESAMPLES)
    path = RunFolder(two_arms / "dsd").hypotheses("Dense Iter 1", "test")
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    (test,) = pair_tests(read(two_arms), split="test", resamples=RESAMPLES)
    assert test == expected


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows[:-1], "baseline and dsd were scored on different items"),
        (
            lambda rows: [{**rows[0], "ref": "stop"}, *rows[1:]],
            "baseline and dsd have different references of 'u00'",
        ),
        (
            lambda rows: [{"id": row["id"], "hyp": row["hyp"]} for row in rows],
            "no references beside the hypotheses of baseline and dsd",
        ),
    ],
)
def test_hypotheses_that_do_not_meet(two_arms, change, problem):
    path = RunFolder(two_arms / "dsd").hypotheses("Dense Iter 1", "test")
    whole = read(two_arms)  # before: folders with lines missing are refused
    write_json_lines(path, change([json.loads(line) for line in path.read_text().splitlines()]))
    (test,) = pair_tests(whole, split="test", resamples=RESAMPLES)
    assert (test.problem, test.bootstrap, test.mapsswe) == (problem, None, None)
    assert (test.bootstrap_holm, test.mapsswe_holm) == (None, None)


def test_hypotheses_that_were_not_kept(comparison, tmp_path):
    for arm in ("baseline", "dsd", "llr"):
        shutil.copytree(comparison / "seed-0" / arm, tmp_path / "runs" / arm)
    shutil.rmtree(tmp_path / "runs/dsd/hyps")
    short, same, llr = pair_tests(read(tmp_path / "runs"), split="test", resamples=RESAMPLES)
    assert short.name == "DSD on Baseline (12 : 8 epochs)" and same.name == "DSD on LLR Phase 2"
    for dsd in (short, same):
        assert "dense-iter-1.test.jsonl: missing" in dsd.problem and dsd.bootstrap is None
    assert not llr.problem and llr.mapsswe_holm == llr.mapsswe.p_value  # one test is corrected for one


def test_without_a_baseline_there_is_llr(comparison):
    runs = [run for run in read_runs([comparison / "seed-0"]).runs if run.arm != "Baseline"]
    tests = pair_tests(compare_runs(runs)[0], split="test", resamples=RESAMPLES)
    assert [test.name for test in tests] == ["DSD on LLR Phase 2", "DSDSD on LLR Phase 4"]


def with_speakers(folder, num_speakers: int) -> Comparison:
    """Each utterance with its speaker, who says every so many-th; what is compared must know of them."""
    for path in folder.glob("*/hyps/*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_json_lines(
            path, [{**row, "speaker": f"s{index % num_speakers}"} for index, row in enumerate(rows)]
        )
    return read(folder)


def test_speakers_are_drawn_where_they_are_known(two_arms):
    (unknown,) = pair_tests(read(two_arms), split="test", resamples=RESAMPLES)
    assert unknown.num_speakers is None and not unknown.is_by_speaker
    assert unknown.deciding_p(SPEECH) == unknown.mapsswe_holm
    (test,) = pair_tests(with_speakers(two_arms, 8), split="test", resamples=RESAMPLES)
    refs, before = (texts(two_arms / "baseline", "Baseline", key) for key in ("ref", "hyp"))
    after = texts(two_arms / "dsd", "Dense Iter 1", "hyp")
    groups = [f"s{index % 8}" for index in range(len(refs))]
    assert test.bootstrap == bootstrap_wer(refs, before, after, groups=groups, resamples=RESAMPLES)
    assert (test.num_speakers, test.is_by_speaker) == (8, True)
    assert test.deciding_p(SPEECH) == test.bootstrap_holm != test.mapsswe_holm


def test_few_speakers_are_not_drawn(two_arms):
    (unknown,) = pair_tests(read(two_arms), split="test", resamples=RESAMPLES)
    (test,) = pair_tests(with_speakers(two_arms, 5), split="test", resamples=RESAMPLES)
    assert (test.num_speakers, test.bootstrap) == (5, unknown.bootstrap)


def test_what_is_drawn_is_said(two_arms):
    def caption(comparison: Comparison) -> str:
        return pair_grid(comparison, pair_tests(comparison, split="test", resamples=RESAMPLES)).caption

    assert "Who speaks is not recorded, so utterances are drawn" in caption(read(two_arms))
    assert "the verdict is by MAPSSWE." in caption(read(two_arms))
    few = caption(with_speakers(two_arms, 5))
    assert "too few speakers to draw these (5, not 6), so utterances are drawn" in few
    many = caption(with_speakers(two_arms, 8))
    assert "The bootstrap draws the test set's 8 speakers, each with all utterances" in many
    assert "the verdict is by the bootstrap." in many
