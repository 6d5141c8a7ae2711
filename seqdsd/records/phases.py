"""What the phase records of a run say about each other: the same sets, no line lost, rates that their counts make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqdsd.records.reading import REMEDY, RunFolderError, checked
from seqdsd.records.shapes import SCORES, Phase

SET_COUNTS = ("utterances", "images", "ref_words")
"""How large the set was that scores are of."""


def is_test_split(name: str) -> bool:
    """Whether a record's key is a test set: ``test``, or ``test_NAME``."""
    return name == "test" or name.startswith("test_")


def check_phases(path: Path | str, records: Sequence[Any], *, planned: int | None = None) -> None:
    """Check phase records.

    Args:
        path: Of their file, for the message.
        records: As they were read.
        planned: Phases that the run has; None where that is not known.

    Raises:
        RunFolderError: Naming the first line that no run writes.
    """
    for number, record in enumerate(records, start=1):
        where, earlier = f"{path}:{number}", records[: number - 1]
        checked(record, Phase, where)
        for split in _splits(record):
            checked(record[split], _scores_shape([*earlier, record]), f"{where}: {split}")
        if problem := _phase_problem(record, earlier):
            raise RunFolderError(f"{where}: {problem}; {REMEDY}")
    if planned is not None and len(records) > planned:
        raise RunFolderError(
            f"{path}:{planned + 1}: the settings in config.toml make {planned} phases, but {len(records)} are "
            f"recorded; {REMEDY}"
        )


def _splits(record: Mapping[str, Any]) -> list[str]:
    return ["dev", *filter(is_test_split, record)]


def _scores_shape(records: Sequence[Mapping[str, Any]]) -> Any:
    """Of the first phase's kind; any object where that is none that is known here."""
    return next((shape for key, shape in SCORES.items() if key in records[0]["dev"]), dict[str, Any])


def _phase_problem(record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> str | None:
    """What does not fit within a record, or to those before it."""
    if any(one["name"] == record["name"] for one in earlier):
        return f"phase {record['name']!r} a second time"
    if record.get("index", len(earlier)) != len(earlier):
        return f"'index' must be {len(earlier)}, got {record['index']}: a line is missing or moved"
    epochs = record["epochs"]
    if (problem := _epochs_problem(record)) is not None:
        return problem
    for curve in ("train_loss", "dev_score"):
        if len(record[curve]) != epochs:
            return f"{curve!r} has {len(record[curve])} values for {epochs} epochs"
    return _sets_problem(record, earlier) or _rates_problem(record)


def _epochs_problem(record: Mapping[str, Any]) -> str | None:
    epochs, best = record["epochs"], record["best_epoch"]
    if "given" in record:
        return None if epochs == best == 0 else f"of given weights, but 'epochs' is {epochs}"
    if not epochs:
        return "'epochs' is 0, but its weights were not given"
    return None if 1 <= best <= epochs else f"'best_epoch' is {best}, but there were {epochs} epochs"


def _sets_problem(record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> str | None:
    """Where the scores are of another set than an earlier phase's, or were computed in another way."""
    for split in _splits(record):
        first = next((one for one in earlier if split in one), record)
        for key in (*SET_COUNTS, "signature"):
            before, now = first[split].get(key), record[split].get(key)
            if before is not None and now is not None and before != now:
                return (
                    f"{split!r} of phase {record['name']!r} has {key!r} {_shortened(now)}, that of {first['name']!r} "
                    f"{_shortened(before)}: their scores do not compare"
                )
    return None


def _rates_problem(record: Mapping[str, Any]) -> str | None:
    """Where an error rate is not the one that its own counts make."""
    for split in _splits(record):
        for key, counted, of in _RATES:
            if key in record[split] and (problem := _rate_problem(record[split], key, counted, of)):
                return f"{split!r}: {problem}"
    return None


_RATES = (
    ("wer", ("substitutions", "deletions", "insertions"), "ref_words"),
    ("top1_error", ("top1_errors",), "images"),
    ("top5_error", ("top5_errors",), "images"),
)
"""Error rates, the counts of errors that make them, and of how many."""


def _rate_problem(scores: Mapping[str, Any], key: str, counted: Sequence[str], of: str) -> str | None:
    rate, total = scores[key], scores[of]
    errors = sum(scores.get(one, 0) for one in counted)
    items = of.removeprefix("ref_")
    if not total:  # seqdsd.metrics.wer refuses to score such a set
        return f"{of!r} is 0, and without {items} there is no error rate"
    if not math.isclose(rate, errors / total, rel_tol=0, abs_tol=1e-9):
        return f"{key!r} is {rate}, but {errors} errors in {total} {items} make {errors / total}"
    return None


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
