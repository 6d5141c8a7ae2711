"""Which numbers the charts draw."""

import json

import pytest

from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.page.run_charts import arm_charts, moment_charts, run_charts, run_curves, score_box
from seqdsd.reports.runs.reading import read_runs


def runs_of(path):
    return read_runs([path]).runs


def test_curves_join_the_phases(comparison):
    (run,) = runs_of(comparison / "seed-0/dsdsd")
    drawn = run_curves(run)
    assert drawn["training"][:6] == [40.0, 20.0, 13.333, 10.0, 20.0, 10.0]
    assert drawn["dev"][4] == 22.0
    assert len(drawn["score"]) == 12
    # In percent: the record holds fractions.
    assert drawn["score"][-1] == pytest.approx(100 * run.phases[-1]["dev"]["wer"], abs=1e-2)
    assert [(one["start"], one["end"], one["kind"]) for one in drawn["bands"]] == [
        (0.5, 4.5, "dense"),
        (4.5, 6.5, "sparse"),
        (6.5, 8.5, "redense"),
        (8.5, 10.5, "sparse"),
        (10.5, 12.5, "redense"),
    ]


def test_bleu_rises_though_the_engine_minimises(caption_comparison):
    (run,) = runs_of(caption_comparison / "seed-0/dsd")
    drawn = run_curves(run)["score"]
    assert drawn[-1] == pytest.approx(run.phases[-1]["dev"]["bleu4"], abs=1e-2)
    assert min(drawn) >= 0


def test_older_records_have_no_dev_loss_and_null_is_a_gap(make_arm):
    folder = make_arm("run", "dsd")
    records = folder.read_phases()
    for record in records:
        del record["dev_loss"]
    records[1]["train_loss"][0] = None
    folder.write_phases(records)
    (run,) = runs_of(folder.path)
    drawn = run_curves(run)
    assert drawn["dev"] == [] and drawn["training"][4] is None
    loss, _ = run_charts([run])
    assert loss.what["measures"] == ("training",)
    # Records of which one phase has none keep their places.
    records[0]["dev_loss"] = [1.0] * 4
    folder.write_phases(records)
    (run,) = runs_of(folder.path)
    assert run_curves(run)["dev"] == [1.0] * 4 + [None] * 4


def scale_of(chart) -> str:
    return "log" if '"type": "log"' in json.dumps(chart.spec) else "linear"


def test_axes_are_logarithmic_where_they_can_be(make_arm, comparison, caption_comparison):
    loss, wer = run_charts(runs_of(comparison / "seed-0/dsd"))
    assert (scale_of(loss), scale_of(wer)) == ("log", "log")
    _, bleu = run_charts(runs_of(caption_comparison / "seed-0/dsd"))
    assert scale_of(bleu) == "linear"
    folder = make_arm("run", "dsd")
    records = folder.read_phases()
    records[2]["dev_score"] = [0.0, 0.0]
    folder.write_phases(records)
    assert scale_of(run_charts(runs_of(folder.path))[1]) == "linear"


def test_the_box_plot_has_the_scores_of_the_tables(comparison):
    runs = runs_of(comparison)
    (one,) = compare_runs(runs)
    box = score_box(one, split="test")
    assert box.title == "Test WER (%)"
    rows = json.loads(json.dumps(box.spec))["layer"]
    assert len(rows) == 2
    assert "Baseline: 16.67 (seed 0), 18.33 (seed 1)" in box.spec["description"]
    assert "lower is better" in box.spec["description"]
    assert score_box(one, split="test_other") is None


def test_arms_know_their_runs_on_the_page(comparison):
    runs = runs_of(comparison)
    (one,) = compare_runs(runs)
    charts = arm_charts(one, runs)
    assert [chart.what["measure"] for chart in charts] == ["score", "dev", "training"]
    drawn = {runs[number].arm for number in charts[0].what["runs"]}
    assert drawn == {"Baseline", "LLR", "DSD", "DSDSD"} and len(charts[0].what["runs"]) == 20
    assert [series.name for series in charts[0].key] == ["Baseline", "LLR", "DSD", "DSDSD"]


def test_runs_of_both_kinds_have_charts_of_both(comparison, caption_comparison):
    runs = (*runs_of(comparison / "seed-0/dsd"), *runs_of(caption_comparison / "seed-0/dsd"))
    charts = run_charts(runs)
    assert [(chart.what["kind"], chart.title) for chart in charts] == [
        ("speech", "Loss"),
        ("speech", "Dev WER (%)"),
        ("captions", "Loss"),
        ("captions", "Dev BLEU-4"),
    ]


def test_five_moments():
    assert [chart.title for chart in moment_charts()][::4] == ["before pruning", "after redense retraining"]
