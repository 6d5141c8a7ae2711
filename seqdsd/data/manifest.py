"""Speech manifests: JSON lines that say where the audio is, how long it lasts and what is said.

The keys are NeMo's (``audio_filepath``, ``duration``, ``text``, optional ``offset``, ``speaker`` and ``id``), so NeMo
manifests can be read as they are. Left out on purpose: any look inside the audio.
"""

import gzip
import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from seqdsd.data.unpacking import TIMES, largest_unpacked
from seqdsd.printable import printable_lines
from seqdsd.records import replacing
from seqdsd.records.reading import is_deeper

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_LINE_BYTES = 2**24
_MOST_SKIPPED = 1_000_000
_MAX_DEPTH = 32
"""Lists and objects within each other; Lhotse's have seven. Python cannot quote all that it can read."""
_LONGEST_MESSAGE = 2_000


class ManifestError(ValueError):
    """A manifest that cannot be used; the message starts with ``FILE:LINE:`` and ends with the remedy."""

    def __init__(self, message: str) -> None:
        if len(message) > _LONGEST_MESSAGE:  # it may quote megabytes
            message = f"{message[: _LONGEST_MESSAGE - 500]} … {message[-500:]}"
        super().__init__(printable_lines(message))


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar file with the audio of many utterances (``seqdsd.data.shards``)."""

    number: int
    """Its place among the shards of its split, from 0."""
    name: str
    """Of the file, without its folder."""
    location: str
    """Absolute path of a file that existed when the index was read, or a URL of http or https."""
    size_bytes: int
    """As the index says it."""


@dataclass(frozen=True, slots=True)
class ShardMember:
    """Where in a shard an utterance's audio lies."""

    shard: Shard
    name: str
    """As the tar header before the audio has it."""
    offset_bytes: int
    """Of the audio, after its header."""
    size_bytes: int
    """Of the audio."""

    def __str__(self) -> str:
        return f"{self.shard.location}: member {self.name}"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and its transcript."""

    id: str
    """Unique within its manifest."""
    audio_path: str
    """Absolute path of a file that existed when the manifest was read; that of the shard, or its URL, for a member."""
    duration_seconds: float
    """As the manifest says it, finite and above 0."""
    text: str
    """The transcript as written, never empty; tokenizers judge its characters."""
    speaker: str | None
    """Who speaks, where it is known."""
    source: str
    """Where it was read, such as ``train.jsonl:12``: for error messages."""
    start_seconds: float | None = None
    """Where it begins, if it is a part of a longer recording; None where it is all of it."""
    member: ShardMember | None = None
    """Where it lies within ``audio_path``, if that is a shard."""

    @property
    def audio_name(self) -> str:
        """What messages call its audio."""
        return self.audio_path if self.member is None else str(self.member)


@dataclass(frozen=True)
class Manifest:
    """What one manifest file holds."""

    path: Path
    utterances: list[Utterance]
    skipped: list[str]
    """The full error message of each line left out; always empty unless asked for ``on_bad_data="skip"``."""


def read_manifest(path: Path, *, on_bad_data: Literal["error", "skip"] = "error") -> Manifest:
    """Read and check a manifest, line by line.

    An utterance without ``id`` is called after its audio file (the name without extension); where that is not
    unique, after its path, with ``/`` written as ``-``. Blank lines and a byte order mark are tolerated.

    Args:
        path: The manifest. Relative ``audio_filepath`` values start at its folder.
        on_bad_data: ``"error"`` stops at the first bad line, ``"skip"`` leaves bad lines out and lists them.

    Raises:
        ManifestError: If the file cannot be opened or holds no usable utterance; with ``"error"`` also if a
            line is not valid UTF-8 or not a JSON object, misses a key, has a wrong value, names audio that is
            not there or that lies outside the manifest's folder through ``..``, or repeats an id.
    """
    utterances: list[Utterance] = []
    without_id: list[int] = []
    skipped: list[str] = []
    first_seen: dict[str, int] = {}
    for line_number, line in read_lines(path):
        try:
            entry = parse_line(line, path, line_number)
            utterance = _to_utterance(entry, path, line_number)
            if utterance.id:
                claim_id(utterance.id, first_seen, path, line_number)
            else:
                without_id.append(len(utterances))
            utterances.append(utterance)
        except ManifestError as error:
            if on_bad_data == "error":
                raise
            skip(error, skipped)
    for message in _name_after_audio(utterances, without_id, first_seen, path):
        if on_bad_data == "error":
            raise ManifestError(message)
        skipped.append(message)
    utterances = [utterance for utterance in utterances if utterance.id]
    if not utterances:
        why = f" All lines were bad; the first: {skipped[0]}" if skipped else ""
        raise ManifestError(f"{path}: the manifest holds no utterance. Write one JSON object a line.{why}")
    return Manifest(path, utterances, skipped)


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest in one step (``replacing``): readers see the old file or the new one, never half of it.

    Audio below the manifest's folder is written relative to it, so that the folder can be moved; audio
    elsewhere is written as an absolute path.

    Raises:
        ValueError: If an utterance lies in a shard, which a manifest cannot name, or has a name that is not UTF-8.
        OSError: If the file cannot be written; the message names it.
    """
    folder = os.path.abspath(path.parent)
    with replacing(path) as file:
        for utterance in utterances:
            line = json.dumps(_to_entry(utterance, folder), ensure_ascii=False)
            check_utf8(line, f"{path}: utterance {utterance.id}")
            file.write(line.encode() + b"\n")


