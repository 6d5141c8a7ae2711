"""The phases of one DSD run as a table like the paper's Tables 2 to 5 and 7: for the terminal, and as Markdown.

Takes the records of ``phases.jsonl``. ``_MEASURED`` says what is measured in a run of each kind; ``layout`` is one for
all. Leaves out comparisons between runs, figures and significance.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleRenderable

from seqdsd.kinds import (
    BLEU,
    CAPTIONS,
    CLASSIFICATION,
    KINDS,
    NEURALTALK_BLEU,
    NONE,
    SPEECH,
    WER,
    Metric,
    kind_of_scores,
)
from seqdsd.printable import printable
from seqdsd.records import RunFolder, RunFolderError, is_test_split, slug
from seqdsd.reports.layout import Cells, Grid
from seqdsd.reports.runs.reading import read_origin

Record = Mapping[str, Any]

_BEST_MARK = " *"

_Number = float | int | None


@dataclass(frozen=True)
class _Scores:
    """Scores of a split that share a column, with slashes between them, and how they are written."""

    title: str  # with a place for the split's name; a line break holds in the terminal only
    metrics: tuple[Metric, ...]

    def gain(self, before: _Number, after: _Number) -> _Number:
        """How much better a score has become."""
        return None if before is None or after is None else self.metrics[0].gain(before, after)

    def written(self, values: Sequence[_Number], *, scale: int | None = None) -> str:
        """A cell; ``scale`` stands in for that of the scores."""
        metrics = [one if scale is None else replace(one, scale=scale) for one in self.metrics]
        cells = [metric.written(value) for metric, value in zip(metrics, values, strict=True)]
        return NONE if set(cells) == {NONE} else "/".join(cells)


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
        return [metric.of(record, self.split) for metric in self.scores.metrics]


@dataclass(frozen=True)
class _Measured:
    """How the scores of one kind of run are set out."""

    on_dev: tuple[_Scores, ...]
    on_test: tuple[_Scores, ...]  # of every test set
    caption: Callable[[Record, Sequence[str]], str]  # of the best phase and all splits


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


def phase_called(name: str, records: Sequence[Record], run: Path) -> Record:
    """Return a run's phase by its name, in any case, or with hyphens (``dense-iter-1``).

    Raises:
        RunFolderError: If no finished phase has it; the message lists those there are.
    """
    for record in records:
        if slug(record["name"]) == slug(name):
            return record
    names = ", ".join(repr(record["name"]) for record in records)
    raise RunFolderError(f"{run}: no finished phase is called {name!r}; there are {names}")


def phase_title(record: Record) -> str:
    """A phase's name, and that its weights were given, if they were."""
    return record["name"] + (" (given)" if "given" in record else "")


def learning_rate(record: Record) -> str:
    """A phase's; weights that were given had none here."""
    return NONE if "given" in record else f"{record['learning_rate']:g}"


def phase_grid(
    records: Sequence[Record], *, name: str = "phases", about: str = "", baseline: Record | None = None
) -> Grid:
    """One run's phases: error rates in percent, or BLEU-1 to BLEU-4; then what training took.

    The last section says how far the last phase improves on the baseline, or where none is given on the first phase,
    in points and relative to it.

    Args:
        records: Of the phases; one of weights that were given has no epochs.
        name: Of the grid.
        about: Stands before the caption: which run this is, where several are shown.
        baseline: The only phase of a baseline of the same seed; as in Tables 5, 7 and 9.

    Raises:
        ValueError: As ``best_phase``, or if a phase has not the scores that a table shows.
    """
    best = best_phase(records)
    measured = _measured(records)
    splits = _splits(records)
    columns = [_Column("dev", scores) for scores in measured.on_dev]
    columns += [_Column(split, scores) for split in splits[1:] for scores in measured.on_test]
    return Grid(
        name=name,
        header=("Phase", *(column.title for column in columns), *_TRAINING),
        sections=(
            tuple(_phase_cells(record, columns, is_best=record is best) for record in records),
            (_phase_cells(baseline, columns, is_best=False),) if baseline else (),
            _improvement_cells(baseline or records[0], records[-1], columns)
            if baseline or len(records) > 1
            else (),
        ),
        caption=f"{about} {measured.caption(best, splits)}{_improvement(records, baseline)}{_given(records)}"
        f"{restored_in_words(records)}{_undone([*records, *([baseline] if baseline else [])])}".strip(),
        num_last=len(_TRAINING),
        best=next(number for number, record in enumerate(records) if record is best),
    )


