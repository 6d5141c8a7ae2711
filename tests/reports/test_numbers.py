"""The exports, read back by other readers: JSON, CSV, and LaTeX that is balanced."""

import csv
import io
import json
import re
import statistics
from dataclasses import replace

import pytest

from seqdsd.kinds import SPEECH
from seqdsd.reports.comparison.arms import Comparison, compare_runs
from seqdsd.reports.comparison.contrasts import headlines
from seqdsd.reports.numbers import (
    CSV_COLUMNS,
    comparison_grids,
    report_grids,
    run_grid,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
)
from seqdsd.reports.runs.reading import RunSet, read_runs


@pytest.fixture(scope="module")
def both(comparison, caption_comparison) -> tuple[RunSet, tuple[Comparison, ...]]:
    found = read_runs([comparison, caption_comparison])
    return found, compare_runs(found.runs)


@pytest.fixture
def one_of_everything(make_comparison):
    """An arm complete, one unfinished, one refused."""
    folder = make_comparison(seeds=[0], arms=["dense", "baseline", "dsd", "llr"])
    dsd = read_runs([folder / "seed-0/dsd"]).runs[0].folder
    dsd.write_phases(dsd.read_phases()[:2])
    (folder / "seed-0/llr/phases.jsonl").write_text("{")
    found = read_runs([folder])
    return found, compare_runs(found.runs)


def test_json_holds_runs_and_statistics(both):
    value = json.loads(to_json(*both))
    assert len(value["runs"]) == 40 and value["refused"] == []
    speech, captions = value["comparisons"]
    assert [" ".join(said.split()[:6]) for said in speech["headlines"]] == ["AN4, 5 seeds: DSDSD 12.50 ±"] * 2
    assert speech["arms"]["DSDSD"]["scores"]["test"]["wer"]["2"] == pytest.approx(13 / 120)
    contrast = next(
        one
        for one in speech["contrasts"]
        if (one["after"]["arm"], one["before"]["arm"]) == ("DSDSD", "Baseline")
    )
    assert contrast["improvement"] == pytest.approx(6 / 120)  # a fraction, not rounded
    assert contrast["counts"] == "paired t-test" and contrast["significant"] is True
    assert contrast["paired"]["p_value"] < contrast["p_holm"] < 0.001 and contrast["family"] == 6
    assert contrast["before"]["epochs"] == [12] * 5
    assert {one["metric"] for one in captions["contrasts"]} >= {"bleu1", "bleu4", "neuraltalk_bleu4"}
    pair = speech["pair_tests"][1]
    assert (pair["name"], pair["mapsswe"]["errors_before"]) == ("DSDSD on Baseline", 20)
    run = next(run for run in value["runs"] if run["arm"] == "DSD")
    assert run["phases"][1]["train_loss"] == [20.0, 10.0] and run["phases"][1]["evaluate_seconds"] == 4.0
    assert [moment["moment"] for moment in run["weights"]][:2] == ["before pruning", "after pruning"]
    assert run["weights"][4]["layers"][0]["pruned_near_zero"] == 193
    assert run["plan"][0]["rule"] == "fc.*"
    assert run["phases"][1]["sparsity"] == 0.5 and run["phases"][1]["scores"]["test"]["wer"] == pytest.approx(
        24 / 120
    )


