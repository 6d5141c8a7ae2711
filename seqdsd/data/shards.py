"""The index of a split whose audio lies in tar shards: on this machine, or on a web server.

A split is a folder with ``shards.jsonl.gz``, JSON lines: one that says what it is and where the shards lie; then, for
each shard, its file name and size, and its utterances with the place of their audio in it. Reading a split opens no
shard. What is in a shard, ``shard_files`` says; one utterance's audio is read by ``shard_bytes``.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from seqdsd.data.manifest import (
    Manifest,
    ManifestError,
    Shard,
    ShardMember,
    Utterance,
    check_keys,
    check_utf8,
    claim_id,
    duration_seconds,
    label,
    parse_line,
    read_lines,
    skip,
    transcript,
)
from seqdsd.records import write_atomically

INDEX_NAME = "shards.jsonl.gz"
_FORMAT = "seqdsd-shards-1"
_BLOCK_BYTES = 512
_COMPRESSION = 6
_LARGEST_MEMBER_BYTES = 2**31


def is_shard_folder(path: Path) -> bool:
    """Whether a folder is a split in shards."""
    return (path / INDEX_NAME).is_file()


def read_shards(
    folder: Path, *, base: str | None = None, on_bad_data: Literal["error", "skip"] = "error"
) -> Manifest:
    """Read a split's index; a shard on this machine must be there, in the size that the index says.

    Args:
        folder: With the index, and the shards beside it unless they are on a web server.
        base: URL of the shards' folder, instead of the one that the index may name.
        on_bad_data: ``"error"`` stops at the first bad line, ``"skip"`` leaves out utterances whose line is bad; for
            the first line and those of shards it makes no difference.

    Raises:
        ManifestError: If the index cannot be read or holds no usable utterance; if a shard is missing or of another
            size; with ``"error"`` also for an utterance's bad line.
    """
    path = folder / INDEX_NAME
    shards: dict[str, Shard] = {}
    utterances: list[Utterance] = []
    skipped: list[str] = []
    first_seen: dict[str, int] = {}
    lines = read_lines(path)
    own_base = _base(lines, path)
    base = own_base if base is None else check_base(base)
    for number, line in lines:
        where = f"{path}:{number}"
        try:
            entry = parse_line(line, path, number)
            if is_utterance(entry):
                source = f"{folder.name}/{INDEX_NAME}:{number}"
                utterance = _utterance(entry, shards, where, source=source)
                claim_id(utterance.id, first_seen, path, number)
                utterances.append(utterance)
                continue
        except ManifestError as error:
            if on_bad_data == "error":
                raise
            skip(error, skipped)
            continue
        shard = _shard(entry, len(shards), folder, base, where)
        if shard.name in shards:
            raise ManifestError(f"{where}: {shard.name} was named before. {_remake(folder)}")
        shards[shard.name] = shard
    if not utterances:
        why = f" The first line: {skipped[0]}" if skipped else ""
        raise ManifestError(f"{path}: no usable utterance. {_remake(folder)}{why}")
    return Manifest(path, utterances, skipped)


def is_utterance(entry: Mapping[str, Any]) -> bool:
    """Whether a line of an index is an utterance's: not the first, nor a shard's."""
    return "format" not in entry and "file" not in entry


def write_index(folder: Path, utterances: Iterable[Utterance], *, base: str | None = None) -> None:
    """Write a split's index in one step; the same utterances give the same bytes.

    Args:
        folder: Of the shards, or where their index is to lie.
        utterances: All in shards, those of one shard together.
        base: URL of the folder that the shards are fetched from; None where they lie beside the index.
    """
    data = io.BytesIO()
    # Without a name and a time, so that equal shards have equal indices.
    with gzip.GzipFile("", "wb", _COMPRESSION, data, mtime=0) as file:
        for entry in _entries(utterances, base):
            file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
    write_atomically(folder / INDEX_NAME, data.getvalue())


def check_base(base: str) -> str:
    """Return the URL of a folder, with ``/`` at its end.

    Raises:
        ManifestError: If it is not one of http or https, or has a query.
    """
    try:
        parts = urlsplit(base)
        is_address = bool(parts.hostname) and parts.port != 0  # reading the port checks it
    except ValueError:
        is_address = False
    is_plain = base.isascii() and base.isprintable() and " " not in base
    if not (is_address and is_plain and parts.scheme in ("http", "https")) or parts.query or parts.fragment:
        raise ManifestError(
            f"base: {base!r} is no folder's URL. Give one such as https://example.org/corpus/train/"
        )
    return base.rstrip("/") + "/"


def _base(lines: Iterator[tuple[int, bytes]], path: Path) -> str | None:
    """What the index's first line says of where the shards lie."""
    number, line = next(lines, (1, b"{}"))
    entry = parse_line(line, path, number)
    if entry.get("format") != _FORMAT:
        raise ManifestError(
            f"{path}:{number}: not an index of this version (its format is {entry.get('format')!r}, not {_FORMAT!r}). "
            f"{_remake(path.parent)}"
        )
    base = entry.get("base")
    if base is not None and not isinstance(base, str):
        raise ManifestError(f"{path}:{number}: 'base' is {base!r}. Give a URL, or null.")
    try:
        return check_base(base) if base else None
    except ManifestError as error:
        raise ManifestError(f"{path}:{number}: {error}") from error