def skip(error: ManifestError, skipped: list[str]) -> None:
    """Note what is left out.

    Raises:
        ManifestError: If that is so much that it is no list of mishaps any more.
    """
    skipped.append(str(error))
    if len(skipped) > _MOST_SKIPPED:
        raise ManifestError(
            f"{error} More than {_MOST_SKIPPED:,} lines cannot be used: is this the right file?"
        )


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes) of each line that is not blank; unpacked where the name ends in ``.gz``.

    Of a line longer than ``LONGEST_LINE_BYTES`` so many bytes come and one more: ``check_length`` refuses it.

    Raises:
        ManifestError: If the file cannot be read, or unpacks to far more than text does.
    """
    try:  # bytes, so that a bad character is charged to its own line
        file = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    except OSError as error:
        raise ManifestError(
            f"{path}: cannot open the manifest ({error.strerror}). "
            "Check the path, or write the manifest with data_prep/."
        ) from error
    with file:
        try:
            is_packed = path.suffix == ".gz"
            left = largest_unpacked(os.fstat(file.fileno()).st_size) if is_packed else math.inf
            line_number = 0
            while line := file.readline(LONGEST_LINE_BYTES + 1):
                rest = line
                while (
                    len(rest) > LONGEST_LINE_BYTES and left >= 0
                ):  # the line goes on: to its end, keeping nothing
                    left -= len(rest)
                    rest = file.readline(LONGEST_LINE_BYTES + 1)
                left -= len(rest)
                if left < 0:
                    raise ManifestError(
                        f"{path}: unpacks to more than {TIMES} times its size; no manifest does. Copy it again."
                    )
                line_number += 1
                if line_number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                if line.strip():
                    yield line_number, line
        except (OSError, EOFError, zlib.error) as error:
            raise ManifestError(f"{path}: cannot be read ({error}). Copy it again.") from error


def parse_line(line: bytes, path: Path, line_number: int) -> dict[str, Any]:
    """Turn one line into a JSON object.

    Raises:
        ManifestError: If it is none.
    """
    where = f"{path}:{line_number}"
    check_length(line, where)
    try:
        entry = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{where}: not valid UTF-8 at byte {error.start} of the line. Save the manifest as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: not JSON ({error}). Write one JSON object a line.") from error
    if is_deeper(entry, _MAX_DEPTH):
        raise ManifestError(
            f"{where}: more than {_MAX_DEPTH} lists and objects within each other. Leave out what is nested so deep."
        )
    if not isinstance(entry, dict):
        raise ManifestError(
            f'{where}: a JSON {type(entry).__name__}, not an object. Write {{"audio_filepath": …}}.'
        )
    return entry


def check_length(line: bytes, where: str) -> None:
    """Refuse a line that would take more memory than text ever needs.

    Raises:
        ManifestError: If it is longer than ``LONGEST_LINE_BYTES``.
    """
    if len(line) > LONGEST_LINE_BYTES:
        raise ManifestError(f"{where}: longer than {LONGEST_LINE_BYTES:,} bytes. Write one utterance a line.")


def check_utf8(text: str, where: str) -> None:
    """Refuse text that cannot be written: JSON can hold half a surrogate pair, and so can Python's names of files.

    Raises:
        ManifestError: If it is such text.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"{where}: {text[error.start]!r} in {text!r} is no character of Unicode. Write it anew, or rename the file."
        ) from error


def _to_utterance(entry: dict[str, Any], path: Path, line_number: int) -> Utterance:
    """Check one entry; the id stays empty where the entry has none."""
    where = f"{path}:{line_number}"
    check_keys(entry, ("audio_filepath", "duration", "text"), where)
    return Utterance(
        id=label(entry, "id", where) or "",
        audio_path=_audio_path(entry["audio_filepath"], path, where),
        duration_seconds=duration_seconds(entry["duration"], where),
        text=transcript(entry["text"], where),
        speaker=label(entry, "speaker", where),
        source=f"{path.name}:{line_number}",
        start_seconds=_start_seconds(entry.get("offset"), where),
    )


