"""The phases of one DSD run as a table like the paper's Tables 5 and 7: for the terminal, and as Markdown.

Takes the records of ``phases.jsonl``. ``_WORD_ERRORS`` and ``_CAPTIONS`` say what is measured in a run; the layout
is one for both. Leaves out comparisons between runs, figures and significance.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable
from rich.table import Table

from seqdsd.records import RunFolder

Record = Mapping[str, Any]

_BEST_MARK = " *"
_NONE = "-"

_Number = float | int | None


@dataclass(frozen=True)
class _Scores:
    """Scores of a split that share a column, with slashes between them, and how they are written."""

    title: str  # with a place for the split's name; a line break holds in the terminal only
    keys: tuple[str, ...]
    scale: int  # from the record to the table
    decimals: int
    is_error: bool  # lower is better

    def gain(self, before: _Number, after: _Number) -> _Number:
        """How much better a score has become."""
        if before is None or after is None:
            return None
        return before - after if self.is_error else after - before

    def written(self, values: Sequence[_Number], *, scale: int | None = None) -> str:
        """A cell; ``scale`` stands in for that of the scores."""
        factor = self.scale if scale is None else scale
        cells = [_NONE if value is None else f"{factor * value:z.{self.decimals}f}" for value in values]
        return _NONE if set(cells) == {_NONE} else "/".join(cells)


@dataclass(frozen=True)
class _Column:
    """Scores of one split."""

    split: str
    scores: _Scores

    @property
    def title(self) -> str:
        """What stands above it."""
        return self.scores.title.format(split=self.split)

    def values(self, record: Record) -> list[_Number]:
        """The phase's scores; None where it has none."""
        return [(record.get(self.split) or {}).get(key) for key in self.scores.keys]


@dataclass(frozen=True)
class _Measured:
    """What is measured in one kind of run."""

    key: str  # a dev score that only this kind has
    on_dev: tuple[_Scores, ...]
    on_test: tuple[_Scores, ...]  # of every test set
    caption: Callable[[Record, Sequence[str]], str]  # of the best phase and all splits


@dataclass(frozen=True)
class _Rows:
    """Cells of the table, before any layout."""

    header: list[str]
    phases: list[list[str]]
    improvements: list[list[str]]
    caption: str
    best: int  # index of the best phase


@dataclass(frozen=True)
class _TerminalTable:
    """The table in one piece where it fits, and else in two, the scores before what training took."""

    rows: _Rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        columns = list(range(len(self.rows.header)))
        for is_tight in (False, True):
            if self._width(is_tight) <= options.max_width:
                yield self._table(columns, is_tight=is_tight, caption=self.rows.caption)
                return
        num_scores = len(columns) - len(_TRAINING)
        yield self._table(columns[:num_scores])
        yield self._table([0, *columns[num_scores:]], caption=self.rows.caption)

    def _width(self, is_tight: bool) -> int:
        rows = [self.rows.header, *self.rows.phases, *self.rows.improvements]
        columns = list(zip(*rows, strict=True))
        widest = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
        return sum(widest) + (len(columns) - 1 if is_tight else 2 * len(columns) + 1)

    def _table(self, columns: Sequence[int], *, is_tight: bool = False, caption: str | None = None) -> Table:
        """One or, if not tight, two spaces between columns, and an edge around them."""
        padding = (0, 0 if is_tight else 1, 0, 0)
        table = Table(caption=caption, box=SIMPLE_HEAD, padding=padding, show_edge=not is_tight)
        for column in columns:
            table.add_column(self.rows.header[column], justify="right" if column else "left", no_wrap=True)
        for number, cells in enumerate(self.rows.phases):
            style = "bold" if number == self.rows.best else None
            is_last = number == len(self.rows.phases) - 1
            table.add_row(*(cells[column] for column in columns), style=style, end_section=is_last)
        for title, *gains in ([cells[column] for column in columns] for cells in self.rows.improvements):
            if set(gains) != {_NONE}:  # what training took does not improve
                table.add_row(title, *gains)
        return table


def best_phase(records: Sequence[Record]) -> Record:
    """Return the phase with the lowest dev score at its best epoch, the earliest of equals: it cost the least training.

    That is the score which chose the epoch, of the weights that the phase hands on: lower is better in every kind
    of run. Test sets have no say: choosing by them would make their scores worthless.

    Raises:
        ValueError: If there is no record, or one has no dev score.
    """
    if not records:
        raise ValueError("no phase records: the run has not finished its first phase")
    return min(records, key=_dev_score)


def phase_table(records: Sequence[Record]) -> ConsoleRenderable:
    """Lay out one run's phases for the terminal: word error rates in percent, or BLEU-1 to BLEU-4.

    The rows below the line say how far the last phase improves on the first, in points and relative to it.

    Raises:
        ValueError: As ``best_phase``, or if a phase has not the scores that a table shows.
    """
    return _TerminalTable(_rows(records))


def phase_markdown(records: Sequence[Record]) -> str:
    """Write the same table in GitHub's Markdown, its caption as the last paragraph.

    Raises:
        ValueError: As ``phase_table``.
    """
    rows = _rows(records)
    header = [title.replace("\n", " ") for title in rows.header]
    rule = [":--"] + ["--:"] * (len(header) - 1)
    lines = [f"| {' | '.join(cells)} |" for cells in [header, rule, *rows.phases, *rows.improvements]]
    return "\n".join([*lines, "", rows.caption, ""])


def _dev_score(record: Record) -> float:
    scores, best_epoch = record.get("dev_score"), record.get("best_epoch")
    if not scores or not best_epoch:
        raise ValueError(f"phase {record['name']!r} has no dev score; the best phase is chosen by it")
    score = scores[best_epoch - 1]
    return math.inf if score is None or math.isnan(score) else float(score)  # NaN is null in JSON


