"""What is measured in a run: how each score is read from a record, named, and written in tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seqdsd.reports.runs.hypotheses import Kind

Record = Mapping[str, Any]
Number = float | int

NONE = "-"
"""Stands where there is no number."""


@dataclass(frozen=True)
class Metric:
    """A score of a split.

    Attributes:
        key: Its name in a record.
        title: Its name in tables.
        scale: From the record to the table.
        decimals: In the table.
        is_error: Lower is better.
        unit: What follows a number in prose.
    """

    key: str
    title: str
    scale: int
    decimals: int
    is_error: bool
    unit: str

    def of(self, record: Record, split: str) -> Number | None:
        """The phase's score; None where it has none."""
        return (record.get(split) or {}).get(self.key)

    def gain(self, before: Number, after: Number) -> Number:
        """How much better a score has become: above 0 is better, whichever way the score points."""
        return before - after if self.is_error else after - before

    def written(self, value: Number | None) -> str:
        """A cell: points, without their unit; never -0.0."""
        return NONE if value is None else f"{self.scale * value:z.{self.decimals}f}"


def _bleus(prefix: str, title: str) -> tuple[Metric, ...]:
    return tuple(Metric(f"{prefix}bleu{n}", f"{title}-{n}", 1, 1, False, "") for n in (1, 2, 3, 4))


WER = Metric("wer", "WER", 100, 2, True, "%")
BLEU = _bleus("", "BLEU")
NEURALTALK_BLEU = _bleus("neuraltalk_", "NeuralTalk BLEU")

FAMILIES: dict[Kind, tuple[tuple[Metric, ...], ...]] = {
    "speech": ((WER,),),
    "captions": (BLEU, NEURALTALK_BLEU),
}
"""Scores that share a table; the first is the standard one."""

PRIMARY: dict[Kind, Metric] = {"speech": WER, "captions": BLEU[3]}
"""The score that a sentence or a row about a run is about."""


def metrics_of(kind: Kind) -> tuple[Metric, ...]:
    """All scores of runs of a kind."""
    return tuple(metric for family in FAMILIES[kind] for metric in family)


def span(values: Iterable[Number]) -> str:
    """Write one number if all are equal, else the smallest and the largest."""
    found = sorted(set(values))
    if not found:
        return NONE
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g}–{found[-1]:g}"
