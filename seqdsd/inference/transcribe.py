"""``seqdsd transcribe``: recordings of any length, rate and format to text, in the memory of one batch.

A recording is read block by block and cut at quiet places; pieces of several recordings share a batch. Leaves
out scoring, which needs transcripts (``seqdsd evaluate``), and who speaks.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seqdsd.audio import (
    AUDIO_SUFFIXES,
    FFMPEG_SUFFIXES,
    AudioError,
    audio_seconds,
    read_blocks,
    split_at_quiet,
)
from seqdsd.audio.features import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from seqdsd.inference.files import find_files, late_progress
from seqdsd.inference.subtitles import ctm, srt, vtt
from seqdsd.inference.trained import Transcriber, load_recogniser
from seqdsd.printable import printable, printable_json
from seqdsd.recipes.command import run_command
from seqdsd.records import write_atomically
from seqdsd.tasks import DecodingSettings
from seqdsd.tasks.alignment import TimedWord, align_words

PROG = "seqdsd transcribe"
_DESCRIPTION = """Turn recordings of any length, rate and format into text: a line each, with path, tab, text.

Examples:
  seqdsd transcribe runs/an4-ds1 meeting.flac
  seqdsd transcribe runs/an4-ds1 recordings/ --json > transcripts.jsonl
  seqdsd transcribe runs/an4-ds1 meeting.flac --timestamps srt > meeting.srt
  seqdsd transcribe runs/an4-ds1 recordings/ --timestamps vtt --out subtitles/
  seqdsd transcribe runs/an4-ds1 meeting.flac --lm an4.arpa --hot-words rubout
"""


TimestampFormat = Literal["json", "srt", "vtt", "ctm"]
OutputFormat = Literal["txt", "json", "srt", "vtt", "ctm"]


@dataclass(frozen=True)
class Transcribe:
    """What to transcribe, and with which weights."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a training run (its --out), a .dsdz file of a recogniser or the name of one (seqdsd models), or
    an ONNX file of seqdsd export."""
    audio: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="AUDIO ...")]
    """Recordings, and folders of them (searched to any depth). One that cannot be read (cut short, not finite, at a
    rate outside 1 kHz to 1 MHz) is named on stderr, and the others are transcribed."""
    phase: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the phase whose weights are used; by default the best on dev. A file has one."""
    max_piece_seconds: float = 20.0
    """Longer recordings are cut at a quiet place; best about as long as the longest training utterance."""
    max_batch_seconds: float = 120.0
    """Budget of a batch in seconds of audio, padding included; bounds memory."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda, mps."""
    json: bool = False
    """Print JSON lines: audio_filepath, duration, text, and segments with start and end in seconds."""
    timestamps: Annotated[TimestampFormat | None, tyro.conf.arg(metavar="json|srt|vtt|ctm")] = None
    """When each word was said: JSON lines whose segments have words, subtitles, or NIST's CTM."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for a file a recording (NAME.txt, .json, .srt …) instead of standard output."""
    decoding: Annotated[DecodingSettings, tyro.conf.arg(name="")] = field(default_factory=DecodingSettings)

    def __post_init__(self) -> None:
        if not self.audio:
            raise ValueError("audio: name at least one recording or folder")
        if not 1 <= self.max_piece_seconds <= self.max_batch_seconds:
            raise ValueError(
                f"max_piece_seconds must be in [1, max_batch_seconds = {self.max_batch_seconds}], "
                f"got {self.max_piece_seconds}"
            )

        if self.json and self.timestamps not in (None, "json"):
            raise ValueError(f"json: what is written is {self.timestamps} already; give one of both")

    @property
    def format(self) -> OutputFormat:
        """What is written."""
        return self.timestamps or ("json" if self.json else "txt")


@dataclass(frozen=True)
class Segment:
    """A piece of a recording and what was recognised in it."""

    start_seconds: float
    end_seconds: float
    text: str
    words: list[TimedWord] | None = None
    """When each word was said, in the recording's time, where that was asked for."""


@dataclass
class Transcript:
    """What is known of a recording so far; done once it is read to its end and every piece is decoded."""

    path: Path
    duration_seconds: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    problem: str | None = None
    """Why the recording cannot be read; segments before the fault are not worth trusting."""
    note: str | None = None
    is_read: bool = False
    num_waiting: int = 0
    """Pieces that were read but not decoded."""

    @property
    def is_done(self) -> bool:
        """Whether nothing will change any more."""
        return self.is_read and self.num_waiting == 0

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def words(self) -> list[TimedWord]:
        """All timed words."""
        return [word for segment in self.segments for word in segment.words or ()]


@dataclass(frozen=True)
class _Piece:
    transcript: Transcript
    start_seconds: float
    samples: Float[Tensor, "samples"]