def test_csv_is_tidy(both):
    rows = list(csv.DictReader(io.StringIO(to_csv(*both))))
    assert tuple(rows[0]) == CSV_COLUMNS
    scores = [
        float(row["value"])
        for row in rows
        if (row["comparison"], row["arm"], row["phase"], row["split"], row["metric"])
        == ("DeepSpeech 1 on AN4", "DSDSD", "Dense Iter 2", "test", "wer")
    ]
    assert statistics.mean(scores) == pytest.approx(0.125) and len(scores) == 5
    keys = [tuple(row[column] for column in CSV_COLUMNS[:-1]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert all(float(row["value"]) is not None for row in rows)
    assert {row["split"] for row in rows} == {"train", "dev", "test"}
    assert {row["arm"] for row in rows if not row["comparison"]} == {"Dense"}


def test_what_is_unfinished_or_refused_is_marked(one_of_everything):
    value = json.loads(to_json(*one_of_everything))
    (refused,) = value["refused"]
    assert "phases.jsonl:1: damaged record" in refused["message"] and refused["path"].endswith("seed-0/llr")
    dsd = next(run for run in value["runs"] if run["arm"] == "DSD")
    assert (dsd["complete"], len(dsd["phases"]), dsd["phases_planned"]) == (False, 2, 3)
    assert value["comparisons"][0]["arms"]["DSD"]["unfinished"] == ["dsd"]
    rows = csv.DictReader(io.StringIO(to_csv(*one_of_everything)))
    assert {(row["arm"], row["complete"]) for row in rows} == {
        ("Baseline", "true"),
        ("DSD", "false"),
        ("Dense", "true"),
    }


def test_numbers_that_are_not_finite_become_null(one_of_everything):
    found, comparisons = one_of_everything
    found.runs[0].phases[0]["dev"]["loss"] = float("nan")
    value = json.loads(to_json(found, comparisons))
    assert value["runs"][0]["phases"][0]["scores"]["dev"]["loss"] is None


def test_dev_is_shown_where_test_was_not_scored(both):
    speech = [run for run in both[0].runs if run.kind is SPEECH]
    runs = RunSet(tuple(replace(run, phases=tuple(map(without_test, run.phases))) for run in speech))
    compared = compare_runs(runs.runs)
    assert [grid.name.removeprefix("table-") for grid in report_grids(runs, compared)[:3]] == [
        "1",
        "10-deepspeech-1-on-an4-dev-wer",
        "contrasts-deepspeech-1-on-an4-dev-wer",
    ]
    (one,) = json.loads(to_json(runs, compared))["comparisons"]
    assert list(one["arms"]["DSDSD"]["scores"]) == ["dev"] and len(one["contrasts"]) == 6
    assert "test was not scored" in one["headlines"][0]
    text = to_markdown(runs, compared)
    assert "dev WER mean" in text and "test WER" not in text
    assert r"table-10-deepspeech-1-on-an4-dev-wer" in to_latex(runs, compared)


def without_test(record):
    return {key: value for key, value in record.items() if key != "test"}


def test_every_table_in_latex(both):
    text = to_latex(*both)
    grids = report_grids(*both)
    labels = re.findall(r"\\label\{tab:([a-z0-9-]+)\}", text)
    assert labels == [grid.name for grid in grids] and len(set(labels)) == len(labels)
    # Table 1, of speech, of captions (two kinds of BLEU), of each run, and the plan and rounds of DSD and DSDSD.
    assert len(grids) == 1 + 4 + 6 + 40 + 8 * (2 + 3)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(grids)
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
    assert text.isascii() and text.startswith("% Needs \\usepackage{booktabs}.")


def test_markdown_has_each_comparison_s_sentence_before_its_tables(both):
    text = to_markdown(*both)
    speech, captions = both[1]
    sentences = [said for one in both[1] for said in headlines(one)]
    positions = [text.index(f"**{said}**") for said in sentences]
    assert len(sentences) == 4 and positions == sorted(positions) and positions[0] == 0
    for grid in comparison_grids(speech) + comparison_grids(captions):
        assert grid.to_markdown() in text


def test_markdown_of_a_run_alone_is_its_phases(make_comparison):
    found = read_runs([make_comparison(seeds=[0], arms=["baseline"])])
    (grid,) = map(run_grid, found.runs)
    assert grid.to_markdown() in to_markdown(found, compare_runs(found.runs))


def test_a_run_beside_its_baseline_is_measured_by_it(both):
    found, comparisons = both
    run = next(run for run in found.runs if (run.arm, run.seed, run.kind) == ("DSDSD", 2, SPEECH))
    grid = run_grid(run, comparisons)
    phases, baseline, improve = grid.sections
    assert len(phases) == 5 and baseline[0][:3] == ("Baseline", "15.83", "15.83")
    assert improve[0][:3] == ("Improve (abs)", "5.00", "5.00")  # 19 to 13 of 120
    assert grid.caption.endswith(
        "Improve: from the baseline, from the same initial weights, to the last phase (12 epochs to 12)."
    )
    assert len(run_grid(run).sections[1]) == 0 and run_grid(run).caption.endswith("first phase to the last.")
    dsd = next(run for run in found.runs if (run.arm, run.seed, run.kind) == ("DSD", 2, SPEECH))
    assert run_grid(dsd, comparisons).sections[1] == ()  # its baseline would have fewer epochs


def test_tables_without_rows_are_left_out(make_comparison):
    found = read_runs([make_comparison(seeds=[0, 1], arms=["dsd"])])
    names = [grid.name for grid in comparison_grids(compare_runs(found.runs)[0])]
    assert names == ["table-10-deepspeech-1-on-an4-test-wer", "seeds-deepspeech-1-on-an4-test-wer"]


def test_a_run_alone_has_its_phases_and_says_if_it_is_unfinished(one_of_everything):
    found, _ = one_of_everything
    alone = RunSet(tuple(run for run in found.runs if run.arm == "DSD"))
    grids = report_grids(alone, compare_runs(alone.runs))
    assert [grid.name for grid in grids] == ["phases-dsd", "plan-dsd", "weights-round-1-dsd"]
    assert grids[0].caption.startswith("dsd (DSD, seed 0, unfinished: 2 of 3 phases). Word error rates")
    assert report_grids(RunSet(()), ()) == []
