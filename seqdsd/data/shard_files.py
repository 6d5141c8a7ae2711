"""Tar shards in the layout of webdataset: written, and looked through for an index.

An utterance is two files with one key: ``KEY.flac`` (or another kind of audio) and ``KEY.json`` with ``text``,
``duration``, ``id`` and ``speaker``; in others' shards also ``KEY.txt``. A key ends at the first dot of the name.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from seqdsd.audio import AUDIO_SUFFIXES, AudioBytes, AudioError, audio_seconds
from seqdsd.data.manifest import (
    LONGEST_LINE_BYTES,
    ManifestError,
    Shard,
    ShardMember,
    Utterance,
    check_length,
    check_utf8,
    duration_seconds,
    label,
    parse_line,
    skip,
    transcript,
)
from seqdsd.data.shard_bytes import header_of
from seqdsd.records import replacing

_LONGEST_KEY = 80
"""With a mark and a suffix it fits into the 100 bytes that a tar header has for a name."""


@dataclass(frozen=True)
class ShardEntry:
    """What is written of an utterance."""

    utterance: Utterance
    suffix: str
    """Of the audio, such as ``.flac``."""
    audio: bytes


def write_shards(folder: Path, entries: Iterable[ShardEntry], *, shard_bytes: int) -> Iterator[Path]:
    """Write ``000000.tar``, ``000001.tar`` … and yield each when it is complete.

    A shard is written under another name, synced and renamed; it is closed once it has ``shard_bytes``. The same
    entries give the same bytes.
    """
    remaining = iter(entries)
    for number in itertools.count():
        first = next(remaining, None)
        if first is None:
            return
        path = folder / f"{number:06d}.tar"
        _write_shard(path, first, remaining, shard_bytes)
        yield path


def safe_key(id_: str) -> str:
    """An id as webdataset can take it for a key: letters, digits, ``_`` and ``-`` of ASCII, at most 89 of them.

    An id that must be changed for that is marked with a digest of the original, so that two stay two.
    """
    key = re.sub(r"[^A-Za-z0-9_-]", "_", id_)[:_LONGEST_KEY]
    return key if key == id_ else f"{key}-{hashlib.blake2b(id_.encode(), digest_size=4).hexdigest()}"


def index_shard(
    path: Path, number: int, *, on_bad_data: Literal["error", "skip"] = "error"
) -> tuple[list[Utterance], list[str]]:
    """Look through a shard; audio is only opened for a duration that nothing states.

    Args:
        path: A tar file that is not compressed.
        number: Its place among the shards of its split.
        on_bad_data: ``"error"`` stops at the first key that is no utterance, ``"skip"`` leaves it out.

    Returns:
        The utterances, and a message for each key left out.

    Raises:
        ManifestError: If the file is not a tar file; with ``"error"`` also for a key without audio or transcript.
    """
    shard = Shard(number, path.name, os.path.abspath(path), path.stat().st_size)
    utterances: list[Utterance] = []
    skipped: list[str] = []
    for key, files in _keys(path):
        try:
            utterances.append(_utterance(shard, key, files))
        except ManifestError as error:
            if on_bad_data == "error":
                raise
            skip(error, skipped)
    return utterances, skipped


def _write_shard(path: Path, first: ShardEntry, remaining: Iterator[ShardEntry], shard_bytes: int) -> None:
    with (
        replacing(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        _add_entry(tar, first)
        while tar.offset < shard_bytes and (entry := next(remaining, None)) is not None:
            _add_entry(tar, entry)


def _add_entry(tar: tarfile.TarFile, entry: ShardEntry) -> None:
    one = entry.utterance
    about: dict[str, Any] = {"id": one.id, "text": one.text, "duration": one.duration_seconds}
    if one.speaker is not None:
        about["speaker"] = one.speaker
    key = safe_key(one.id)
    _add(tar, key + entry.suffix, entry.audio)
    _add(tar, key + ".json", json.dumps(about, ensure_ascii=False).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)  # owner root, time 0: equal everywhere
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))


@dataclass(frozen=True)
class _File:
    """A file in a shard."""

    name: str
    """As the header right before its content has it: a long name is cut short there."""
    offset_bytes: int
    size_bytes: int
    _shard: BinaryIO

    def read(self, most_bytes: int) -> bytes:
        """The content, or so much of it that one sees that it is too large."""
        self._shard.seek(self.offset_bytes)
        return self._shard.read(min(self.size_bytes, most_bytes + 1))


def _keys(path: Path) -> Iterator[tuple[str, dict[str, _File]]]:
    """Yield each key of a shard with its files by suffix, in lower case."""
    try:
        with open(path, "rb") as file, tarfile.open(path, "r:") as tar:
            for key, members in itertools.groupby(filter(_is_content, tar), key=_key):
                yield key, {_suffix(member): _file(member, file) for member in members}
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"no file's beginning at byte {tar.offset:,}")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(
            f"{path}: not a tar file, or damaged ({error}). Copy it again; unpack it, if it is compressed."
        ) from error


def _is_content(member: tarfile.TarInfo) -> bool:
    """Whether it is a file, and not one of those that macOS adds."""
    return member.isreg() and not member.issparse() and not os.path.basename(member.name).startswith(".")


def _key(member: tarfile.TarInfo) -> str:
    folder, name = os.path.split(member.name)
    return os.path.join(folder, name.partition(".")[0])


def _suffix(member: tarfile.TarInfo) -> str:
    return "." + os.path.basename(member.name).partition(".")[2].lower()


def _file(member: tarfile.TarInfo, file: BinaryIO) -> _File:
    file.seek(member.offset_data - tarfile.BLOCKSIZE)
    name = header_of(file.read(tarfile.BLOCKSIZE)).name
    return _File(name, member.offset_data, member.size, file)


def _utterance(shard: Shard, key: str, files: Mapping[str, _File]) -> Utterance:
    where = f"{shard.location}: {key}"
    check_utf8(f"{key}{''.join(one.name for one in files.values())}", where)
    audio = _audio(files, where)
    about = (
        parse_line(files[".json"].read(LONGEST_LINE_BYTES), Path(f"{where}.json"), 1)
        if ".json" in files
        else {}
    )
    text = _text(about, files, where)
    return Utterance(
        id=label(about, "id", where) or key,
        audio_path=shard.location,
        duration_seconds=_seconds(about, audio, where),
        text=text,
        speaker=label(about, "speaker", where),
        source=where,
        member=ShardMember(shard, audio.name, audio.offset_bytes, audio.size_bytes),
    )


def _audio(files: Mapping[str, _File], where: str) -> _File:
    found = [one for suffix, one in files.items() if suffix in AUDIO_SUFFIXES]
    if len(found) != 1:
        there = ", ".join(one.name for one in files.values())
        raise ManifestError(
            f"{where}: {len(found) or 'no'} audio files (there: {there}). Every key needs one: KEY.flac, .wav, .ogg …"
        )
    return found[0]


def _text(about: Mapping[str, Any], files: Mapping[str, _File], where: str) -> str:
    if about.get("text") is not None:
        return transcript(about["text"], where)
    if ".txt" not in files:
        raise ManifestError(
            f"{where}: no transcript. Every key needs KEY.json with 'text', or KEY.txt, next to its audio."
        )
    try:
        text = files[".txt"].read(LONGEST_LINE_BYTES)
        check_length(text, f"{where}.txt")
        return transcript(text.decode("utf-8").strip(), where)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where}.txt: not valid UTF-8. Save the text as UTF-8.") from error


def _seconds(about: Mapping[str, Any], audio: _File, where: str) -> float:
    if about.get("duration") is not None:
        return duration_seconds(about["duration"], where)
    try:
        return duration_seconds(audio_seconds(AudioBytes(audio.name, audio.read(audio.size_bytes))), where)
    except AudioError as error:
        raise ManifestError(f"{where}: {error}") from error
