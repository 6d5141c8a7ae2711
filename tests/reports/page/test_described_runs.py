"""What the report says of a run beside its scores."""

import pytest

from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.page.described_runs import (
    all_runs_grid,
    default_run,
    plans,
    provenance_rows,
    run_label,
    settings_text,
    shown_runs,
)
from seqdsd.reports.runs.reading import read_runs


@pytest.fixture
def runs(comparison):
    return read_runs([comparison]).runs


def test_first_phases_are_shown_once(runs, comparison):
    shown = shown_runs(runs)
    assert len(runs) == 25 and len(shown) == 20 and "Dense" not in {run.arm for run in shown}
    alone = read_runs([comparison / "seed-0/dense", comparison / "seed-1/dsd"]).runs
    assert [run.arm for run in shown_runs(alone)] == ["Dense", "DSD"]  # of other seeds


def test_labels(runs, comparison, make_arm):
    comparisons = compare_runs(runs)
    by_name = {run.name: run for run in runs}
    assert run_label(by_name["seed-1/dsdsd"], comparisons) == "DSDSD, seed 1"
    assert run_label(by_name["seed-1/dense"], comparisons) == "seed-1/dense"
    assert run_label(by_name["seed-1/dsdsd"], comparisons * 2) == "seed-1/dsdsd"
    folder = make_arm("alone", "dsd")
    folder.write_phases(folder.read_phases()[:1])
    (run,) = read_runs([folder.path]).runs
    assert run_label(run, compare_runs([run])) == "alone (unfinished)"


def test_the_longest_complete_run_is_shown_first(runs):
    assert runs[default_run(runs)].name == "seed-0/dsdsd"
    assert default_run(runs[:1]) == 0


def test_how_a_run_came_about(runs):
    run = next(run for run in runs if run.name == "seed-2/dsd")
    rows = dict(provenance_rows(run))
    assert rows["Command"] == "python -m seqdsd.recipes.ds1 --out dsd --seed 2 --method dsd"
    assert (rows["Seed"], rows["Commit"], rows["Threads"]) == ("2", "6f7db7ee1d90", "1")
    assert rows["Versions"] == "seqdsd 0.1.0, torch 2.14.1"
    assert (rows["Training"], rows["Evaluation"]) == ("0:04:00", "0:00:16")  # 8 epochs of 30 and 2 seconds
    assert rows["Weight statistics"] == "0.06 s, 0.025 % of training"
    assert "momentum = 0.9" in settings_text(run)
    baseline = next(run for run in runs if run.arm == "Baseline")
    assert "Weight statistics" not in dict(provenance_rows(baseline))


def test_a_run_of_which_little_is_known(make_arm):
    folder = make_arm("run", "dsd")
    text = folder.config.read_text().partition("[provenance]")[0]
    folder.config.write_text(f'{text}[provenance]\nrecipe = "ds1"\n')
    (run,) = read_runs([folder.path]).runs
    assert [name for name, _ in provenance_rows(run)][:3] == ["Folder", "Seed", "Recipe"]
    assert all_runs_grid([run], ["run"]).rows[0][6:8] == ("-", "-")


def test_all_runs(runs):
    grid = all_runs_grid(runs[:2], ["one", "other"])
    assert grid.rows[0][:6] == ("one", "Baseline", "0", "1 of 1", "12", "0:06:00")


def test_equal_plans_are_shown_once(runs):
    shown = shown_runs(runs)
    found = plans(shown, [run.name for run in shown])
    assert sorted(len(plan.numbers) for plan in found) == [5, 5, 10]
    (none,) = [plan for plan in found if plan.grid is None]
    assert none.said == "This run prunes nothing."
    assert {shown[number].arm for number in none.numbers} == {"Baseline", "LLR"}