def check_keys(entry: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    """Refuse an entry without one of the keys.

    Raises:
        ManifestError: Naming the first that is missing.
    """
    for key in keys:
        if key not in entry:
            raise ManifestError(
                f"{where}: the key '{key}' is missing (found: {', '.join(sorted(entry)) or 'none'}). Add it."
            )


def label(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    """Return an optional name; whole numbers count as names, as some corpora number their speakers.

    Raises:
        ManifestError: If it is neither, or empty.
    """
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ManifestError(f"{where}: '{key}' is {value!r}. Give a string with something in it, or none.")
    check_utf8(str(value), where)
    return str(value)


def duration_seconds(value: Any, where: str) -> float:
    """Return a positive finite number of seconds.

    Raises:
        ManifestError: If it is none.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # False for NaN as well; the upper bound keeps out infinity and whole numbers too long for a float.
    if not is_number or not 0 < value < 1e9:
        raise ManifestError(f"{where}: 'duration' is {value!r}. Give a positive number of seconds.")
    return float(value)


def _start_seconds(value: Any, where: str) -> float | None:
    """Return where a part of a recording begins, if it is one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 <= value < 1e9):
        raise ManifestError(
            f"{where}: 'offset' is {value!r}. Give the seconds before the part, or leave it out."
        )
    return None if value is None else float(value)


def transcript(value: Any, where: str) -> str:
    """Return a transcript with something in it.

    Raises:
        ManifestError: If it has nothing.
    """
    if not isinstance(value, str) or not value.strip():
        raise ManifestError(
            f"{where}: 'text' is {value!r}. Give the transcript, or remove the line if nothing is said."
        )
    check_utf8(value, where)
    return value


def _audio_path(value: Any, path: Path, where: str) -> str:
    """Return the absolute path of an audio file that exists."""
    if not isinstance(value, str) or not value:
        raise ManifestError(f"{where}: 'audio_filepath' is {value!r}. Give the path of an audio file.")
    folder = os.path.abspath(path.parent)
    audio_path = os.path.normpath(os.path.join(folder, value))
    if not os.path.isabs(value) and not _is_below(audio_path, folder):
        raise ManifestError(
            f"{where}: 'audio_filepath' {value!r} points outside the manifest's folder. "
            "Move the manifest up, or write an absolute path."
        )
    check_utf8(audio_path, where)
    if not os.path.isfile(audio_path):
        raise ManifestError(
            f"{where}: the audio file {audio_path} does not exist. "
            "Relative paths start at the manifest's folder; correct the path or remove the line."
        )
    return audio_path


def claim_id(id_: str, first_seen: dict[str, int], path: Path, line_number: int) -> None:
    """Register an explicit id and its line.

    Raises:
        ManifestError: If it is there already.
    """
    if id_ in first_seen:
        raise ManifestError(
            f"{path}:{line_number}: the id {id_!r} was used on line {first_seen[id_]} already. "
            "Give every utterance its own id."
        )
    first_seen[id_] = line_number


def _name_after_audio(
    utterances: list[Utterance], without_id: list[int], first_seen: dict[str, int], path: Path
) -> list[str]:
    """Give the utterances at ``without_id`` an id, in place; return a message for each that gets none."""
    folder = os.path.abspath(path.parent)
    stems = Counter(_stem(utterances[index]) for index in without_id)
    errors = []
    for index in without_id:
        utterance = utterances[index]
        line_number = int(utterance.source.rpartition(":")[2])
        name = _stem(utterance)
        if stems[name] > 1 or name in first_seen:
            path_name = _shortest_path(utterance.audio_path, folder).strip("/").replace("/", "-")
            name = path_name + _mark(utterance)
        if name in first_seen:
            errors.append(
                f"{path}:{line_number}: the id derived from the audio's path, {name!r}, was used on line "
                f"{first_seen[name]} already. Give the utterance an 'id', or remove the repeated line."
            )
        else:
            first_seen[name] = line_number
            utterances[index] = replace(utterance, id=name)
    return errors


def _stem(utterance: Utterance) -> str:
    return Path(utterance.audio_path).stem + _mark(utterance)


def _mark(utterance: Utterance) -> str:
    """What tells parts of one recording apart: where they begin, in milliseconds."""
    return f"-{round(1000 * utterance.start_seconds):07d}" if utterance.start_seconds else ""


def _to_entry(utterance: Utterance, folder: str) -> dict[str, Any]:
    """The JSON object of one utterance, in a manifest that lies in ``folder``."""
    if utterance.member is not None:
        raise ValueError(f"{utterance.id} lies in a shard ({utterance.member}), which no manifest can name")
    entry: dict[str, Any] = {
        "audio_filepath": _shortest_path(os.path.abspath(utterance.audio_path), folder),
        "duration": utterance.duration_seconds,
        "text": utterance.text,
        "id": utterance.id,
    }
    if utterance.start_seconds is not None:
        entry["offset"] = utterance.start_seconds
    if utterance.speaker is not None:
        entry["speaker"] = utterance.speaker
    return entry


def _is_below(path: str, folder: str) -> bool:
    """Whether an absolute path lies below an absolute folder, going by the names alone."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _shortest_path(path: str, folder: str) -> str:
    """The path relative to the folder where it lies below it, else as it is; with ``/`` on every system."""
    return Path(os.path.relpath(path, folder) if _is_below(path, folder) else path).as_posix()