def _shard(entry: Mapping[str, Any], number: int, folder: Path, base: str | None, where: str) -> Shard:
    """Check a shard's line, and the file if it is on this machine."""
    check_keys(entry, ("file", "size_bytes"), where)
    name, size_bytes = entry["file"], _num_bytes(entry, "size_bytes", where)
    if not isinstance(name, str) or os.path.basename(name) != name or name in ("", "..", "."):
        raise ManifestError(f"{where}: 'file' is {name!r}, not the name of a file. {_remake(folder)}")
    check_utf8(name, where)
    if base is not None:
        return Shard(number, name, base + quote(name), size_bytes)
    shard = Shard(number, name, os.path.join(os.path.abspath(folder), name), size_bytes)
    try:
        found = os.stat(shard.location).st_size
    except OSError as error:
        raise ManifestError(
            f"{where}: the shard {shard.location} cannot be found ({error.strerror}). Copy it there, or say which web "
            f"server has it: seqdsd shard --index {folder} --base URL"
        ) from error
    if found != size_bytes:
        raise ManifestError(
            f"{where}: the shard {shard.location} has {found:,} bytes, {size_bytes:,} by the index. Copy it again; or "
            f"if it was changed on purpose: seqdsd shard --index {folder}"
        )
    return shard


def _utterance(
    entry: Mapping[str, Any], shards: Mapping[str, Shard], where: str, *, source: str
) -> Utterance:
    check_keys(entry, ("id", "text", "duration", "shard", "member", "offset", "size_bytes"), where)
    shard = shards.get(str(entry["shard"]))
    if shard is None:
        raise ManifestError(f"{where}: no line before names the shard {entry['shard']!r}. Add it.")
    id_, member, speaker = (label(entry, key, where) for key in ("id", "member", "speaker"))
    if id_ is None or member is None:
        raise ManifestError(f"{where}: 'id' or 'member' is null. Give both.")
    offset, size_bytes = _num_bytes(entry, "offset", where), _num_bytes(entry, "size_bytes", where)
    if size_bytes > _LARGEST_MEMBER_BYTES:
        raise ManifestError(f"{where}: {size_bytes:,} bytes of audio are too much. Cut it into utterances.")
    if offset < _BLOCK_BYTES or offset + size_bytes > shard.size_bytes:
        raise ManifestError(
            f"{where}: {size_bytes:,} bytes from {offset:,} on lie outside {shard.name} ({shard.size_bytes:,} bytes). "
            "Make the index anew: seqdsd shard --index FOLDER"
        )
    return Utterance(
        id=id_,
        audio_path=shard.location,
        duration_seconds=duration_seconds(entry["duration"], where),
        text=transcript(entry["text"], where),
        speaker=None if speaker is None else sys.intern(speaker),  # one string for all that somebody says
        source=source,
        member=ShardMember(shard, member, offset, size_bytes),
    )


def _num_bytes(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        raise ManifestError(f"{where}: '{key}' is {value!r}. Give a number of bytes.")
    return value


def _entries(utterances: Iterable[Utterance], base: str | None) -> Iterator[dict[str, Any]]:
    yield {"format": _FORMAT, "base": base}
    shard = None
    for one in utterances:
        assert one.member is not None
        if one.member.shard != shard:
            shard = one.member.shard
            yield {"file": shard.name, "size_bytes": shard.size_bytes}
        entry: dict[str, Any] = {
            "id": one.id,
            "text": one.text,
            "duration": one.duration_seconds,
            "shard": shard.name,
            "member": one.member.name,
            "offset": one.member.offset_bytes,
            "size_bytes": one.member.size_bytes,
        }
        yield entry if one.speaker is None else {**entry, "speaker": one.speaker}


def _remake(folder: Path) -> str:
    return f"Copy the index again, or make it from the shards: seqdsd shard --index {folder}"