def transcribe(
    trained: Transcriber,
    recordings: Iterable[Path | Float[Tensor, "_samples"]],
    *,
    max_piece_seconds: float = 20.0,
    max_batch_seconds: float = 120.0,
    with_words: bool = False,
    on_decoded: Callable[[float], None] = lambda seconds: None,
) -> Iterator[Transcript]:
    """Transcribe recordings, in their order; each comes as soon as its last piece is decoded.

    A recording that cannot be read has a ``problem``; one shorter than a feature window has a ``note``.

    Args:
        trained: The recogniser.
        recordings: Files that libsndfile or ffmpeg reads, or samples at the rate of the features; these have no path.
        max_piece_seconds: Longer recordings are cut, at a quiet place in the last quarter of this time.
        max_batch_seconds: Pieces of a batch times the longest one's duration; bounds memory.
        with_words: Whether segments say when each word was said.
        on_decoded: Called after each batch with the seconds of audio in it.
    """
    waiting: list[Transcript] = []
    for batch in _batches(_pieces(recordings, waiting, max_piece_seconds), max_batch_seconds):
        _decode(trained, batch, with_words=with_words)
        on_decoded(sum(len(piece.samples) for piece in batch) / SAMPLE_RATE_HZ)
        while waiting and waiting[0].is_done:
            yield waiting.pop(0)
    yield from waiting


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd transcribe``; exit status 1 where a recording could not be read."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            Transcribe, prog=PROG, description=_DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        files = find_files(asked.audio, suffixes=(*AUDIO_SUFFIXES, *FFMPEG_SUFFIXES), kind="recording")
        _check_output(asked, files)
        trained = _load(asked)
        with late_progress(lambda: sum(map(_header_seconds, files))) as advance:
            transcripts = transcribe(
                trained,
                files,
                max_piece_seconds=asked.max_piece_seconds,
                max_batch_seconds=asked.max_batch_seconds,
                with_words=asked.timestamps is not None,
                on_decoded=advance,
            )
            num_bad = sum(not _report(one, asked.format, asked.out) for one in transcripts)
        if num_bad:
            sys.exit(1)

    run_command(parse_and_run)


def _load(asked: Transcribe) -> Transcriber:
    """The run's recogniser, or the one in an ONNX file."""
    if asked.run.suffix == ".onnx":
        try:
            from seqdsd.inference.onnx_files import load_exported_recogniser
        except ImportError as error:
            raise ValueError(f"ONNX needs an extra: pip install 'seqdsd[onnx]' ({error})") from error
        return load_exported_recogniser(asked.run, asked.decoding)
    return load_recogniser(asked.run, phase=asked.phase, device=asked.device, decoding=asked.decoding)


def _pieces(
    recordings: Iterable[Path | Float[Tensor, "_samples"]],
    waiting: list[Transcript],
    max_piece_seconds: float,
) -> Iterator[_Piece]:
    """The pieces of all recordings; ``waiting`` gets a transcript for each recording as it is reached."""
    for recording in recordings:
        transcript = Transcript(recording if isinstance(recording, Path) else Path("samples"))
        waiting.append(transcript)
        try:
            blocks = _file_blocks(recording) if isinstance(recording, Path) else [recording]
            yield from _pieces_of(transcript, blocks, max_piece_seconds)
        except (AudioError, OSError) as error:
            transcript.problem = str(error)
        transcript.is_read = True


def _file_blocks(path: Path) -> Iterator[Float[Tensor, "_samples"]]:
    if not path.exists():
        raise AudioError(path, "there is no such file or folder", "Correct the path")
    if printable(str(path)) != str(path):  # it stands in every format that is written
        raise AudioError(path, "control characters, or not UTF-8, in its name", "Rename it")
    return read_blocks(path, sample_rate_hz=SAMPLE_RATE_HZ)


def _pieces_of(
    transcript: Transcript, blocks: Iterable[Float[Tensor, "_samples"]], max_piece_seconds: float
) -> Iterator[_Piece]:
    pieces = split_at_quiet(
        blocks,
        sample_rate_hz=SAMPLE_RATE_HZ,
        max_seconds=max_piece_seconds,
        search_seconds=max_piece_seconds / 4,
    )
    for start_seconds, samples in pieces:
        transcript.duration_seconds = start_seconds + len(samples) / SAMPLE_RATE_HZ
        if len(samples) < WINDOW_SAMPLES:  # only ever a whole recording
            transcript.note = f"{len(samples)} samples are less than one window of {WINDOW_SAMPLES}: no text"
            continue
        transcript.num_waiting += 1
        yield _Piece(transcript, start_seconds, samples)


