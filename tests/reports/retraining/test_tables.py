"""A study's tables and page: both analyses stand beside each other."""

import csv
import io
import json
import re

import pytest
import vl_convert

from seqdsd.records import RunFolder
from seqdsd.reports import report
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.numbers import to_csv, to_json, to_latex, to_markdown
from seqdsd.reports.page.report import report_page
from seqdsd.reports.page.run_charts import improvement_chart
from seqdsd.reports.retraining.contrasts import study_contrasts
from seqdsd.reports.retraining.study import retraining_studies
from seqdsd.reports.retraining.tables import across_grid, parent_grid, study_grids, study_notes
from seqdsd.reports.runs.reading import read_runs

ARMS = {
    "llr": (0, [[50, 52, 51], [60, 61, 62], [55, 55, 58]]),
    "dsd-0.3": (0.3, [[48, 49, 48], [58, 57, 58], [54, 54, 53]]),
    "dsd-0.8": (0.8, [[70, 71, 72], [60, 81, 61], [56, 55, 57]]),
}


@pytest.fixture
def read(make_study):
    """Everything that a report is made of."""
    run_set = read_runs([make_study(ARMS)])
    studies, others = retraining_studies(run_set.runs)
    return run_set, compare_runs(others), studies


def test_the_main_table_has_both_tests_and_the_parts_of_the_variance(read):
    (study,) = read[2]
    grid = across_grid(study, split="test", metric=study.kind.primary)
    rows = [dict(zip(grid.plain_header, row, strict=True)) for row in grid.sections[0]]
    assert [(row["Arm"], row["On"]) for row in rows] == [("dsd-0.3", "llr"), ("dsd-0.8", "llr")]
    good, bad = rows
    (one, other) = study_contrasts(study, split="test", metric=study.kind.primary)
    assert (good["Before"], good["After"], good["Improve (abs)"]) == ("5.60", "5.32", "0.278")
    assert good["Table 10's test"] == f"{one.count('better')} better, 0 worse of 3"
    assert bad["Table 10's test"] == "0 better, 1 worse of 3"
    assert bad["SD of repeats"] == f"{100 * other.test.sd_between_repeats:.3f}"
    assert bad["SD of parents"] == f"{100 * other.test.sd_between_parents:.3f}"
    assert float(bad["Detectable"]) > float(good["Detectable"]) > 0
    assert [row[1] for row in grid.sections[1]] == ["parents"] * 3
    assert "of this parent and this test set only" in grid.caption and "Across parents" in grid.caption
    assert "3 parents, 3 retrainings of each in an arm" in grid.caption


def test_the_other_table_has_each_parent_and_then_all(read):
    (study,) = read[2]
    grid = parent_grid(study, split="test", metric=study.kind.primary)
    assert [[row[1] for row in section] for section in grid.sections] == [["0", "1", "2", "All parents"]] * 2
    first = dict(zip(grid.plain_header, grid.rows[0], strict=True))
    assert (first["Before"], first["After"], first["Repeats"]) == ("5.10 ± 0.100", "4.83 ± 0.058", "3")
    assert first["Says"].startswith("better, p = ")


def test_what_is_missing_is_noted(make_study):
    arms = {**ARMS, "llr": (0, [[50, 52], [60, 61, 62], [55, 55, 58]])}
    (study,), _ = retraining_studies(read_runs([make_study(arms)]).runs)
    caption = across_grid(study, split="test", metric=study.kind.primary).caption
    assert "2–3 repeats in an arm, so that p across parents is approximate" in caption


def test_retrainings_that_stay_nearly_sparse_are_named(make_study):
    folder = make_study(ARMS)
    for parent, share in ((0, 0.1), (1, 0.2)):
        run = RunFolder(folder / f"parent-{parent}" / "repeat-0" / "dsd-0.8")
        *others, last = run.read_phases()
        restored = {
            "weights": 9,
            "former_mean_abs": 1.0,
            "mean_abs": share,
            "above_threshold": 0,
            "share": share,
        }
        restored |= {"above_share": 0.0, "is_nearly_sparse": True}
        run.write_phases([*others, {**last, "restored": restored}])
    (study,), _ = retraining_studies(read_runs([folder]).runs)
    (said,) = [note for note in study_notes(study) if "nearly sparse" in note]
    assert said.endswith("of the former: dsd-0.8 (2 of 9, 15 %)")


def test_numbers_for_other_programs(read):
    value = json.loads(to_json(*read))
    (study,) = value["retrainings"]
    assert value["comparisons"] == [] and len(value["runs"]) == 27
    assert study["arms"]["dsd-0.3"]["llr"] == "llr"
    assert study["arms"]["dsd-0.3"]["scores"]["test"]["top1_error"]["1"] == {
        "0": 0.058,
        "1": 0.057,
        "2": 0.058,
    }
    one = next(one for one in study["contrasts"] if (one["split"], one["metric"]) == ("test", "top1_error"))
    assert one["improvement"] == pytest.approx(0.0027777778)
    assert one["across_parents"]["parents"] == 3 and one["across_parents"]["family"] == 2
    on_parents = [one["across_parents"] for one in study["contrasts"] if one["before"] == "parents"]
    assert on_parents and not any(one["sd_between_parents"] is not None for one in on_parents)
    assert [parent["parent"] for parent in one["table_10_of_each_parent"]] == [0, 1, 2]
    rows = list(csv.DictReader(io.StringIO(to_csv(*read))))
    assert {row["arm"] for row in rows} == set(ARMS) and {row["comparison"] for row in rows} == {
        "ResNet-20 on CIFAR-10, retrained"
    }
    markdown, latex = to_markdown(*read), to_latex(*read)
    for grid in study_grids(read[2][0]):
        assert grid.to_markdown() in markdown and grid.to_latex() in latex
    assert "parent-1/repeat-0" not in latex  # runs of their own tables are the examples


def test_the_page_shows_both_and_the_examples_alone(read):
    run_set, comparisons, studies = read
    page = report_page(run_set, comparisons, studies=studies)
    assert page.num_runs == 3
    assert "Across parents, Top-1 error, test" in page.html and "0 better, 1 worse of 3" in page.html
    assert "of this parent and this test set only" in page.html
    assert re.search(r"<h1>ResNet-20 on CIFAR-10, retrained</h1>", page.html)
    assert "3 retrained parents, 27 runs" in page.html


def test_the_chart_has_a_line_for_each_parent_and_one_for_all(read):
    (study,) = read[2]
    made = study_contrasts(study, split="test", metric=study.kind.primary)
    chart = improvement_chart(made)
    svg = vl_convert.vegalite_to_svg(chart.spec)
    lines = re.findall(r'<line aria-label="improvement[^>]*stroke-width="([\d.]+)"', svg)
    drawn = [row for row in chart.spec["layer"][1]["data"]["values"] if row["low"] is not None]
    assert len(drawn) == 8 and [row["who"] for row in drawn[:4]] == [
        "parent 0",
        "parent 1",
        "parent 2",
        "all parents",
    ]
    assert lines.count("4") == 2 and lines.count("1.5") == 6
    assert drawn[3]["value"] == pytest.approx(0.2777777778)


def test_the_command_recognises_a_study(make_study, capsys):
    folder = make_study(ARMS)
    report.main([str(folder), "--markdown", "-"])
    printed = capsys.readouterr().out
    assert printed.startswith("**ResNet-20 on CIFAR-10, retrained, 3 parents: dsd-0.3 on llr improves")
    assert (folder / "report.html").is_file()
