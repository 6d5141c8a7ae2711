"""Lhotse's cut sets as manifests: JSON lines, plain or gzipped, read without Lhotse.

One supervised stretch of one recording in a file is read; what else cuts can be (mixed, padded, without a file, with
changes to be made while reading) is refused, with the remedy of letting Lhotse write it out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from seqdsd.data.manifest import (
    Manifest,
    ManifestError,
    Utterance,
    check_utf8,
    duration_seconds,
    label,
    parse_line,
    read_lines,
    skip,
)

_REMEDY = "Let Lhotse write plain cuts with their audio: cuts.save_audios(FOLDER).to_file(FILE)"


def is_cut(entry: Mapping[str, Any]) -> bool:
    """Whether a manifest's line is one of Lhotse's cuts."""
    return "supervisions" in entry or str(entry.get("type", "")).endswith("Cut")


def read_cuts(path: Path, *, on_bad_data: Literal["error", "skip"] = "error") -> Manifest:
    """Read a cut set; relative paths of recordings start at the working folder, as Lhotse takes them.

    Args:
        path: JSON lines, ``.gz`` or not.
        on_bad_data: ``"error"`` stops at the first bad line, ``"skip"`` leaves bad lines out and lists them.

    Raises:
        ManifestError: If the file cannot be read or nothing usable is in it; with ``"error"`` also for a bad line.
    """
    utterances: list[Utterance] = []
    skipped: list[str] = []
    seen: set[str] = set()
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        try:
            utterance = _utterance(parse_line(line, path, number), where, source=f"{path.name}:{number}")
            if utterance.id in seen:
                raise ManifestError(
                    f"{where}: the id {utterance.id!r} was used before. Give every cut its own id."
                )
        except ManifestError as error:
            if on_bad_data == "error":
                raise
            skip(error, skipped)
            continue
        seen.add(utterance.id)
        utterances.append(utterance)
    if not utterances:
        why = f" The first line: {skipped[0]}" if skipped else ""
        raise ManifestError(f"{path}: no usable cut.{why}")
    return Manifest(path, utterances, skipped)


def _utterance(cut: Mapping[str, Any], where: str, *, source: str) -> Utterance:
    try:
        recording, supervisions = cut["recording"], cut["supervisions"]
        start, seconds, whole = (
            _number(one, key) for one, key in ((cut, "start"), (cut, "duration"), (recording, "duration"))
        )
        [audio] = recording["sources"]
        kind, path, channels = audio["type"], Path(audio["source"]), len(audio.get("channels", [0]))
        id_ = label({"id": cut["id"]}, "id", where) or str(None)
        text = " ".join(one.get("text") or "" for one in supervisions).strip()
        speaker = label(supervisions[0], "speaker", where) if supervisions else None
        is_changed = bool(recording.get("transforms") or cut.get("transforms"))
    except ManifestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{where}: not a cut of one recording in one file ({type(error).__name__}: {error}). {_REMEDY}"
        ) from error
    if is_changed:
        raise ManifestError(f"{where}: {id_} is to be changed while it is read (transforms). {_REMEDY}")
    if kind != "file":
        raise ManifestError(f"{where}: {id_} has its audio in a {kind!r}, not in a file. {_REMEDY}")
    if channels != 1:
        raise ManifestError(f"{where}: {id_} is one of several channels of its file. {_REMEDY}")
    if not text:
        raise ManifestError(f"{where}: {id_} has no text. Remove cuts in which nothing is said.")
    check_utf8(f"{id_}{text}{path.absolute()}", where)
    if not os.path.isfile(path):  # unlike Path's, False for a name that is too long
        raise ManifestError(
            f"{where}: the audio file {path} does not exist. Lhotse's relative paths start at the working folder; run "
            "this from there, or make them absolute."
        )
    duration_seconds(seconds, where)
    if not 0 <= start < whole:
        raise ManifestError(f"{where}: {id_} starts at {start} s of {whole} s. Correct its start.")
    is_part = start > 0 or whole - seconds > max(0.1, 0.02 * seconds)
    return Utterance(
        id_, str(path.absolute()), seconds, text, speaker, source, start_seconds=start if is_part else None
    )


def _number(entry: Any, key: str) -> float:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ValueError(f"{key!r} is {value!r}")
    return float(value)
