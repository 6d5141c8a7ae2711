"""What a run recognised or said, and where its recordings and images lie: a run folder's files, checked by line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqdsd.kinds import Kind
from seqdsd.records import RunFolder, RunFolderError, read_json_lines, shapes

_REMEDY = "bring the file back or train again"


@dataclass(frozen=True)
class Hypothesis:
    """A line of ``hyps/PHASE.SPLIT.jsonl``.

    Attributes:
        id: Of the utterance or image.
        refs: One for an utterance, one or more for an image; none where the corpus may not be copied into the folder.
        hyp: What the network says; it may be empty.
        speaker: Who speaks, where the file says it.
    """

    id: str
    refs: tuple[str, ...]
    hyp: str
    speaker: str | None = None


def read_rows(
    folder: RunFolder, phase_name: str, split: str, *, kind: Kind, num_scored: int | None = None
) -> tuple[Hypothesis, ...]:
    """What a phase says of a split; row N is line N + 1 of its file.

    Args:
        folder: Of the run.
        phase_name: Of the phase.
        split: ``dev``, or a test set.
        kind: What is scored.
        num_scored: Utterances or images that the phase's scores are of; None where its record does not say.

    Raises:
        RunFolderError: If the file is missing, empty or damaged (the line is named), or has not ``num_scored`` lines.
    """
    path = folder.hypotheses(phase_name, split)
    if not path.is_file():
        raise RunFolderError(
            f"{path}: missing, so the {kind.said} of phase {phase_name!r} are unknown; {_REMEDY}"
        )
    rows: dict[str, Hypothesis] = {}
    for number, row in enumerate(
        read_json_lines(path, shapes.HYPOTHESES[kind.refs_key], remedy=_REMEDY), start=1
    ):
        if row["id"] in rows:
            raise RunFolderError(f"{path}:{number}: {kind.item} {row['id']!r} a second time; {_REMEDY}")
        rows[row["id"]] = Hypothesis(row["id"], _refs(row, kind), row["hyp"], row.get("speaker"))
    if not rows:
        raise RunFolderError(
            f"{path}: empty, so the {kind.said} of phase {phase_name!r} are unknown; train again"
        )
    if num_scored is not None and len(rows) != num_scored:
        raise RunFolderError(
            f"{path}: {len(rows)} {kind.counted}, but phases.jsonl says that phase {phase_name!r} was scored on "
            f"{num_scored}; {_REMEDY}"
        )
    return tuple(rows.values())


def read_media(
    listed: Path, *, remedy: str = "remove the file: the report goes without it"
) -> dict[str, Path]:
    """Where ``images.jsonl`` or ``audio.jsonl`` says that images or recordings lie, by id; nothing where it is missing.

    Paths are relative to the list's folder, or absolute; whether a file is there is not looked at.

    Raises:
        RunFolderError: If a line is damaged (it is named).
    """
    if not listed.is_file():
        return {}
    rows = read_json_lines(listed, shapes.Medium, remedy=remedy)
    return {row["id"]: listed.parent / row["path"] for row in rows}


def _refs(row: dict[str, Any], kind: Kind) -> tuple[str, ...]:
    refs = row.get(kind.refs_key, ())
    return (refs,) if isinstance(refs, str) else tuple(refs)
