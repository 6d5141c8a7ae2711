"""Whether the records of a run folder can be what a run wrote: what is missing or impossible is named by its line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqdsd.records import RunFolderError

_REMEDY = "bring the file back, or train again into a new folder"

NUM_BINS = 101
"""Of a layer's histogram."""

SET_COUNTS = ("utterances", "images", "ref_words")
"""How large the set was that scores are of."""

_Rule = tuple[Callable[[Any], bool], str]
"""Whether a value can be, and what it should be."""


def is_test_split(name: str) -> bool:
    """Whether a record's key is a test set: ``test``, or ``test_NAME``."""
    return name == "test" or name.startswith("test_")


def check_phases(path: Path, records: Sequence[Any], *, planned: int) -> None:
    """Check the phase records of a run that has ``planned`` phases.

    Raises:
        RunFolderError: Naming the first line that no run writes.
    """
    for number, record in enumerate(records, start=1):
        if problem := _record_problem(record, _PHASE) or _phase_problem(record, records[: number - 1]):
            raise RunFolderError(f"{path}:{number}: {problem}; {_REMEDY}")
    if len(records) > planned:
        raise RunFolderError(
            f"{path}:{planned + 1}: the settings in config.toml make {planned} phases, but {len(records)} are "
            f"recorded; {_REMEDY}"
        )


def check_weights(path: Path, records: Sequence[Any]) -> None:
    """Check the records of the pruned layers' weights.

    Raises:
        RunFolderError: Naming the first line that no run writes.
    """
    for number, record in enumerate(records, start=1):
        if problem := _record_problem(record, _MOMENT) or _layers_problem(record["layers"]):
            raise RunFolderError(f"{path}:{number}: {problem}; {_REMEDY}")


def check_plan(path: Path, records: Sequence[Any]) -> None:
    """Check the records of what is pruned.

    Raises:
        RunFolderError: Naming the first line that no run writes.
    """
    for number, record in enumerate(records, start=1):
        if problem := _record_problem(record, _PARAMETER):
            raise RunFolderError(f"{path}:{number}: {problem}; {_REMEDY}")


def _is_count(value: Any, low: int = 0) -> bool:
    return type(value) is int and value >= low


def _is_number(value: Any, low: float | int = -math.inf, high: float | int = math.inf) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _is_curve(value: Any) -> bool:
    """Numbers, or null for what was not finite."""
    return isinstance(value, list) and all(one is None or _is_number(one) for one in value)


_SECONDS: _Rule = (lambda value: _is_number(value, 0), "a number of at least 0")
_SHAPE: _Rule = (lambda value: isinstance(value, list) and all(map(_is_count, value)), "whole numbers")
_PHASE: dict[str, _Rule] = {
    "name": (lambda value: isinstance(value, str) and bool(value.strip()), "a name"),
    "kind": (lambda value: value in ("dense", "sparse", "redense"), "dense, sparse or redense"),
    "epochs": (lambda value: _is_count(value, 1), "a whole number of at least 1"),
    "best_epoch": (lambda value: _is_count(value, 1), "a whole number of at least 1"),
    "learning_rate": (lambda value: _is_number(value, 0) and value > 0, "a number above 0"),
    "sparsity": (lambda value: _is_number(value, 0, 1), "a share from 0 to 1"),
    "measured_sparsity": (lambda value: _is_number(value, 0, 1), "a share from 0 to 1"),
    "train_loss": (_is_curve, "a list of numbers"),
    "dev_score": (_is_curve, "a list of numbers"),
    "dev": (lambda value: isinstance(value, dict), "an object"),
    "train_seconds": _SECONDS,
}
_PHASE_IF_THERE: dict[str, _Rule] = {
    **dict.fromkeys(("evaluate_seconds", "statistics_seconds"), _SECONDS),
    "taken_over_from": (lambda value: isinstance(value, str), "a string"),
}

_COUNT: _Rule = (_is_count, "a whole number of at least 0")
# 100 may come as 100.00000000000004.
_BLEU: _Rule = (lambda value: _is_number(value, 0, 100 + 1e-6), "from 0 to 100")
_SPEECH: dict[str, _Rule] = {
    "wer": (lambda value: _is_number(value, 0), "a fraction of at least 0"),
    **dict.fromkeys(("substitutions", "deletions", "insertions", "ref_words"), _COUNT),
}
_CAPTIONS: dict[str, _Rule] = {
    **{f"bleu{order}": _BLEU for order in (1, 2, 3, 4)},
    **dict.fromkeys(("brevity_penalty", "cider_d", "rouge_l"), (_is_number, "a number")),
    "decoding": (lambda value: isinstance(value, str), "a string"),
}

_MOMENT: dict[str, _Rule] = {
    "round": (lambda value: _is_count(value, 1), "a whole number of at least 1"),
    "moment": (lambda value: isinstance(value, str), "a string"),
    "layers": (lambda value: isinstance(value, list), "a list"),
}

