"""What several runs say of the same utterances or images, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqdsd.records import RunFolderError
from seqdsd.reports.runs.hypotheses import Hypothesis
from seqdsd.reports.runs.reading import Run, read_hypotheses

FEWEST_SPEAKERS = 6
"""Who are drawn: of fewer, p could not fall below 5 % if all of them were better understood (2 / 2^5)."""


@dataclass(frozen=True)
class SameItems:
    """A test set as several runs have it.

    Attributes:
        refs: Of each item.
        hyps: Of each run, by item.
        speakers: Who speaks, of each item, as any run knows it; empty where none does of one.
    """

    refs: list[tuple[str, ...]]
    hyps: list[list[str]]
    speakers: list[str]

    @property
    def num_speakers(self) -> int | None:
        """None where that is not known of every item."""
        return len(set(self.speakers)) or None

    @property
    def drawn_by(self) -> list[str] | None:
        """Speakers, of each item, where there are enough to draw them; None: the items are drawn."""
        return self.speakers if (self.num_speakers or 0) >= FEWEST_SPEAKERS else None


def read_same_items(scored: Sequence[tuple[Run, str]], split: str) -> SameItems:
    """What runs say after a phase each, in the order of the first run's items.

    Args:
        scored: Runs with the phase's name; two or more.
        split: ``dev``, or a test set.

    Raises:
        RunFolderError: If a file is missing or damaged, items or their references differ, or there are no references.
    """
    (first, phase_name), *others = scored
    rows = read_hypotheses(first, phase_name, split)
    hyps, speakers = [[row.hyp for row in rows]], [row.speaker for row in rows]
    for run, name in others:
        by_id = {row.id: row for row in read_hypotheses(run, name, split)}
        _check_alike(first, rows, run, by_id)
        hyps.append([by_id[row.id].hyp for row in rows])
        speakers = [speaker or by_id[row.id].speaker for speaker, row in zip(speakers, rows, strict=True)]
    known = [speaker for speaker in speakers if speaker]
    return SameItems([row.refs for row in rows], hyps, known if len(known) == len(rows) else [])


def _check_alike(first: Run, rows: Sequence[Hypothesis], other: Run, by_id: dict[str, Hypothesis]) -> None:
    if by_id.keys() != {row.id for row in rows}:
        raise RunFolderError(f"{first.name} and {other.name} were scored on different items")
    for row in rows:
        if not row.refs or not by_id[row.id].refs:
            raise RunFolderError(f"no references beside the hypotheses of {first.name} and {other.name}")
        if row.refs != by_id[row.id].refs:
            raise RunFolderError(f"{first.name} and {other.name} have different references of {row.id!r}")