def _rows(records: Sequence[Record]) -> _Rows:
    best = best_phase(records)
    measured = _measured(records)
    splits = _splits(records)
    columns = [_Column("dev", scores) for scores in measured.on_dev]
    columns += [_Column(split, scores) for split in splits[1:] for scores in measured.on_test]
    return _Rows(
        header=["Phase", *(column.title for column in columns), *_TRAINING],
        phases=[_phase_cells(record, columns, is_best=record is best) for record in records],
        improvements=_improvement_cells(records[0], records[-1], columns) if len(records) > 1 else [],
        caption=measured.caption(best, splits),
        best=next(number for number, record in enumerate(records) if record is best),
    )


def _measured(records: Sequence[Record]) -> _Measured:
    """Find out what kind of run this is.

    Raises:
        ValueError: If a phase, which is named, has not the scores of its kind.
    """
    kind = _WORD_ERRORS if _WORD_ERRORS.key in (records[0].get("dev") or {}) else _CAPTIONS
    for record in records:
        if kind.key not in (record.get("dev") or {}):
            raise ValueError(
                f"phase {record['name']!r} has no dev score {kind.key!r}; is its record complete?"
            )
    return kind


def _splits(records: Sequence[Record]) -> list[str]:
    """Return dev, then the test sets in the order in which they first appear."""
    names = (name for record in records for name in record if name == "test" or name.startswith("test_"))
    return ["dev", *dict.fromkeys(names)]


def _phase_cells(record: Record, columns: Sequence[_Column], *, is_best: bool) -> list[str]:
    return [
        record["name"] + (_BEST_MARK if is_best else ""),
        *(column.scores.written(column.values(record)) for column in columns),
        *(cell(record) for cell in _TRAINING.values()),
    ]


def _improvement_cells(first: Record, last: Record, columns: Sequence[_Column]) -> list[list[str]]:
    """Compare the last phase with the first: points gained, then their share of the first's score in percent."""
    absolute, relative = [], []
    for column in columns:
        before, after = column.values(first), column.values(last)
        gains = [column.scores.gain(*pair) for pair in zip(before, after, strict=True)]
        shares = [
            gain / was if gain is not None and was else None for gain, was in zip(gains, before, strict=True)
        ]
        absolute.append(column.scores.written(gains))
        relative.append(column.scores.written(shares, scale=100))
    blank = [_NONE] * len(_TRAINING)
    return [["Improve (abs)", *absolute, *blank], ["Improve (rel)", *relative, *blank]]


def _percent(fraction: float | int) -> str:
    return f"{100 * fraction:.2f}"


def _epochs(record: Record) -> str:
    """Say how many epochs ran, and of how many if patience ended the phase early."""
    ran, planned = record["epochs"], record.get("epochs_planned", record["epochs"])
    return str(ran) if ran == planned else f"{ran} of {planned}"


_TRAINING: dict[str, Callable[[Record], str]] = {
    "Pruned": lambda record: _percent(record["sparsity"]),
    "Zeros": lambda record: _percent(record["measured_sparsity"]),
    "Epochs": _epochs,
    "LR": lambda record: f"{record['learning_rate']:g}",
    "Time": lambda record: str(timedelta(seconds=round(record["train_seconds"]))),
}


def _word_error_caption(best: Record, splits: Sequence[str]) -> str:
    dev = best["dev"]
    errors = dev["substitutions"] + dev["deletions"] + dev["insertions"]
    return (
        f"Word error rates and sparsity (asked: Pruned; measured: Zeros) in percent. *: the best phase on dev, "
        f"{best['name']}: WER {_percent(dev['wer'])} %, {errors} errors in {dev['ref_words']} words. Improve: from the "
        "first phase to the last."
    )


def _captions_caption(best: Record, splits: Sequence[str]) -> str:
    others = (
        f"{split} CIDEr-D {scores['cider_d']:.3f}, ROUGE-L {scores['rouge_l']:.3f}, "
        f"brevity penalty {scores['brevity_penalty']:.3f}"
        for split in splits
        if (scores := best.get(split))
    )
    return (
        f"Decoding: {best['dev']['decoding']}. BLEU is standard, 0 to 100; NeuralTalk BLEU is without the brevity "
        "penalty, as its script counts. Sparsity (asked: Pruned; measured: Zeros) in "
        f"percent. *: the best phase on dev, {best['name']}: {'; '.join(others)}. Improve: from the first phase to the "
        "last, relative in percent."
    )


def _bleu(title: str, *keys: str) -> _Scores:
    return _Scores(title, keys, scale=1, decimals=1, is_error=False)


_WORD_ERROR_RATE = _Scores("{split} WER", ("wer",), scale=100, decimals=2, is_error=True)
_WORD_ERRORS = _Measured(
    key="wer", on_dev=(_WORD_ERROR_RATE,), on_test=(_WORD_ERROR_RATE,), caption=_word_error_caption
)
_CAPTIONS = _Measured(
    key="bleu4",
    on_dev=(_bleu("{split}\nBLEU-4", "bleu4"),),
    on_test=(
        _bleu("{split}\nBLEU-1/2/3/4", *(f"bleu{n}" for n in (1, 2, 3, 4))),
        _bleu("{split} NeuralTalk\nBLEU-1/2/3/4", *(f"neuraltalk_bleu{n}" for n in (1, 2, 3, 4))),
    ),
    caption=_captions_caption,
)


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd table``."""
    parser = argparse.ArgumentParser(
        prog="seqdsd table",
        description="Print a run's phases as the paper's Tables 5 and 7 do.",
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
