"""A study's best contrast on other test sets: from what the retrainings said of each image."""

import json
from statistics import fmean

import numpy as np
import pytest

from seqdsd.records import RunFolder
from seqdsd.reports.numbers import to_json
from seqdsd.reports.retraining.other_items import on_other_items
from seqdsd.reports.retraining.study import RetrainingStudy, retraining_studies
from seqdsd.reports.retraining.tables import across_grid
from seqdsd.reports.runs.reading import read_runs
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
    across = found.contrast.interval
    assert np.diff(found.both) > max(np.diff(found.items), np.diff(across))


def test_it_is_said_below_the_table_and_in_json(make_study):
    folder = make_study(ARMS)
    keep_hypotheses(folder)
    study = studied(folder)
    found = on_other_items(study, split="test")
    low, high = (f"{100 * end:.3f}" for end in found.items)
    caption = across_grid(study, split="test", metric=study.kind.primary).caption
    assert "On another test set (1,000 images, drawn again and again): 95 % CI of the improvement" in caption
    assert (
        f"by dsd-0.3 on llr, the best, [{low}, {high}] of these retrainings; with other parents, too, ["
        in caption
    )
    (told,) = json.loads(to_json(read_runs([folder]), [], [study]))["retrainings"]
    assert told["other_items"]["test"]["items"] == list(found.items)
    assert told["other_items"]["test"]["contrast"] == "dsd-0.3 on llr"


def test_of_one_parent_nothing_is_said_of_others(make_study):
    folder = make_study({name: (sparsity, scores[:1]) for name, (sparsity, scores) in ARMS.items()})
    keep_hypotheses(folder)
    found = on_other_items(studied(folder), split="test")
    assert found.items and found.both is None


def test_speakers_and_words_of_recognisers_are_taken_from_the_runs(make_study):
    """Of classes, too, groups are drawn where all items have one."""
    folder = make_study(ARMS)
    keep_hypotheses(folder)
    for path in folder.glob("parent-0/repeat-0/llr/hyps/*.jsonl"):
        rows = [
            json.loads(line) | {"speaker": f"s{number % 8}"}
            for number, line in enumerate(path.read_text().splitlines())
        ]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = on_other_items(studied(folder), split="test")
    assert found.num_speakers == 8


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