_LAYER: dict[str, _Rule] = {
    "name": (lambda value: isinstance(value, str), "a string"),
    "shape": _SHAPE,
    **dict.fromkeys(("weights", "zeros", "pruned", "pruned_near_zero"), _COUNT),
    **dict.fromkeys(("low", "high"), (_is_number, "a number")),
    "histogram": (
        lambda value: isinstance(value, list) and len(value) == NUM_BINS and all(map(_is_count, value)),
        f"{NUM_BINS} counts",
    ),
    **dict.fromkeys(
        ("threshold", "mean", "sd", "mean_abs", "pruned_mean_abs", "kept_mean_abs"),
        (lambda value: value is None or _is_number(value), "a number or null"),
    ),
}

_PARAMETER: dict[str, _Rule] = {
    "parameter": (lambda value: isinstance(value, str), "a string"),
    "shape": _SHAPE,
    "count": _COUNT,
    "rule": (lambda value: value is None or isinstance(value, str), "a string or null"),
    "why": (lambda value: isinstance(value, str), "a string"),
    "sparsity_by_phase": (
        lambda value: isinstance(value, dict) and all(_is_number(share, 0, 1) for share in value.values()),
        "shares from 0 to 1 by phase",
    ),
}


def _record_problem(record: Any, rules: Mapping[str, _Rule], of: str = "") -> str | None:
    """What of the rules a record breaks, if anything."""
    if not isinstance(record, dict):
        return f"{of}not a JSON object"
    for key, (is_fine, expected) in rules.items():
        if key not in record:
            return f"{of}no {key!r}"
        if not is_fine(record[key]):
            return f"{of}{key!r} must be {expected}, got {_shortened(record[key])}"
    return None


def _phase_problem(record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> str | None:
    """What does not fit within a record, or to those before it."""
    given = {key: rule for key, rule in _PHASE_IF_THERE.items() if key in record}
    if problem := _record_problem(record, given):
        return problem
    if any(one["name"] == record["name"] for one in earlier):
        return f"phase {record['name']!r} a second time"
    if record.get("index", len(earlier)) != len(earlier):
        return (
            f"'index' must be {len(earlier)}, got {_shortened(record['index'])}: a line is missing or moved"
        )
    epochs = record["epochs"]
    for curve in ("train_loss", "dev_score"):
        if len(record[curve]) != epochs:
            return f"{curve!r} has {len(record[curve])} values for {epochs} epochs"
    if record["best_epoch"] > epochs:
        return f"'best_epoch' is {record['best_epoch']}, but there were {epochs} epochs"
    return (
        _scores_problem(record, earlier) or _sets_problem(record, earlier) or _rates_problem(record, earlier)
    )


def _scores_problem(record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with the scores; all phases are of the kind of the first."""
    kind = _SPEECH if _is_speech(record, earlier) else _CAPTIONS
    splits = ["dev", *filter(is_test_split, record)]
    return next(
        (problem for split in splits if (problem := _record_problem(record[split], kind, f"{split!r}: "))),
        None,
    )


def _is_speech(record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the run's first phase has word error rates."""
    return "wer" in (earlier[0] if earlier else record)["dev"]


def _sets_problem(record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> str | None:
    """Where the scores are of another set than an earlier phase's, or were computed in another way."""
    for split in ["dev", *filter(is_test_split, record)]:
        first = next((one for one in earlier if split in one), record)
        for key in (*SET_COUNTS, "signature"):
            before, now = first[split].get(key), record[split].get(key)
            if before is not None and now is not None and before != now:
                return (
                    f"{split!r} of phase {record['name']!r} has {key!r} {_shortened(now)}, that of {first['name']!r} "
                    f"{_shortened(before)}: their scores do not compare"
                )
    return None


def _rates_problem(record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> str | None:
    """Where a word error rate is not the one that its own counts make."""
    for split in ["dev", *filter(is_test_split, record)]:
        if _is_speech(record, earlier) and (problem := _rate_problem(record[split])):
            return f"{split!r}: {problem}"
    return None


def _rate_problem(scores: Mapping[str, Any]) -> str | None:
    rate, words = scores["wer"], scores["ref_words"]
    errors = sum(scores[edit] for edit in ("substitutions", "deletions", "insertions"))
    if not words:  # seqdsd.metrics.wer refuses to score such a set
        return "'ref_words' is 0, and without words there is no word error rate"
    if not math.isclose(rate, errors / words, rel_tol=0, abs_tol=1e-9):
        return f"'wer' is {rate}, but {errors} errors in {words} words make {errors / words}"
    return None


def _layers_problem(layers: Sequence[Any]) -> str | None:
    for number, layer in enumerate(layers, start=1):
        if problem := _record_problem(layer, _LAYER, of=f"layer {number}: "):
            return problem
        if sum(layer["histogram"]) != layer["weights"]:
            return f"layer {number}: the histogram counts {sum(layer['histogram'])} of {layer['weights']} weights"
    return None


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
