"""One table in four layouts, each read back and compared with its cells."""

import io
import re

import pytest
from rich.console import Console

from seqdsd.reports.layout import Grid, latex

GRID = Grid(
    name="a-table",
    header=("Arm", "Phase", "test\nWER", "95 % CI", "Epochs", "LR"),
    sections=(
        (("Baseline", "B_1", "17.50 ± 1.32", "[-1.5, 2.0]", "12", "2e-05"),),
        (
            ("DSD", "S & 50% #1", "15.33", "-", "4 of 8", "0.001"),
            ("DSD", "D|2 [red]", "15.40", "-", "8", "0.001"),
        ),
        (("Improve", "x", "2.17", "-", "-", "-"),),
    ),
    caption="100 % of {it} costs $5 [bold]; p < 0.05.",
    num_labels=2,
    num_last=2,
    best=1,
)


def printed(grid: Grid, width: int, **settings) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **settings).print(grid.to_terminal())
    return out.getvalue()


def test_markdown():
    lines = GRID.to_markdown().splitlines()
    assert lines[:2] == [
        "| Arm | Phase | test WER | 95 % CI | Epochs | LR |",
        "| :-- | :-- | --: | --: | --: | --: |",
    ]
    assert lines[4] == r"| DSD | D\|2 [red] | 15.40 | - | 8 | 0.001 |"  # a bar would begin a cell
    assert lines[-2:] == ["", GRID.caption] and len(lines) == 8
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:-2]]
    assert [tuple(cell.strip().replace(r"\|", "|") for cell in row) for row in cells] == list(GRID.rows)


def test_latex_is_what_booktabs_asks_for():
    lines = GRID.to_latex().splitlines()
    assert lines[:2] == [r"\begin{table}", r"\centering"] and lines[-2:] == [r"\end{tabular}", r"\end{table}"]
    assert lines[2] == r"\caption{100 \% of \{it\} costs \$5 [bold]; p \textless{} 0.05.}"
    assert lines[3:6] == [r"\label{tab:a-table}", r"\begin{tabular}{llrrrr}", r"\toprule"]
    assert lines[6] == r"Arm & Phase & test WER & 95 \% CI & Epochs & LR \\"
    rules = [number for number, line in enumerate(lines) if line.endswith("rule")]
    assert [lines[number] for number in rules] == [r"\toprule", *[r"\midrule"] * 3, r"\bottomrule"]
    assert lines[8] == r"Baseline & B\_1 & 17.50 $\pm$ 1.32 & [$-$1.5, 2.0] & 12 & 2e-05 \\"
    bold = r"\textbf{DSD} & \textbf{S \& 50\% \#1} & \textbf{15.33} & \textbf{-} & \textbf{4 of 8} & \textbf{0.001} \\"
    assert lines[10] == bold
    rows = [line for line in lines if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {5}
    text = "\n".join(lines)
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b^c~d\\e", r"a\_b\textasciicircum{}c\textasciitilde{}d\textbackslash{}e"),
        ("-0.1 and seed-1, x -2, 1e-05", r"$-$0.1 and seed-1, x $-$2, 1e-05"),
        ("95–110 × 2 †", r"95--110 $\times$ 2 $\dagger$"),
        ("words|none", r"words\textbar{}none"),
    ],
)
def test_latex_escapes(text, expected):
    assert latex(text) == expected


def test_an_empty_section_leaves_no_rule():
    grid = Grid("x", ("A", "B"), ((("a", "1"),), ()), "")
    assert grid.to_latex().count(r"\midrule") == 1
    assert r"\label{tab:x}" in Grid("x", ("A", "B"), ((),), "").to_latex()


def test_the_terminal_in_one_piece():
    out = printed(GRID, 120)
    lines = [line.split() for line in out.splitlines()]
    for row in GRID.rows:
        assert " ".join(row).split() in lines  # nothing is taken for markup
    assert out.count("Arm") == 1 and "costs $5 [bold]; p < 0.05." in " ".join(out.split())
    assert "test\n" not in GRID.plain_header[2]


def test_the_best_row_is_bold_in_the_terminal():
    out = printed(GRID, 120, force_terminal=True, color_system="standard")
    bold = [line for line in out.splitlines() if re.search(r"\x1b\[1mDSD", line)]
    assert len(bold) == 1 and "S & 50% #1" in bold[0]


def test_a_narrow_terminal_gets_two_tables_with_the_same_labels():
    out = printed(GRID, 55)
    assert max(map(len, out.splitlines())) <= 55
    lines = [line.split() for line in out.splitlines()]
    assert "Baseline B_1 17.50 ± 1.32 [-1.5, 2.0]".split() in lines
    assert "Baseline B_1 12 2e-05".split() in lines
    assert out.count("Improve") == 1  # no row of dashes in the second
    assert out.count("costs") == 1


def test_a_very_narrow_terminal_gets_more_tables_and_no_cell_is_cut():
    out = printed(GRID, 41)
    assert max(map(len, out.splitlines())) <= 41 and "…" not in out
    lines = [line.split() for line in out.splitlines()]
    for cells in ("17.50 ± 1.32", "[-1.5, 2.0]", "12 2e-05"):
        assert ["Baseline", "B_1", *cells.split()] in lines
    assert [
        "Improve",
        "x",
        "-",
    ] in lines  # of the interval; only what the last columns say nothing of is left out
    assert out.count("Improve") == 2


def test_without_a_place_to_part_it_stays_in_one_piece():
    grid = Grid("x", ("A", "B"), ((("a" * 30, "1"),),), "caption")
    assert printed(grid, 20).count("A") == 1


def test_a_row_of_another_width_is_refused():
    with pytest.raises(ValueError, match="x: a row of 1 cells in a table of 2 columns"):
        Grid("x", ("A", "B"), ((("a",),),), "")