def phase_table(records: Sequence[Record]) -> ConsoleRenderable:
    """Lay out one run's phases for the terminal.

    Raises:
        ValueError: As ``phase_grid``.
    """
    return phase_grid(records).to_terminal()


def phase_markdown(records: Sequence[Record]) -> str:
    """Write the same table in GitHub's Markdown, its caption as the last paragraph.

    Raises:
        ValueError: As ``phase_grid``.
    """
    return phase_grid(records).to_markdown()


def _dev_score(record: Record) -> float:
    scores, best_epoch = record.get("dev_score"), record.get("best_epoch")
    if "given" in record:
        score = record["given"]["dev_score"]
    elif not scores or not best_epoch:
        raise ValueError(f"phase {record['name']!r} has no dev score; the best phase is chosen by it")
    else:
        score = scores[best_epoch - 1]
    return math.inf if score is None or math.isnan(score) else float(score)  # NaN is null in JSON


def _measured(records: Sequence[Record]) -> _Measured:
    """Find out what kind of run this is.

    Raises:
        ValueError: If a phase, which is named, has not the scores of its kind.
    """
    kind = kind_of_scores(records[0].get("dev") or {})
    for record in records:
        if kind is None or kind.primary.of(record, "dev") is None:
            known = kind.primary.key if kind else " or ".join(one.primary.key for one in KINDS)
            raise ValueError(f"phase {record['name']!r} has no dev score {known!r}; is its record complete?")
    assert kind is not None  # there are records
    return _MEASURED[kind]


def _splits(records: Sequence[Record]) -> list[str]:
    """Return dev, then the test sets in the order in which they first appear."""
    names = (name for record in records for name in record if is_test_split(name))
    return ["dev", *dict.fromkeys(names)]


def _phase_cells(record: Record, columns: Sequence[_Column], *, is_best: bool) -> Cells:
    return (
        phase_title(record) + (_BEST_MARK if is_best else ""),
        *(column.scores.written(column.values(record)) for column in columns),
        *(cell(record) for cell in _TRAINING.values()),
    )


def _improvement_cells(first: Record, last: Record, columns: Sequence[_Column]) -> tuple[Cells, Cells]:
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
    blank = [NONE] * len(_TRAINING)
    return ("Improve (abs)", *absolute, *blank), ("Improve (rel)", *relative, *blank)


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
    "LR": learning_rate,
    "Time": lambda record: str(timedelta(seconds=round(record["train_seconds"]))),
}


def _improvement(records: Sequence[Record], baseline: Record | None) -> str:
    """What is compared with what; nothing where there is one phase alone."""
    if baseline:
        epochs = sum(record["epochs"] for record in records)
        return (
            " Improve: from the baseline, from the same initial weights, to the last phase "
            f"({baseline['epochs']} epochs to {epochs})."
        )
    return " Improve: from the first phase to the last." if len(records) > 1 else ""


def _given(records: Sequence[Record]) -> str:
    """Which phase nobody trained here."""
    given = next((record["name"] for record in records if "given" in record), None)
    return f" {given}: weights that were given, as they came." if given else ""


