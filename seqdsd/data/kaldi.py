"""Kaldi data folders as manifests: ``wav.scp``, ``text``, and ``segments``, ``utt2spk``, ``utt2dur`` if they are there.

Nothing in ``wav.scp`` is ever run. A command that only unpacks one file that can be read as it is (``sph2pipe -f wav
FILE |``, ``flac -c -d FILE |``, ``cat FILE |``) stands for that file; any other is refused.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seqdsd.audio import AudioError, audio_channels, audio_seconds
from seqdsd.data.manifest import Manifest, ManifestError, Utterance, check_utf8, duration_seconds, skip

_UNPACKERS = {"sph2pipe": ("-f", "wav", "-p", "-c", "1"), "flac": ("-c", "-d", "-s", "-dc", "-cd"), "cat": ()}
"""Programs that only unpack, and those of their arguments that change nothing of it."""


@dataclass(frozen=True)
class _Entry:
    value: str
    where: str
    """``FILE:LINE``."""


def is_kaldi_folder(path: Path) -> bool:
    """Whether a folder is one of Kaldi's."""
    return (path / "wav.scp").is_file()


def read_kaldi(folder: Path, *, on_bad_data: Literal["error", "skip"] = "error") -> Manifest:
    """Read a data folder; paths in ``wav.scp`` are absolute, or relative to the working folder, as Kaldi takes them.

    Durations come from ``utt2dur`` or ``segments``, else from the recordings' headers.

    Args:
        folder: With ``wav.scp`` and ``text``.
        on_bad_data: ``"error"`` stops at the first bad line, ``"skip"`` leaves bad lines out and lists them.

    Raises:
        ManifestError: If a file cannot be read or nothing usable is in it; with ``"error"`` also for a bad line.
    """
    recordings, texts = _table(folder / "wav.scp"), _table(folder / "text")
    segments = _table(folder / "segments") if (folder / "segments").is_file() else None
    speakers = _table(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    durations = _table(folder / "utt2dur") if (folder / "utt2dur").is_file() else {}
    utterances: list[Utterance] = []
    skipped: list[str] = []
    for id_, text in texts.items():
        try:
            if not text.value.strip():
                raise ManifestError(f"{text.where}: {id_} has no words. Remove the line if nothing is said.")
            speaker = speakers[id_].value if id_ in speakers else None
            source = f"{folder.name}/{text.where.rpartition('/')[2]}"
            if segments is None:
                utterances.append(_whole(id_, text, recordings, durations, speaker, source))
            else:
                utterances.append(_segment(id_, text, recordings, segments, speaker, source))
        except ManifestError as error:
            if on_bad_data == "error":
                raise
            skip(error, skipped)
    if not utterances:
        why = f" The first line: {skipped[0]}" if skipped else ""
        raise ManifestError(f"{folder / 'text'}: no usable utterance.{why}")
    return Manifest(folder, utterances, skipped)


def _whole(
    id_: str,
    text: _Entry,
    recordings: Mapping[str, _Entry],
    durations: Mapping[str, _Entry],
    speaker: str | None,
    source: str,
) -> Utterance:
    path = _path(id_, text, recordings)
    try:
        seconds = _number(durations[id_]) if id_ in durations else audio_seconds(path)
        seconds = duration_seconds(seconds, (durations.get(id_) or recordings[id_]).where)
    except AudioError as error:
        raise ManifestError(f"{recordings[id_].where}: {error}") from error
    return Utterance(id_, path, seconds, text.value, speaker, source)


def _segment(
    id_: str,
    text: _Entry,
    recordings: Mapping[str, _Entry],
    segments: Mapping[str, _Entry],
    speaker: str | None,
    source: str,
) -> Utterance:
    if id_ not in segments:
        raise ManifestError(f"{text.where}: {id_} is not in segments. Add it, or remove the line.")
    entry = segments[id_]
    fields = entry.value.split()
    if len(fields) < 3:
        raise ManifestError(f"{entry.where}: expected RECORDING START END, got {entry.value!r}")
    start, end = (_number(_Entry(field, entry.where)) for field in fields[1:3])
    if not 0 <= start < end:
        raise ManifestError(f"{entry.where}: ends at {end} s, begins at {start} s. Correct the times.")
    path = _path(fields[0], entry, recordings)
    return Utterance(id_, path, end - start, text.value, speaker, source, start_seconds=start)


def _path(recording: str, asked: _Entry, recordings: Mapping[str, _Entry]) -> str:
    if recording not in recordings:
        raise ManifestError(f"{asked.where}: {recording} is not in wav.scp. Add it, or remove the line.")
    entry = recordings[recording]
    path = _unpacked(entry) if entry.value.rstrip().endswith("|") else Path(entry.value.strip())
    if not os.path.isfile(path):  # unlike Path's, False for a name that is too long
        raise ManifestError(
            f"{entry.where}: the audio file {path} does not exist. Kaldi's relative paths start at the working folder; "
            "run this from there, or make them absolute."
        )
    check_utf8(str(path.absolute()), entry.where)
    return str(path.absolute())


def _unpacked(entry: _Entry) -> Path:
    """The file that a command unpacks, if that is all it does."""
    try:
        program, *arguments = shlex.split(entry.value.rstrip().removesuffix("|"))
    except ValueError as error:
        raise ManifestError(f"{entry.where}: not a command ({error}). Correct the line.") from error
    harmless = _UNPACKERS.get(Path(program).name)
    paths = [one for one in arguments if harmless is not None and one not in harmless]
    if harmless is None or len(paths) != 1 or paths[0].startswith("-"):
        raise ManifestError(
            f"{entry.where}: commands are not run ({entry.value.strip()!r}). Write the recordings to files "
            "and name these."
        )
    path = Path(paths[0])
    if Path(program).name == "sph2pipe" and "-c" in arguments and os.path.isfile(path):
        try:
            channels = audio_channels(path)
        except AudioError as error:
            raise ManifestError(f"{entry.where}: {error}") from error
        if channels != 1:
            raise ManifestError(
                f"{entry.where}: one of {channels} channels is asked for, and channels are not chosen here. Write each "
                "to a file of its own."
            )
    return path


def _number(entry: _Entry) -> float:
    try:
        value = float(entry.value)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1e9:
        raise ManifestError(f"{entry.where}: {entry.value!r} is no number of seconds.")
    return value


def _table(path: Path) -> dict[str, _Entry]:
    """A file of lines that begin with a key."""
    table: dict[str, _Entry] = {}
    for number, line in _lines(path):
        key, *value = line.split(maxsplit=1)
        if key in table:
            raise ManifestError(f"{path}:{number}: {key} was used before. Every line needs its own key.")
        table[key] = _Entry(value[0].strip() if value else "", f"{path}:{number}")
    return table


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{path}: cannot be read ({error}). A Kaldi folder has wav.scp and text."
        ) from error
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
