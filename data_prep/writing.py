"""What the corpus scripts share: from (audio, transcript) pairs to checked manifests and a table of them.

Audio is measured, never copied or changed. Reading a corpus' own layout is each script's business.
"""

import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from seqdsd.audio import AudioError, audio_seconds
from seqdsd.data.manifest import Utterance, write_manifest
from seqdsd.printable import printable_lines
from seqdsd.text import ENGLISH_ALPHABET, normalise_transcript

CorpusFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CORPUS")]
OutFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
_SECONDS_WITHOUT_PROGRESS_BAR = 2.0


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance as the corpus has it."""

    id: str
    audio_path: Path
    transcript: str
    """Not normalised."""
    speaker: str | None
    source: str
    """``FILE:LINE`` where the corpus lists it: the start of error messages."""


@dataclass
class Split:
    """What one manifest will hold, and what normalisation did to it."""

    utterances: list[Utterance] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """Characters that normalisation dropped, with counts."""
    outside: Counter[str] = field(default_factory=Counter)
    """Characters that it kept though the alphabet has no such character, with counts."""
    skipped: list[str] = field(default_factory=list)
    """Error messages of recordings left out."""


def write_splits(
    recordings: Mapping[str, Sequence[Recording]],
    out: Path,
    *,
    alphabet: str = ENGLISH_ALPHABET,
    on_bad_data: Literal["error", "skip"] = "error",
) -> dict[str, Split]:
    """Measure and normalise every recording, write ``OUT/SPLIT.jsonl`` for each split and print a table.

    Nothing is written before every split is known to be good.

    Args:
        recordings: The recordings of each split.
        out: The folder of the manifests, made where it is missing.
        alphabet: What transcripts are folded into.
        on_bad_data: ``"skip"`` leaves unusable recordings out and lists them, instead of raising.

    Raises:
        ValueError: If a split is empty; or, unless skipped, if audio cannot be read or is empty, a
            transcript has no words, or an id repeats within its split.
    """
    splits = {
        name: _check_split(name, of_split, alphabet, on_bad_data) for name, of_split in recordings.items()
    }
    for name, split in splits.items():
        write_manifest(out / f"{name}.jsonl", split.utterances)
    _print_summary(splits, out, alphabet)
    return splits


def refuse_shared_speakers(recordings: Mapping[str, Sequence[Recording]]) -> None:
    """Raise ``ValueError`` if a speaker occurs in two splits: test scores would then be too good."""
    where: dict[str, list[str]] = {}
    for name, of_split in recordings.items():
        for speaker in {recording.speaker for recording in of_split if recording.speaker is not None}:
            where.setdefault(speaker, []).append(name)
    shared = {speaker: names for speaker, names in sorted(where.items()) if len(names) > 1}
    if shared:
        speaker, names = next(iter(shared.items()))
        raise ValueError(
            f"{len(shared)} speakers occur in more than one split, such as {speaker!r} in "
            f"{' and '.join(names)}. Give splits whose speakers differ."
        )


def names_of_test_splits(names: Sequence[str]) -> list[str]:
    """``["test"]`` for one test set; for several, ``test_NAME`` each, so that every one gets its manifest.

    Raises:
        ValueError: If two test sets would get the same manifest.
    """
    if len(names) == 1:
        return ["test"]
    labels = [name.removeprefix("test").strip("-_").replace("-", "_") for name in names]
    if len(set(labels)) < len(labels):
        raise ValueError(f"the test sets {', '.join(names)} need different names, one for each manifest.")
    return [f"test_{label}" if label else "test" for label in labels]


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (``FILE:LINE``, line) of each line that is not blank.

    Raises:
        ValueError: If the file is missing or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Is the corpus complete?") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not valid UTF-8 (byte {error.start}). Is this the official file?"
        ) from error
    for line_number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{line_number}", line.strip()


def warn(message: str) -> None:
    """Say what the user should look at, on the error stream."""
    Console(stderr=True).print(
        f"warning: {printable_lines(message)}", style="yellow", markup=False, highlight=False, emoji=False
    )


def run_script(main: Callable[..., None]) -> None:
    """Run a script's ``main`` from the command line; bad input ends it with one line, no traceback."""
    try:
        tyro.cli(main)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {printable_lines(str(error))}")


