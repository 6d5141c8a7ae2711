"""Lhotse's cut sets as manifests: JSON lines, plain or gzipped, read without Lhotse.

One supervised stretch of one recording in a file is read; what else cuts can be (mixed, padded, without a file, with
changes to be made while reading) is refused, with the remedy of letting Lhotse write it out.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from seqdsd.data.manifest import Manifest, ManifestError, Utterance

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
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            utterance = _utterance(line, where, source=f"{path.name}:{number}")
            if utterance.id in seen:
                raise ManifestError(
                    f"{where}: the id {utterance.id!r} was used before. Give every cut its own id."
                )
        except ManifestError as error:
            if on_bad_data == "error":
                raise
            skipped.append(str(error))
            continue
        seen.add(utterance.id)
        utterances.append(utterance)
    if not utterances:
        why = f" The first line: {skipped[0]}" if skipped else ""
        raise ManifestError(f"{path}: no usable cut.{why}")
    return Manifest(path, utterances, skipped)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, gzipped where its name says so.

    Raises:
        ManifestError: If it cannot be read.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8").split("\n")
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: no such file. Correct the path.") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ManifestError(f"{path}: cannot be read ({error}). Copy it again.") from error


def _utterance(line: str, where: str, *, source: str) -> Utterance:
    try:
        cut = json.loads(line)
        recording, supervisions = cut["recording"], cut["supervisions"]
        start, seconds = float(cut["start"]), float(cut["duration"])
        whole = float(recording["duration"])
        [audio] = recording["sources"]
        id_ = str(cut["id"])
        texts = [one.get("text") or "" for one in supervisions]
        speaker = supervisions[0].get("speaker") if supervisions else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"{where}: not a cut of one recording in one file ({type(error).__name__}: {error}). {_REMEDY}"
        ) from error
    if recording.get("transforms") or cut.get("transforms"):
        raise ManifestError(f"{where}: {id_} is to be changed while it is read (transforms). {_REMEDY}")
    if audio.get("type") != "file":
        raise ManifestError(
            f"{where}: {id_} has its audio in a {audio.get('type')!r}, not in a file. {_REMEDY}"
        )
    if len(audio.get("channels", [0])) != 1:
        raise ManifestError(f"{where}: {id_} is one of several channels of its file. {_REMEDY}")
    if not " ".join(texts).strip():
        raise ManifestError(f"{where}: {id_} has no text. Remove cuts in which nothing is said.")
    path = Path(audio["source"])
    if not path.is_file():
        raise ManifestError(
            f"{where}: the audio file {path} does not exist. Lhotse's relative paths start at the working folder; run "
            "this from there, or make them absolute."
        )
    is_part = start > 0 or whole - seconds > max(0.1, 0.02 * seconds)
    return Utterance(
        id_,
        str(path.absolute()),
        seconds,
        " ".join(texts),
        speaker,
        source,
        start_seconds=start if is_part else None,
    )
