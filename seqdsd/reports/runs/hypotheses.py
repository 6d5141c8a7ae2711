"""What a run recognised or said, and where its recordings and images lie: a run folder's files, checked by line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqdsd.records import RunFolder, RunFolderError, read_json_lines

Kind = Literal["speech", "captions"]

COUNTED: dict[Kind, str] = {"speech": "utterances", "captions": "images"}
"""The key under which scores say how many they are of."""

_REMEDY = "bring the file back or train again"


@dataclass(frozen=True)
class Hypothesis:
    """A line of ``hyps/PHASE.SPLIT.jsonl``.

    Attributes:
        id: Of the utterance or image.
        refs: One for an utterance, one or more for an image; none where the corpus may not be copied into the folder.
        hyp: What the network says; it may be empty.
    """

    id: str
    refs: tuple[str, ...]
    hyp: str


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
    what = "captions" if kind == "captions" else "hypotheses"
    if not path.is_file():
        raise RunFolderError(f"{path}: missing, so the {what} of phase {phase_name!r} are unknown; {_REMEDY}")
    rows: dict[str, Hypothesis] = {}
    for number, row in enumerate(read_lines(path), start=1):
        if problem := _problem(row, kind):
            raise RunFolderError(f"{path}:{number}: {problem}; {_REMEDY}")
        if row["id"] in rows:
            item = "image" if kind == "captions" else "utterance"
            raise RunFolderError(f"{path}:{number}: {item} {row['id']!r} a second time; {_REMEDY}")
        rows[row["id"]] = Hypothesis(row["id"], _refs(row, kind), row["hyp"])
    if not rows:
        raise RunFolderError(f"{path}: empty, so the {what} of phase {phase_name!r} are unknown; train again")
    if num_scored is not None and len(rows) != num_scored:
        raise RunFolderError(
            f"{path}: {len(rows)} {COUNTED[kind]}, but phases.jsonl says that phase {phase_name!r} was scored on "
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
    paths: dict[str, Path] = {}
    for number, row in enumerate(read_lines(listed) if listed.is_file() else (), start=1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("id", "path")):
            raise RunFolderError(f"{listed}:{number}: no 'id' and 'path' that are strings; {remedy}")
        paths[row["id"]] = listed.parent / row["path"]
    return paths


def read_lines(path: Path) -> Iterator[Any]:
    """The values of a JSON-lines file, objects or not.

    Raises:
        RunFolderError: If it is no text, or a line is no JSON (it is named).
    """
    try:
        yield from read_json_lines(path)
    except RunFolderError as error:
        raise RunFolderError(f"{error}; {_REMEDY}") from error
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path}: not UTF-8 text ({error}); {_REMEDY}") from error


def _problem(row: Any, kind: Kind) -> str | None:
    """Why a line is no hypothesis, if so."""
    if not isinstance(row, dict):
        return "not a JSON object"
    for key in ("id", "hyp"):
        if not isinstance(row.get(key), str):
            return f"no {key!r} that is a string"
        if not _is_utf8(row[key]):
            return f"half a character (a lone surrogate) in {key!r}"
    if kind == "speech":
        return (
            None
            if isinstance(ref := row.get("ref", ""), str) and _is_utf8(ref)
            else "no 'ref' that is a string"
        )
    refs = row.get("refs", [""])
    is_list = isinstance(refs, list) and refs and all(isinstance(ref, str) and _is_utf8(ref) for ref in refs)
    return None if is_list else "no 'refs' that is a list of one string or more"


def _is_utf8(text: str) -> bool:
    """Whether it can be written: JSON may hold halves of a character, which no page can."""
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def _refs(row: dict[str, Any], kind: Kind) -> tuple[str, ...]:
    if kind == "captions":
        return tuple(row.get("refs", ()))
    return (row["ref"],) if "ref" in row else ()
