"""The paper's own Tables 2, 5 and 7 as input: their improvement rows must come out."""

import io
import json
import re

import pytest
from rich.console import Console

from seqdsd.records import RunFolder
from seqdsd.reports import best_phase, phase_markdown, phase_table
from seqdsd.reports.phase_table import main
from seqdsd.sparsity import Schedule

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


# DSD paper, Table 5 (NeuralTalk on Flickr8k).
TABLE_5 = [
    ("Dense Iter 0", (57.2, 38.6, 25.4, 16.8), 0.0, 19, 1e-2),
    ("Sparse Iter 1", (58.4, 39.7, 26.3, 17.5), 0.8, 10, 1e-3),
    ("Dense Iter 1", (59.2, 40.7, 27.4, 18.5), 0.0, 6, 1e-4),
]


def captioned(neuraltalk: tuple[float, ...], *, penalty: float) -> dict:
    return {
        **{f"bleu{order}": penalty * score for order, score in enumerate(neuraltalk, start=1)},
        **{f"neuraltalk_bleu{order}": score for order, score in enumerate(neuraltalk, start=1)},
        "brevity_penalty": penalty,
        "cider_d": 0.4512,
        "rouge_l": 0.4321,
        "decoding": "beam 3",
    }


@pytest.fixture
def caption_records() -> list[dict]:
    """Of a run on captions; on dev 10 points lower, with the best phase in the middle."""
    return [
        {
            "index": index,
            "name": name,
            "epochs": epochs,
            "best_epoch": 1,
            "learning_rate": learning_rate,
            "sparsity": sparsity,
            "measured_sparsity": sparsity,
            "dev_score": [-17.0 if index == 1 else -16.0],
            "dev": captioned(tuple(score - 10 for score in bleu), penalty=1.0),
            "test": captioned(bleu, penalty=0.9),
            "train_seconds": 3725.4,
        }
        for index, (name, bleu, sparsity, epochs, learning_rate) in enumerate(TABLE_5)
    ]


@pytest.fixture
def records() -> list[dict]:
    """Of a run on speech; the best epoch of each phase is its second."""
    return [
        {
            "index": index,
            "name": name,
            "kind": "sparse" if sparsity else "dense",
            "epochs": epochs,
            "best_epoch": 2,
            "learning_rate": learning_rate,
            "sparsity": sparsity,
            "measured_sparsity": sparsity,
            "dev_score": [0.9, dev / 100, 0.1],
            "dev": scored(dev),
            "test": {**scored(wsj92), "wer": wsj92 / 100},
            "test_wsj93": {**scored(wsj93), "wer": wsj93 / 100},
            "train_seconds": 3725.4,
        }
        for index, (name, wsj92, wsj93, dev, sparsity, epochs, learning_rate) in enumerate(TABLE_7)
    ]


# DSD paper, Table 2 (GoogLeNet): top-1 and top-5 error, of 10,000 images here.
TABLE_2 = [
    ("Dense Iter 0", 3114, 1096, 0.0, 250, 1e-2),
    ("Sparse Iter 1", 3058, 1058, 0.3, 11, 1e-3),
    ("Dense Iter 1", 3002, 1034, 0.0, 22, 1e-4),
]


def classified(top1: int, top5: int | None) -> dict:
    counts = {"top1_errors": top1, "top1_error": top1 / 10_000, "images": 10_000}
    return counts if top5 is None else {**counts, "top5_errors": top5, "top5_error": top5 / 10_000}


@pytest.fixture
def class_records(caption_records) -> list[dict]:
    """Of a classifier; on dev 100 errors more, with the best phase at the end."""
    return [
        {
            **record,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "sparsity": sparsity,
            "measured_sparsity": sparsity,
            "dev_score": [top1 / 10_000],
            "dev": classified(top1 + 100, top5 + 100),
            "test": classified(top1, top5),
        }
        for record, (_, top1, top5, sparsity, epochs, learning_rate) in zip(
            caption_records, TABLE_2, strict=True
        )
    ]


def cells(markdown: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]


