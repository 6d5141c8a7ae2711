"""Every table in recipes/*/RESULTS.md is what the records beside it say."""

import json
from pathlib import Path

import pytest

from seqdsd.metrics import wer
from seqdsd.records import RunFolder, slug
from seqdsd.reports import phase_markdown

RECIPES = Path(__file__).parents[1] / "recipes"
RECORDS = sorted(path.parent for path in RECIPES.glob("*/records/*/phases.jsonl"))


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: f"{folder.parents[1].name}/{folder.name}")
def test_table_is_generated_from_the_records(folder):
    results = (folder.parents[1] / "RESULTS.md").read_text(encoding="utf-8")
    assert phase_markdown(RunFolder(folder).read_phases()) in results


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: f"{folder.parents[1].name}/{folder.name}")
def test_hypotheses_give_the_recorded_word_error_rate(folder):
    run = RunFolder(folder)
    for record in run.read_phases():
        lines = run.hypotheses(record["name"], "test").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        again = wer([row["ref"] for row in rows], [row["hyp"] for row in rows])
        assert again.rate == record["test"]["wer"], slug(record["name"])


def test_there_are_records():
    assert RECORDS
