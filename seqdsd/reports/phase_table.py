"""The phases of one DSD run as a table like the paper's Table 7: for the terminal, and as Markdown.

Takes the records of ``phases.jsonl``. Leaves out comparisons between runs, figures and significance.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from seqdsd.records import RunFolder

Record = Mapping[str, Any]

_BEST_MARK = " *"
_NONE = "-"


@dataclass(frozen=True)
class _Rows:
    """Cells of the table, before any layout."""

    header: list[str]
    phases: list[list[str]]
    improvements: list[list[str]]
    caption: str


def best_phase(records: Sequence[Record]) -> Record:
    """Return the phase with the lowest dev WER, the earliest of equals: it cost the least training.

    Test sets have no say: choosing by them would make their scores worthless.

    Raises:
        ValueError: If there is no record, or one has no dev WER.
    """
    if not records:
        raise ValueError("no phase records: the run has not finished its first phase")
    for record in records:
        if _wer(record, "dev") is None:
            raise ValueError(f"phase {record['name']!r} has no dev WER; the best phase is chosen by it")
    return min(records, key=lambda record: record["dev"]["wer"])


def phase_table(records: Sequence[Record]) -> Table:
    """Lay out one run's phases for the terminal: WER in percent, one column per test set.

    The rows below the line say how far the last phase improves on the first, in points and relative to it.

    Raises:
        ValueError: As ``best_phase``.
    """
    rows, best = _rows(records), best_phase(records)
    table = Table(caption=rows.caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, title in enumerate(rows.header):
        table.add_column(title, justify="left" if number == 0 else "right", no_wrap=True)
    for record, cells in zip(records, rows.phases, strict=True):
        table.add_row(*cells, style="bold" if record is best else None, end_section=record is records[-1])
    for cells in rows.improvements:
        table.add_row(*cells)
    return table


def phase_markdown(records: Sequence[Record]) -> str:
    """Write the same table in GitHub's Markdown, its caption as the last paragraph.

    Raises:
        ValueError: As ``best_phase``.
    """
    rows = _rows(records)
    rule = [":--"] + ["--:"] * (len(rows.header) - 1)
    lines = [f"| {' | '.join(cells)} |" for cells in [rows.header, rule, *rows.phases, *rows.improvements]]
    return "\n".join([*lines, "", rows.caption, ""])


def _rows(records: Sequence[Record]) -> _Rows:
    best = best_phase(records)
    splits = _splits(records)
    return _Rows(
        header=["Phase", *(f"{split} WER" for split in splits), "Pruned", "Zeros", "Epochs", "LR", "Time"],
        phases=[_phase_cells(record, splits, is_best=record is best) for record in records],
        improvements=_improvement_cells(records[0], records[-1], splits) if len(records) > 1 else [],
        caption=_caption(best),
    )


def _splits(records: Sequence[Record]) -> list[str]:
    """Return dev, then the test sets in the order in which they first appear."""
    names = (name for record in records for name in record if name == "test" or name.startswith("test_"))
    return ["dev", *dict.fromkeys(names)]


def _wer(record: Record, split: str) -> float | None:
    return (record.get(split) or {}).get("wer")


def _phase_cells(record: Record, splits: Sequence[str], *, is_best: bool) -> list[str]:
    return [
        record["name"] + (_BEST_MARK if is_best else ""),
        *(_percent(_wer(record, split)) for split in splits),
        _percent(record["sparsity"]),
        _percent(record["measured_sparsity"]),
        _epochs(record),
        f"{record['learning_rate']:g}",
        str(timedelta(seconds=round(record["train_seconds"]))),
    ]


def _improvement_cells(first: Record, last: Record, splits: Sequence[str]) -> list[list[str]]:
    """Compare the last phase with the first: WER points gained, then their share of the first's WER."""
    absolute, relative = [], []
    for split in splits:
        before, after = _wer(first, split), _wer(last, split)
        gain = None if before is None or after is None else before - after
        absolute.append(_percent(gain))
        relative.append(_percent(gain / before if gain is not None and before else None))
    blank = [_NONE] * 5
    return [["Improve (abs)", *absolute, *blank], ["Improve (rel)", *relative, *blank]]


def _caption(best: Record) -> str:
    dev = best["dev"]
    errors = dev["substitutions"] + dev["deletions"] + dev["insertions"]
    return (
        f"Word error rates and sparsity (asked: Pruned; measured: Zeros) in percent. *: the best phase on dev, "
        f"{best['name']}: WER {_percent(dev['wer'])} %, {errors} errors in {dev['ref_words']} words. Improve: from the "
        "first phase to the last."
    )


def _epochs(record: Record) -> str:
    """Say how many epochs ran, and of how many if patience ended the phase early."""
    ran, planned = record["epochs"], record.get("epochs_planned", record["epochs"])
    return str(ran) if ran == planned else f"{ran} of {planned}"


def _percent(fraction: float | None) -> str:
    return _NONE if fraction is None else f"{100 * fraction:.2f}"


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd table``."""
    parser = argparse.ArgumentParser(
        prog="seqdsd table",
        description="Print a run's phases as the paper's Table 7 does.",
        epilog="Example:\n  seqdsd table runs/an4-ds1 --markdown",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that holds a phases.jsonl")
    parser.add_argument("--markdown", action="store_true", help="for a document instead of the terminal")
    asked = parser.parse_args(argv)
    try:
        records = RunFolder(asked.run).read_phases()
        if asked.markdown:
            print(phase_markdown(records), end="")
        else:
            Console().print(phase_table(records))
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