def printed(records: list[dict], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(phase_table(records))
    return out.getvalue()


def test_table_2(class_records):
    header, _, *rows = cells(phase_markdown(class_records))
    titles = "Phase|dev Top-1/Top-5 error|test Top-1/Top-5 error|Pruned|Zeros|Epochs|LR|Time"
    assert header == titles.split("|")
    assert [row[:6] for row in rows] == [
        ["Dense Iter 0", "32.14/11.96", "31.14/10.96", "0.00", "0.00", "250"],
        ["Sparse Iter 1", "31.58/11.58", "30.58/10.58", "30.00", "30.00", "11"],
        ["Dense Iter 1 *", "31.02/11.34", "30.02/10.34", "0.00", "0.00", "22"],
        # As printed: 1.12 and 0.62 points, 3.6 and 5.7 percent.
        ["Improve (abs)", "1.12/0.62", "1.12/0.62", "-", "-", "-"],
        ["Improve (rel)", "3.48/5.18", "3.60/5.66", "-", "-", "-"],
    ]
    assert "best phase on dev, Dense Iter 1: 3102 errors in 10000 images" in " ".join(
        phase_markdown(class_records).split()
    )


def test_few_classes_have_no_top_five(class_records):
    for record in class_records:
        record["dev"], record["test"] = classified(40, None), classified(30, None)
    assert [row[2] for row in cells(phase_markdown(class_records))[2:]] == [
        "0.30/-",
        "0.30/-",
        "0.30/-",
        "0.00/-",
        "0.00/-",
    ]


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
        record["dev_score"] = [0.9, 0.2]
    assert best_phase(records) is records[0]


@pytest.mark.parametrize("diverged", [None, float("nan")])
def test_a_phase_whose_score_is_not_a_number_is_never_best(records, diverged):
    records[0]["dev_score"][1] = records[3]["dev_score"][1] = diverged
    assert best_phase(records) is records[4]


def test_the_terminal_shows_the_same_cells(records):
    out = printed(records, 200)
    shown = [re.split(r"  +", line.strip()) for line in out.splitlines()]
    header, _, *rows = cells(phase_markdown(records))
    assert [row for row in shown if len(row) == len(header) and row != header] == rows
    assert all(title in out for title in header)
    assert "the best phase on dev, Sparse Iter 2" in " ".join(out.split())


def test_one_phase_has_no_improvement(records):
    assert len(cells(phase_markdown(records[:1]))) == 3


def test_epochs_cut_short_and_missing_test_sets(records):
    records[1] |= {"epochs": 12, "epochs_planned": 50}
    del records[1]["test_wsj93"]
    row = cells(phase_markdown(records))[3]
    assert (row[3], row[6]) == ("-", "12 of 50")


def test_epochs_that_were_undone_are_named(records):
    assert "iverged" not in phase_markdown(records)
    records[1]["restarts"] = [
        {"epoch": 3, "back_to": 2, "learning_rate": 2.5e-4, "why": "x"},
        {"epoch": 7, "back_to": 2, "learning_rate": 1.25e-4, "why": "x"},
    ]
    expected = "Sparse Iter 1 epoch 3 (on with 0.00025), Sparse Iter 1 epoch 7 (on with 0.000125)."
    assert f"Diverged and undone at half the rate: {expected}" in phase_markdown(records)


def restored(share: float | None, above_share: float, *, is_nearly_sparse: bool = False) -> dict:
    return {
        "weights": 1000,
        "former_mean_abs": 0.02,
        "mean_abs": 0.02 * (share or 0),
        "above_threshold": round(1000 * above_share),
        "share": share,
        "above_share": above_share,
        "is_nearly_sparse": is_nearly_sparse,
    }


def test_how_far_restored_weights_have_come_back_stands_below_the_table(records):
    plain = phase_markdown(records)
    assert "estored" not in plain and "nearly sparse" not in plain
    records[2] |= {"restored": restored(0.104, 0.0, is_nearly_sparse=True), "restored_start": "zero"}
    records[4] |= {"restored": restored(0.85, 0.123), "restored_start": "former"}
    told = phase_markdown(records)
    assert cells(told) == cells(plain)
    caption = told.splitlines()[-1]
    assert (
        "Restored weights have come back to: Dense Iter 1 10.4 % of their former mean |w|, 0.0 % of them above the old "
        "threshold; Dense Iter 2 85.0 % of their former mean |w|, 12.3 % of them above the old threshold (from their "
        "former values). Dense Iter 1: the redense phase was too short or too slow, and this network is still nearly "
        "sparse; raise that phase's rate (--learning-rates) or epochs (--epochs)." in caption
    )
    assert "Dense Iter 1 10.4 %" in " ".join(printed(records, 200).split())
    records[2]["restored"] = restored(None, 0.0)
    assert "Dense Iter 1 - % of" in phase_markdown(records) and "nearly" not in phase_markdown(records)


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
    with pytest.raises(ValueError, match="'Dense Iter 1' has no dev score 'wer'"):
        phase_markdown(records)
    records[1]["dev_score"] = []
    with pytest.raises(ValueError, match="'Sparse Iter 1' has no dev score; the best phase is chosen by it"):
        best_phase(records)


def test_table_5(caption_records):
    header, _, *rows = cells(phase_markdown(caption_records))
    titles = "Phase|dev BLEU-4|test BLEU-1/2/3/4|test NeuralTalk BLEU-1/2/3/4|Pruned|Zeros|Epochs|LR|Time"
    assert header == titles.split("|")
    # The standard scores are 0.9 of the paper's, so their relative improvement is the same.
    rest = ["-"] * 5
    assert rows == [
        [
            "Dense Iter 0",
            "6.8",
            "51.5/34.7/22.9/15.1",
            "57.2/38.6/25.4/16.8",
            *"0.00 0.00 19 0.01 1:02:05".split(),
        ],
        [
            "Sparse Iter 1 *",
            "7.5",
            "52.6/35.7/23.7/15.8",
            "58.4/39.7/26.3/17.5",
            *"80.00 80.00 10 0.001 1:02:05".split(),
        ],
        [
            "Dense Iter 1",
            "8.5",
            "53.3/36.6/24.7/16.7",
            "59.2/40.7/27.4/18.5",
            *"0.00 0.00 6 0.0001 1:02:05".split(),
        ],
        # Printed in the paper: 2.0, 2.1, 2.0 and 1.7 points; 3.5, 5.4, 7.9 and 10.1 %.
        ["Improve (abs)", "1.7", "1.8/1.9/1.8/1.5", "2.0/2.1/2.0/1.7", *rest],
        ["Improve (rel)", "25.0", "3.5/5.4/7.9/10.1", "3.5/5.4/7.9/10.1", *rest],
    ]


def test_captions_are_told_how_they_were_scored(caption_records):
    caption = phase_markdown(caption_records).splitlines()[-1]
    assert caption.startswith("Decoding: beam 3. BLEU is standard")
    assert "NeuralTalk BLEU is without the brevity penalty" in caption
    assert (
        "the best phase on dev, Sparse Iter 1: dev CIDEr-D 0.451, ROUGE-L 0.432, brevity penalty 1.000;"
        in caption
    )
    assert "; test CIDEr-D 0.451, ROUGE-L 0.432, brevity penalty 0.900." in caption


def test_a_loss_is_a_negative_improvement(caption_records):
    *_, absolute, relative = cells(phase_markdown(caption_records[::-1]))
    assert absolute[3] == "-2.0/-2.1/-2.0/-1.7"
    assert relative[3] == "-3.4/-5.2/-7.3/-9.2"
    caption_records[2]["dev"]["bleu4"] = caption_records[0]["dev"]["bleu4"] - 0.01
    *_, absolute, relative = cells(phase_markdown(caption_records))
    assert absolute[1] == "0.0"  # not -0.0


def test_every_test_set_has_its_columns(caption_records):
    caption_records[2]["test_coco"] = captioned((70.0, 50.0, 35.0, 25.0), penalty=1.0)
    header, _, *rows = cells(phase_markdown(caption_records))
    assert header[4:6] == ["test_coco BLEU-1/2/3/4", "test_coco NeuralTalk BLEU-1/2/3/4"]
    assert [row[4] for row in rows] == ["-", "-", "70.0/50.0/35.0/25.0", "-", "-"]


@pytest.mark.parametrize("width", [100, 120])
def test_captions_fit_a_terminal_of_100_columns(caption_records, width):
    caption_records[1]["epochs_planned"] = 12
    out = printed(caption_records, width)
    assert "…" not in out and max(map(len, out.splitlines())) <= width
    for row in cells(phase_markdown(caption_records))[2:]:
        assert any(line.split() == " ".join(row).split() for line in out.splitlines()), row


def test_a_narrower_terminal_gets_two_tables(caption_records):
    out = printed(caption_records, 80)
    assert "…" not in out and max(map(len, out.splitlines())) <= 80
    lines = [line.split() for line in out.splitlines()]
    assert "Dense Iter 0 6.8 51.5/34.7/22.9/15.1 57.2/38.6/25.4/16.8".split() in lines
    assert "Dense Iter 0 0.00 0.00 19 0.01 1:02:05".split() in lines
    assert "Improve (abs) 1.7 1.8/1.9/1.8/1.5 2.0/2.1/2.0/1.7".split() in lines
    assert out.count("Improve (abs)") == out.count("Decoding: beam 3") == 1


@pytest.fixture
def whole_records(phase_records) -> list[dict]:
    """Of a run that a folder may hold: all agrees with all."""
    return phase_records(Schedule.dsd(1))


def test_the_command_prints_markdown_or_one_clear_message(tmp_path, whole_records, capsys):
    RunFolder(tmp_path).write_phases(whole_records)
    main([str(tmp_path), "--markdown"])
    assert capsys.readouterr().out == phase_markdown(whole_records)
    RunFolder(tmp_path).write_phases([])
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path)])
    assert "has not finished its first phase" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path / "\x1b[2J")])
    assert r"\x1b[2J: no phases.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "[provenance]\nformat = 99\n",
            "config.toml: the run folder is from another version of seqdsd (format 99",
        ),
        ("provenance = {", "config.toml: not a readable TOML file"),
    ],
)
def test_a_folder_of_another_version_or_with_damaged_settings_is_refused(
    tmp_path, whole_records, capsys, settings, message
):
    """Records alone are shown, see above."""
    folder = RunFolder(tmp_path)
    folder.write_phases(whole_records)
    folder.config.write_text("[provenance]\nformat = 1\n")
    main([str(tmp_path), "--markdown"])
    assert capsys.readouterr().out == phase_markdown(whole_records)
    folder.config.write_text(settings)
    with pytest.raises(SystemExit, match="1"):
        main([str(tmp_path)])
    said = capsys.readouterr()
    assert message in said.err and not said.out