def _check_split(
    name: str, recordings: Sequence[Recording], alphabet: str, on_bad_data: Literal["error", "skip"]
) -> Split:
    """Turn the recordings of one split into utterances."""
    split = Split()
    seen: set[str] = set()
    for recording in _with_progress(recordings, name):
        try:
            _add(recording, split, seen, alphabet)
        except ValueError as error:
            if on_bad_data == "error":
                raise
            split.skipped.append(str(error))
    if not split.utterances:
        raise ValueError(
            f"no utterance for the split '{name}'. " + (split.skipped or ["Check the corpus folder."])[0]
        )
    return split


def _add(recording: Recording, split: Split, seen: set[str], alphabet: str) -> None:
    """Check one recording and add its utterance to the split."""
    if recording.id in seen:
        raise ValueError(
            f"{recording.source}: the id {recording.id!r} occurs twice. Remove one of the lines."
        )
    normalised = normalise_transcript(recording.transcript, alphabet=alphabet)
    if not normalised.text:
        raise ValueError(
            f"{recording.source}: the transcript {recording.transcript!r} has no words. Remove the line."
        )
    duration_seconds = measure_seconds(recording.audio_path, recording.source)
    seen.add(recording.id)
    split.dropped.update(normalised.dropped)
    split.outside.update(character for character in normalised.text if character not in alphabet)
    split.utterances.append(
        Utterance(
            id=recording.id,
            audio_path=str(recording.audio_path.absolute()),
            duration_seconds=duration_seconds,
            text=normalised.text,
            speaker=recording.speaker,
            source=recording.source,
        )
    )


def measure_seconds(audio_path: Path, source: str) -> float:
    """Return an audio file's duration in seconds, as its header states it.

    Raises:
        ValueError: If the file cannot be used (``seqdsd.audio.audio_seconds``); the message begins with ``source``.
    """
    try:
        return round(audio_seconds(audio_path), 6)
    except (AudioError, OSError) as error:
        raise ValueError(f"{source}: {error}") from error


def _with_progress(recordings: Sequence[Recording], name: str) -> Iterator[Recording]:
    """Yield the recordings, under a progress bar from the moment that the wait becomes noticeable."""
    start = time.monotonic()
    remaining = iter(recordings)
    done = 0
    for recording in remaining:
        yield recording
        done += 1
        if time.monotonic() - start > _SECONDS_WITHOUT_PROGRESS_BAR:
            break
    with Progress(transient=True, disable=done == len(recordings)) as progress:
        yield from progress.track(
            remaining, total=len(recordings), completed=done, description=f"reading {name}"
        )


def _print_summary(splits: Mapping[str, Split], out: Path, alphabet: str) -> None:
    """Print what each manifest holds, and warn of what the user must still look at."""
    table = Table(title=f"manifests in {out}")
    table.add_column("split")
    for column in ("utterances", "speakers", "hours", "words"):
        table.add_column(column, justify="right")
    table.add_column("dropped by normalisation", overflow="fold")
    for name, split in splits.items():
        utterances = split.utterances
        table.add_row(
            name,
            str(len(utterances)),
            str(len({utterance.speaker for utterance in utterances} - {None}) or "unknown"),
            f"{sum(utterance.duration_seconds for utterance in utterances) / 3600:.2f}",
            str(sum(len(utterance.text.split()) for utterance in utterances)),
            _describe(split.dropped) or "nothing",
        )
    Console().print(table, markup=False)
    for name, split in splits.items():
        if split.outside:
            warn(
                f"{name}: transcripts keep characters outside the alphabet {alphabet!r}, which the tokenizer "
                f"will refuse: {_describe(split.outside)}. Write them out as words, or remove those lines."
            )
        if split.skipped:
            warn(f"{name}: left out {len(split.skipped)} recordings:\n" + "\n".join(split.skipped))


def _describe(characters: Counter[str]) -> str:
    """Characters with counts, the frequent ones first; by name where they cannot be seen on their own."""

    def shown(character: str) -> str:
        is_visible = unicodedata.category(character)[0] in "LNPS"
        return character if is_visible else unicodedata.name(character, repr(character)).lower()

    return "  ".join(f"{shown(character)} ×{count}" for character, count in characters.most_common())