def restored_in_words(records: Sequence[Record]) -> str:
    """How far the weights that each redense phase restored had come back; nothing where no record says it."""
    said = [
        f"{record['name']} {_share(one['share'])} % of their former mean |w|, {_share(one['above_share'])} % of them "
        f"above the old threshold{_began(record)}"
        for record in records
        if (one := record.get("restored"))
    ]
    if not said:
        return ""
    nearly = [record["name"] for record in records if record.get("restored", {}).get("is_nearly_sparse")]
    warning = (
        f" {', '.join(nearly)}: the redense phase was too short or too slow, and this network is still nearly sparse; "
        "raise that phase's rate (--learning-rates) or epochs (--epochs)."
        if nearly
        else ""
    )
    return f" Restored weights have come back to: {'; '.join(said)}.{warning}"


def _share(fraction: _Number) -> str:
    return NONE if fraction is None else f"{100 * fraction:.1f}"


def _began(record: Record) -> str:
    """What restored weights began with, where it was not 0."""
    began = {"former": "their former values", "fresh": "fresh draws"}.get(record.get("restored_start", ""))
    return f" (from {began})" if began else ""


def _undone(records: Sequence[Record]) -> str:
    """Where epochs had diverged: which, and the learning rate that their phase went on with."""
    said = [
        f"{record['name']} epoch {one['epoch']} (on with {one['learning_rate']:g})"
        for record in records
        for one in record.get("restarts", [])
    ]
    return f" Diverged and undone at half the rate: {', '.join(said)}." if said else ""


def _word_error_caption(best: Record, splits: Sequence[str]) -> str:
    dev = best["dev"]
    errors = dev["substitutions"] + dev["deletions"] + dev["insertions"]
    return (
        f"Word error rates and sparsity (asked: Pruned; measured: Zeros) in percent. *: the best phase on dev, "
        f"{best['name']}: WER {_percent(dev['wer'])} %, {errors} errors in {dev['ref_words']} words."
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
        f"percent. *: the best phase on dev, {best['name']}: {'; '.join(others)}. Relative improvements in percent."
    )


def _class_error_caption(best: Record, splits: Sequence[str]) -> str:
    dev = best["dev"]
    return (
        f"Error rates and sparsity (asked: Pruned; measured: Zeros) in percent. *: the best phase on dev, "
        f"{best['name']}: {dev['top1_errors']} errors in {dev['images']} images."
    )


_WORD_ERROR_RATE = _Scores("{split} WER", (WER,))
_CLASS_ERRORS = (_Scores("{split}\nTop-1/Top-5 error", CLASSIFICATION.metrics),)
_MEASURED = {
    SPEECH: _Measured((_WORD_ERROR_RATE,), (_WORD_ERROR_RATE,), _word_error_caption),
    CAPTIONS: _Measured(
        on_dev=(_Scores("{split}\nBLEU-4", (CAPTIONS.primary,)),),
        on_test=(
            _Scores("{split}\nBLEU-1/2/3/4", BLEU),
            _Scores("{split} NeuralTalk\nBLEU-1/2/3/4", NEURALTALK_BLEU),
        ),
        caption=_captions_caption,
    ),
    CLASSIFICATION: _Measured(_CLASS_ERRORS, _CLASS_ERRORS, _class_error_caption),
}


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd table``."""
    parser = argparse.ArgumentParser(
        prog="seqdsd table",
        description="Print a run's phases as the paper's Tables 2 to 5 and 7 do.",
        epilog="Example:\n  seqdsd table runs/an4-ds1 --markdown",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that holds a phases.jsonl")
    parser.add_argument("--markdown", action="store_true", help="for a document instead of the terminal")
    asked = parser.parse_args(argv)
    try:
        run = RunFolder(asked.run)
        read_origin(run)  # refuses another version's folder; records alone are read
        if not (records := run.read_phases()):
            raise ValueError(f"{run.phases}: no phase records: the run has not finished its first phase")
        if asked.markdown:
            print(phase_markdown(records), end="")
        else:
            Console().print(phase_table(records))
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {printable(str(error))}\n")
