"""A study's best contrast on other test sets: from what the retrainings said of each image."""

import json
from random import Random
from statistics import fmean

import numpy as np
import pytest

from seqdsd.records import RunFolder, write_json_lines
from seqdsd.reports.numbers import to_json
from seqdsd.reports.retraining.other_items import on_other_items
from seqdsd.reports.retraining.study import RetrainingStudy, retraining_studies
from seqdsd.reports.retraining.tables import across_grid
from seqdsd.reports.runs.reading import read_runs
from tests.reports.conftest import NUM_ITEMS, captioned_rows, scores_of, spoken_rows
from tests.reports.retraining.conftest import IMAGES, keep_hypotheses

ARMS = {
    "llr": (0, [[50, 52], [60, 61], [55, 55]]),
    "dsd-0.3": (0.3, [[48, 49], [58, 57], [54, 54]]),
    "dsd-0.8": (0.8, [[70, 71], [60, 81], [56, 55]]),
}
NAMES = {"llr": "LLR Phase 2", "dsd-0.3": "Dense Iter 1"}


def studied(folder) -> RetrainingStudy:
    ((study,), _) = retraining_studies(read_runs([folder]).runs)
    return study


def mistakes(folder, arm: str) -> np.ndarray:
    """[parents, repeats, images]"""
    paths = [
        [RunFolder(folder / f"parent-{p}/repeat-{r}/{arm}").hypotheses(NAMES[arm], "test") for r in range(2)]
        for p in range(3)
    ]
    return np.array(
        [
            [
                [row["hyp"] != row["ref"] for row in map(json.loads, path.read_text().splitlines())]
                for path in one
            ]
            for one in paths
        ]
    )


def test_the_best_arm_on_images_drawn_again(make_study):
    folder = make_study(ARMS)
    keep_hypotheses(folder)
    found = on_other_items(studied(folder), split="test")
    assert (found.contrast.name, found.num_items, found.num_speakers) == ("dsd-0.3 on llr", IMAGES, None)
    by_image = (mistakes(folder, "llr") - 1.0 * mistakes(folder, "dsd-0.3")).mean((0, 1))
    assert by_image.mean() == pytest.approx(found.contrast.improvement)
    error = by_image.std() / np.sqrt(IMAGES)
    assert np.diff(found.items) == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert fmean(found.items) == pytest.approx(found.contrast.improvement, abs=0.2 * error)
    mean, across = found.contrast.improvement, found.contrast.interval
    for both, items, parents in zip(found.both, found.items, across, strict=True):
        assert both - mean == pytest.approx(np.sign(parents - mean) * np.hypot(items - mean, parents - mean))


def test_it_is_said_below_the_table_and_in_json(make_study):
    folder = make_study(ARMS)
    keep_hypotheses(folder)
    study = studied(folder)
    found = on_other_items(study, split="test")
    low, high = (f"{100 * end:.3f}" for end in found.items)
    caption = across_grid(study, split="test", metric=study.kind.primary).caption
    assert "On another test set (1,000 images, drawn again and again): 95 % CI of the improvement" in caption
    assert f"by dsd-0.3 on llr [{low}, {high}] of these retrainings; with other parents, too, [" in caption
    assert "of this contrast alone, the best of 2, and so too favourable." in caption
    (told,) = json.loads(to_json(read_runs([folder]), [], [study]))["retrainings"]
    assert told["other_items"]["test"]["items"] == list(found.items)
    assert told["other_items"]["test"]["contrast"] == "dsd-0.3 on llr"


def test_of_one_parent_nothing_is_said_of_others(make_study):
    folder = make_study({name: (sparsity, scores[:1]) for name, (sparsity, scores) in ARMS.items()})
    keep_hypotheses(folder)
    study = studied(folder)
    found = on_other_items(study, split="test")
    assert found.items and found.both is None
    caption = across_grid(study, split="test", metric=study.kind.primary).caption
    assert "of these retrainings; of this contrast alone, the best of 2, and so too favourable." in caption


