"""The paper's own Table 7 as input: its improvement rows must come out."""

import io
import json
import re

import pytest
from rich.console import Console

from seqdsd.records import RunFolder
from seqdsd.reports import best_phase, phase_markdown, phase_table
from seqdsd.reports.phase_table import main

# DSD paper, Table 7 (WSJ '92 and '93), with a dev column of our own; the first row stands for the baseline.
TABLE_7 = [
    ("Dense Iter 0", 28.03, 33.55, 30.0, 0.0, 150, 8e-4),
    ("Sparse Iter 1", 27.90, 32.99, 29.0, 0.5, 50, 5e-4),
    ("Dense Iter 1", 27.90, 32.20, 28.0, 0.0, 50, 3e-4),
    ("Sparse Iter 2", 27.45, 32.99, 27.0, 0.25, 50, 1e-4),
    ("Dense Iter 2", 27.45, 31.59, 27.5, 0.0, 50, 3e-5),
]


def scored(percent: float) -> dict:
    errors = round(percent * 10)
    return {
        "wer": errors / 1000,
        "cer": errors / 2000,
        "hits": 1000 - errors,
        "substitutions": errors - 3,
        "deletions": 3,
        "insertions": 0,
        "ref_words": 1000,
    }


@pytest.fixture
def records() -> list[dict]:
    return [
        {
            "index": index,
            "name": name,
            "kind": "sparse" if sparsity else "dense",
            "epochs": epochs,
            "learning_rate": learning_rate,
            "sparsity": sparsity,
            "measured_sparsity": sparsity,
            "train_loss": [1.0] * epochs,
            "dev": scored(dev),
            "test": {**scored(wsj92), "wer": wsj92 / 100},
            "test_wsj93": {**scored(wsj93), "wer": wsj93 / 100},
            "train_seconds": 3725.4,
        }
        for index, (name, wsj92, wsj93, dev, sparsity, epochs, learning_rate) in enumerate(TABLE_7)
    ]


def cells(markdown: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]


def test_table_7(records):
    header, _, *rows = cells(phase_markdown(records))
    titles = "Phase|dev WER|test WER|test_wsj93 WER|Pruned|Zeros|Epochs|LR|Time"
    assert header == titles.split("|")
    assert rows == [
        ["Dense Iter 0", "30.00", "28.03", "33.55", "0.00", "0.00", "150", "0.0008", "1:02:05"],
        ["Sparse Iter 1", "29.00", "27.90", "32.99", "50.00", "50.00", "50", "0.0005", "1:02:05"],
        ["Dense Iter 1", "28.00", "27.90", "32.20", "0.00", "0.00", "50", "0.0003", "1:02:05"],
        ["Sparse Iter 2 *", "27.00", "27.45", "32.99", "25.00", "25.00", "50", "0.0001", "1:02:05"],
        ["Dense Iter 2", "27.50", "27.45", "31.59", "0.00", "0.00", "50", "3e-05", "1:02:05"],
        # Printed in the paper: 0.58 and 1.96 points, 2.07 % and 5.84 %.
        ["Improve (abs)", "2.50", "0.58", "1.96", "-", "-", "-", "-", "-"],
        ["Improve (rel)", "8.33", "2.07", "5.84", "-", "-", "-", "-", "-"],
    ]


def test_markdown_is_rectangular(records):
    lines = [line for line in phase_markdown(records).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {10}


def test_best_is_chosen_on_dev_and_named(records):
    assert best_phase(records) is records[3]
    caption = phase_markdown(records).splitlines()[-1]
    assert "Sparse Iter 2: WER 27.00 %, 270 errors in 1000 words" in caption


def test_the_earlier_of_equals_is_best(records):
    for record in records:
        record["dev"] = scored(20.0)
    assert best_phase(records) is records[0]


def test_the_terminal_shows_the_same_cells(records):
    out = io.StringIO()
    Console(file=out, width=200).print(phase_table(records))
    shown = [re.split(r"  +", line.strip()) for line in out.getvalue().splitlines()]
    header, _, *rows = cells(phase_markdown(records))
    assert [row for row in shown if len(row) == len(header) and row != header] == rows
    assert all(title in out.getvalue() for title in header)
    assert "the best phase on dev, Sparse Iter 2" in " ".join(out.getvalue().split())


def test_one_phase_has_no_improvement(records):
    assert len(cells(phase_markdown(records[:1]))) == 3


def test_epochs_cut_short_and_missing_test_sets(records):
    records[1] |= {"epochs": 12, "epochs_planned": 50}
    del records[1]["test_wsj93"]
    row = cells(phase_markdown(records))[3]
    assert (row[3], row[6]) == ("-", "12 of 50")


def test_a_perfect_start_has_no_relative_improvement(records):
    records[0]["test"]["wer"] = 0.0
    *_, absolute, relative = cells(phase_markdown(records))
    assert (absolute[2], relative[2]) == ("-27.45", "-")


def test_records_survive_json(records):
    again = [json.loads(json.dumps(record)) for record in records]
    assert phase_markdown(again) == phase_markdown(records)


def test_no_records():
    with pytest.raises(ValueError, match="no phase records"):
        phase_table([])


def test_a_phase_without_dev_is_named(records):
    del records[2]["dev"]["wer"]
    with pytest.raises(ValueError, match="'Dense Iter 1' has no dev WER"):
        phase_markdown(records)


def test_the_command_prints_markdown_or_one_clear_message(tmp_path, records, capsys):
    RunFolder(tmp_path).write_phases(records)
    main([str(tmp_path), "--markdown"])
    assert capsys.readouterr().out == phase_markdown(records)
    RunFolder(tmp_path).write_phases([])
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path)])
    assert "has not finished its first phase" in capsys.readouterr().err