def _batches(pieces: Iterable[_Piece], max_batch_seconds: float) -> Iterator[list[_Piece]]:
    """Pieces in their order, as many at a time as the budget allows with padding."""
    budget, batch, longest = max_batch_seconds * SAMPLE_RATE_HZ, list[_Piece](), 0
    for piece in pieces:
        longest = max(longest, len(piece.samples))
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch, longest = [], len(piece.samples)
        batch.append(piece)
    if batch:
        yield batch


@torch.inference_mode()
def _decode(trained: Transcriber, batch: Sequence[_Piece], *, with_words: bool) -> None:
    """Add each piece's text to its recording's transcript."""
    waveforms = pad_sequence([piece.samples for piece in batch], batch_first=True).to(trained.device)
    num_samples = torch.tensor([len(piece.samples) for piece in batch])
    log_probs, num_frames = trained.recogniser.log_probs(trained.model, waveforms, num_samples)
    tokens = trained.recogniser.tokens(log_probs, num_frames)
    for piece, ids, rows, length in zip(batch, tokens, log_probs, num_frames.tolist(), strict=True):
        end_seconds = piece.start_seconds + len(piece.samples) / SAMPLE_RATE_HZ
        words = _timed(trained, piece, ids, rows[:length]) if with_words else None
        text = trained.tokenizer.decode(ids)
        piece.transcript.segments.append(Segment(piece.start_seconds, end_seconds, text, words))
        piece.transcript.num_waiting -= 1


def _timed(
    trained: Transcriber, piece: _Piece, tokens: list[int], log_probs: Float[Tensor, "frames vocab"]
) -> list[TimedWord]:
    """When the words of a piece were said, in the recording's time."""
    words = align_words(log_probs, tokens, trained.tokenizer, frame_seconds=trained.frame_seconds)
    return [
        replace(
            word,
            start_seconds=piece.start_seconds + word.start_seconds,
            end_seconds=piece.start_seconds + word.end_seconds,
        )
        for word in words
    ]


def _check_output(asked: Transcribe, files: Sequence[Path]) -> None:
    """Refuse what would end up in one file and cannot."""
    if asked.out is None and asked.timestamps in ("srt", "vtt") and len(files) > 1:
        raise ValueError(f"{len(files)} recordings: subtitles are a file each; name a folder by --out")
    if asked.out is None and asked.format != "ctm":
        return
    by_name: dict[str, Path] = {}
    for path in files:
        if (other := by_name.setdefault(path.stem, path)) != path:
            where = f"{path.stem}.{asked.format} in {asked.out}" if asked.out else f"{path.stem} in the CTM"
            raise ValueError(f"{path} and {other} would both be {where}; give them other names")
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)


def _report(transcript: Transcript, format_: OutputFormat, out: Path | None) -> bool:
    """Write a transcript, or on stderr why there is none; whether there is one."""
    if transcript.problem is not None:
        print(printable(transcript.problem), file=sys.stderr)
        return False
    if transcript.note is not None:
        print(printable(f"{transcript.path}: {transcript.note}"), file=sys.stderr)
    text = _written(transcript, format_)
    if out is not None:
        write_atomically(out / f"{transcript.path.stem}.{format_}", text)
    else:
        print(f"{transcript.path}\t{text}" if format_ == "txt" else text, end="", flush=True)
    return True


def _written(transcript: Transcript, format_: OutputFormat) -> str:
    # Printable: the alphabet, which comes with the network, may be anybody's.
    words = [replace(word, word=printable(word.word)) for word in transcript.words]
    if format_ == "srt":
        return srt(words)
    if format_ == "vtt":
        return vtt(words)
    if format_ == "ctm":
        return ctm(words, transcript.path)
    if format_ == "json":
        return printable_json(_as_object(transcript)) + "\n"
    return printable(transcript.text) + "\n"


def _as_object(transcript: Transcript) -> dict[str, Any]:
    return {
        "audio_filepath": str(transcript.path),
        "duration": round(transcript.duration_seconds, 3),
        "text": transcript.text,
        "segments": [_segment_object(one) for one in transcript.segments],
    }


def _segment_object(segment: Segment) -> dict[str, Any]:
    whole = {
        "start": round(segment.start_seconds, 3),
        "end": round(segment.end_seconds, 3),
        "text": segment.text,
    }
    if segment.words is None:
        return whole
    words = [
        {
            "word": one.word,
            "start": round(one.start_seconds, 3),
            "end": round(one.end_seconds, 3),
            "confidence": round(one.confidence, 3),
        }
        for one in segment.words
    ]
    return {**whole, "words": words}


def _header_seconds(path: Path) -> float:
    try:
        return audio_seconds(path)
    except AudioError:  # said when its turn comes
        return 0.0