def test_each_parent_counts_once_with_all_its_repeats(make_study):
    """Three repeats in one arm, one or two in the other, of which none need be the same."""
    folder = make_study({"llr": (0, [[50], [60, 62]]), "dsd-0.3": (0.3, [[49, 48, 20], [58, 56, 20]])})
    keep_hypotheses(folder)
    found = on_other_items(studied(folder), split="test")
    assert found.contrast.improvement == pytest.approx((50 - 39 + 61 - (58 + 56 + 20) / 3) / 2 / IMAGES)
    assert found.items[0] < found.contrast.improvement < found.items[1]
    assert np.mean(found.items) == pytest.approx(found.contrast.improvement, abs=1e-3)


def test_where_all_parents_differ_by_the_same_nothing_is_said_of_others(make_study):
    folder = make_study({"llr": (0, [[50], [60]]), "dsd-0.3": (0.3, [[48], [58]])})
    keep_hypotheses(folder)
    found = on_other_items(studied(folder), split="test")
    assert found.items and found.both is None and not found.problem


def scored_anew(folder, rows_of) -> RetrainingStudy:
    """The same study, but of other items: of a hundred that were wrong, ten."""
    for run in map(RunFolder, folder.glob("parent-*/repeat-*/*")):
        records = run.read_phases()
        rows = rows_of(records[-1]["test"]["top1_errors"] // 10, Random(str(run.path.relative_to(folder))))
        run.write_phases([{**one, "dev": scores_of(rows), "test": scores_of(rows)} for one in records])
        write_json_lines(run.hypotheses(records[-1]["name"], "test"), rows)
    return studied(folder)


def test_a_better_bleu_is_an_improvement(make_study):
    study = scored_anew(
        make_study({"llr": (0, [[90], [95]]), "dsd-0.3": (0.3, [[30], [20]])}), captioned_rows
    )
    found = on_other_items(study, split="test")
    assert not found.problem and found.contrast.metric.key == "bleu4"
    assert 0 < found.items[0] < found.contrast.improvement < found.items[1]
    assert found.both[0] < found.contrast.improvement < found.both[1]


def test_speakers_are_drawn_with_all_their_words(make_study):
    def rows_of_eight(wrong, random):
        return [{**row, "speaker": f"s{number % 8}"} for number, row in enumerate(spoken_rows(wrong, random))]

    arms = {"llr": (0, [[90], [95]]), "dsd-0.3": (0.3, [[30], [20]])}
    study = scored_anew(make_study(arms), rows_of_eight)
    found = on_other_items(study, split="test")
    assert (found.num_speakers, found.num_items, found.contrast.metric.key) == (8, NUM_ITEMS, "wer")
    assert found.items[0] < found.contrast.improvement < found.items[1]
    caption = across_grid(study, split="test", metric=study.kind.primary).caption
    assert f"On another test set (8 speakers with their {NUM_ITEMS} utterances, drawn" in caption
    assert "too narrow" not in caption


def test_where_speakers_are_unknown_utterances_are_drawn_and_it_is_said(make_study):
    arms = {"llr": (0, [[90], [95]]), "dsd-0.3": (0.3, [[30], [20]])}
    study = scored_anew(make_study(arms), spoken_rows)
    caption = across_grid(study, split="test", metric=study.kind.primary).caption
    assert f"On another test set ({NUM_ITEMS} utterances, drawn" in caption
    assert "where few speakers said many it is too narrow." in caption


def test_where_nothing_was_kept_nothing_is_said(make_study):
    study = studied(make_study(ARMS))
    assert on_other_items(study, split="test") is None
    caption = across_grid(study, split="test", metric=study.kind.primary).caption
    assert "another test set (" not in caption


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.unlink(), "dense-iter-1.test.jsonl: missing"),
        (
            lambda path: path.write_text(path.read_text().replace('"ref": "class 3"', '"ref": "class 4"', 1)),
            "have different references",
        ),
        (
            lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[1:])),
            "were scored on different items",
        ),
    ],
)
def test_what_is_missing_is_named(make_study, spoil, problem):
    folder = make_study(ARMS)
    keep_hypotheses(folder)
    study = studied(folder)
    spoil(RunFolder(folder / "parent-1/repeat-1/dsd-0.3").hypotheses("Dense Iter 1", "test"))
    found = on_other_items(study, split="test")
    assert problem in found.problem and found.items is None
    caption = across_grid(study, split="test", metric=study.kind.primary).caption
    assert "What another test set would show of dsd-0.3 on llr cannot be said: " in caption
