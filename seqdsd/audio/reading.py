"""Audio files to mono float32 tensors at one rate, whole or block by block; every fault names its file.

A file lies on disk, or in memory (``AudioBytes``). Reads what libsndfile reads: wav, flac, ogg, mp3, NIST SPHERE and
more; and m4a, webm and their like through ffmpeg. Leaves out shorten-compressed SPHERE. Manifests and transcripts are
not its business.
"""

import functools
import io
import logging
import math
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import soundfile
import torch
from jaxtyping import Float
from torch import Tensor
from torchaudio.transforms import Resample

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".wv1", ".wv2", ".aiff", ".au")
FFMPEG_SUFFIXES = (".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr")

_SPHERE_HEADER_BYTES = 1024
LENGTH_UNKNOWN = 2**63 - 1  # libsndfile's SF_COUNT_MAX
_MAX_RATIO_TERM = 1000
_logger = logging.getLogger("seqdsd.audio")


@dataclass(frozen=True, slots=True)
class AudioBytes:
    """An audio file in memory."""

    name: str
    """What messages call it."""
    data: bytes

    def __str__(self) -> str:
        return self.name


AudioFile = Path | str | AudioBytes


class AudioError(ValueError):
    """An audio file that cannot be used; the message reads ``PATH: what is wrong. What to do``."""

    def __init__(self, path: AudioFile, what: str, remedy: str) -> None:
        super().__init__(f"{path}: {what}. {remedy}")


@dataclass(frozen=True)
class Waveform:
    """A recording: mono float32 samples, full scale at 1, and the rate the file itself had."""

    samples: Float[Tensor, "samples"]
    sample_rate_hz: int
    original_sample_rate_hz: int


def audio_seconds(path: AudioFile) -> float:
    """Return the length that the file's header states, without decoding.

    Raises:
        AudioError: If the file is missing, empty, not audio, or states no length.
    """
    with _opened(path) as sound:
        return sound.frames / sound.samplerate


def audio_channels(path: AudioFile) -> int:
    """Return the number of channels that the file's header states.

    Raises:
        AudioError: As ``audio_seconds``.
    """
    with _opened(path) as sound:
        return sound.channels


def read_audio(
    path: AudioFile, *, sample_rate_hz: int | None = 16_000, expected_seconds: float | None = None
) -> Waveform:
    """Read a whole file: channels averaged, resampled to ``sample_rate_hz`` (the log says so once per rate).

    Args:
        path: Any file that libsndfile reads, at any rate.
        sample_rate_hz: Rate of the samples returned; None leaves them as recorded.
        expected_seconds: Length that a manifest promises; by default the one that the file's header promises.

    Raises:
        AudioError: If the file is missing, empty, not audio, holds NaN or infinite samples, or is shorter (truncated)
            or longer than promised by more than 0.1 s and more than 2 %.
    """
    with _opened(path) as sound:
        wanted_hz = sample_rate_hz or sound.samplerate
        blocks = _blocks(path, sound, wanted_hz, block_seconds=60.0, promised=expected_seconds)
        return Waveform(torch.cat(list(blocks)), wanted_hz, sound.samplerate)


def read_segment(
    path: AudioFile, *, start_seconds: float, seconds: float, sample_rate_hz: int | None = 16_000
) -> Waveform:
    """Read a part of a longer recording, without decoding the rest where the format lets it be skipped.

    Args:
        path: Any file that libsndfile reads, at any rate.
        start_seconds: Where the part begins.
        seconds: How long it is.
        sample_rate_hz: Rate of the samples returned; None leaves them as recorded.

    Raises:
        AudioError: As ``read_audio``; and if the recording ends more than 0.1 s and 2 % before the part does.
    """
    with _opened(path) as sound:
        rate_hz = sound.samplerate
        first = min(round(start_seconds * rate_hz), sound.frames)
        if sound.format == "MP3":  # whose decoder gives wrong samples after a seek
            sound.read(first, dtype="float32")
        else:
            sound.seek(first)
        samples = torch.from_numpy(sound.read(round(seconds * rate_hz), dtype="float32", always_2d=True))
    mono = samples.mean(dim=1)
    if len(mono) == 0:
        raise AudioError(path, f"ends before {start_seconds:.2f} s", "Correct the segment's start")
    if not mono.sum().isfinite():
        where = start_seconds + int((~mono.isfinite()).nonzero()[0]) / rate_hz
        raise AudioError(path, f"NaN or infinite sample at {where:.3f} s", "Make it again from its source")
    _check_length(path, len(mono) / rate_hz, seconds)
    wanted_hz = sample_rate_hz or rate_hz
    if rate_hz != wanted_hz:
        mono = _resampler(rate_hz, wanted_hz)(mono)
    return Waveform(mono, wanted_hz, rate_hz)


def read_blocks(
    path: AudioFile, *, sample_rate_hz: int = 16_000, block_seconds: float = 10.0
) -> Iterator[Float[Tensor, "_samples"]]:
    """Read a file of any length block by block, in the memory of a few blocks.

    The blocks put together are the samples of ``read_audio``. Their lengths are about ``block_seconds``;
    resampling shifts their borders a little, and the last may be shorter.

    Raises:
        AudioError: As ``read_audio``, but only when the faulty block is reached.
    """
    with _opened(path) as sound:
        yield from _blocks(path, sound, sample_rate_hz, block_seconds=block_seconds)


def encode_flac(waveform: Waveform) -> bytes:
    """A FLAC file of 16 bits: what was read from 16 bits, at the rate of its recording, comes back as it was."""
    # As whole numbers: libsndfile multiplies floats by 32,767 when it writes, but divides by 32,768 when it reads.
    samples = (waveform.samples * 2**15).round().clamp(-(2**15), 2**15 - 1).to(torch.int16)
    data = io.BytesIO()
    soundfile.write(data, samples.numpy(), waveform.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return data.getvalue()


class _Stream(soundfile.SoundFile):
    """A sound file that is only ever read forwards.

    soundfile seeks after every read of a seekable file, and a seek within an mp3 restarts its decoder with
    wrong samples (``test_blocks_are_the_whole_file`` fails without this class).
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _opened(path: AudioFile) -> Iterator[_Stream]:
    """Open for decoding; what libsndfile refuses, here or within the block, becomes an AudioError."""
    path = path if isinstance(path, AudioBytes) else Path(path)
    if isinstance(path, Path) and not path.is_file():
        raise AudioError(path, "there is no such file", "Paths in a manifest are relative to the manifest")
    if _num_bytes(path) == 0:
        raise AudioError(path, "the file is empty (0 bytes)", "Copy or convert it again")
    if isinstance(path, Path) and path.suffix.lower() in FFMPEG_SUFFIXES:
        from seqdsd.audio.ffmpeg import decode  # which needs this module

        path = AudioBytes(str(path), decode(path))
    try:
        with _Stream(path if isinstance(path, Path) else io.BytesIO(path.data)) as sound:
            if sound.frames == LENGTH_UNKNOWN:
                raise AudioError(path, "its header states no length", "Encode it again, not through a pipe")
            yield sound
    except soundfile.LibsndfileError as error:
        raise _refusal(path, error.error_string) from error


def _num_bytes(path: Path | AudioBytes) -> int:
    return len(path.data) if isinstance(path, AudioBytes) else path.stat().st_size


def _refusal(path: Path | AudioBytes, reason: str) -> AudioError:
    with io.BytesIO(path.data) if isinstance(path, AudioBytes) else path.open("rb") as file:
        header = file.read(_SPHERE_HEADER_BYTES)
    if header.startswith(b"NIST_1A") and b"shorten" in header:
        return AudioError(path, "SPHERE compressed with shorten", "Unpack it: sph2pipe -f wav IN OUT")
    reason = reason.removeprefix("Error : ").rstrip(".")
    return AudioError(
        path, f"not audio, or damaged ({reason})", "Copy it again, or convert it to wav or flac"
    )


def _blocks(
    path: AudioFile,
    sound: _Stream,
    sample_rate_hz: int,
    *,
    block_seconds: float,
    promised: float | None = None,
) -> Iterator[Float[Tensor, "_samples"]]:
    blocks = _decoded_blocks(path, sound, block_seconds=block_seconds, promised=promised)
    if sound.samplerate == sample_rate_hz:
        return blocks
    return _resampled_blocks(blocks, _resampler(sound.samplerate, sample_rate_hz))


def _decoded_blocks(
    path: AudioFile, sound: _Stream, *, block_seconds: float, promised: float | None
) -> Iterator[Float[Tensor, "_samples"]]:
    """Yield mono blocks at the file's own rate, checking samples as they come and the length at the end."""
    rate_hz, num_samples = sound.samplerate, 0
    # soundfile makes room for all it is asked for: a whole minute for a short file took most of the reading time.
    block_samples = max(1, min(round(block_seconds * rate_hz), sound.frames))
    longest = math.inf if promised is None else promised + _tolerance(promised)
    while len(block := sound.read(block_samples, dtype="float32", always_2d=True)):
        samples = torch.from_numpy(block)
        mono = samples[:, 0] if sound.channels == 1 else samples.mean(dim=1)
        if not mono.sum().isfinite():
            first = int((~mono.isfinite()).nonzero()[0]) + num_samples
            raise AudioError(
                path, f"NaN or infinite sample at {first / rate_hz:.3f} s", "Make it again from its source"
            )
        num_samples += len(mono)
        if num_samples / rate_hz > longest:
            raise AudioError(
                path, f"longer than the {promised:.2f} s promised", "Correct the manifest's duration"
            )
        yield mono
    _check_length(path, num_samples / rate_hz, sound.frames / rate_hz if promised is None else promised)


def _tolerance(promised: float) -> float:
    """Seconds by which a file may miss the length promised: manifests round."""
    return max(0.1, 0.02 * promised)


def _check_length(path: AudioFile, seconds: float, promised: float) -> None:
    if seconds == 0:
        raise AudioError(path, "the file holds no samples", "Copy or convert it again")
    if promised - seconds > _tolerance(promised):
        raise AudioError(
            path,
            f"truncated: {seconds:.2f} s of the {promised:.2f} s promised",
            "Copy it again, or correct the manifest's duration",
        )


@functools.cache
def _resampler(original_hz: int, wanted_hz: int) -> Resample:
    """Build the resampling kernel once per rate, and say so once, but not from a data loader's worker."""
    if multiprocessing.parent_process() is None:
        _logger.warning("resampling audio from %d Hz to %d Hz", original_hz, wanted_hz)
    # The kernel grows with both terms of the ratio: 48 001 : 16 000 as it stands would fill gigabytes. The
    # nearest ratio of small terms is at most 0.05 % off, and exact for all rates in use.
    ratio = Fraction(original_hz, wanted_hz).limit_denominator(_MAX_RATIO_TERM)
    return Resample(ratio.numerator, ratio.denominator)


def _resampled_blocks(
    blocks: Iterator[Float[Tensor, "_samples"]], resample: Resample
) -> Iterator[Float[Tensor, "_samples"]]:
    """Resample a stream as if it were whole: each stretch is resampled with its neighbours on both sides.

    Stretches start at multiples of ``resample.orig_freq``, so the filter's phases fall as in the whole file.
    """
    step_in, step_out = resample.orig_freq, resample.new_freq
    context = 0 if step_in == step_out else -(-resample.width // step_in) * step_in
    held, lead = torch.empty(0), 0  # samples not yet done with; the first ``lead`` are context only
    for block in blocks:
        held = torch.cat([held, block])
        ready = (held.numel() - lead - context) // step_in * step_in
        if ready <= 0:
            continue
        done = lead + ready
        yield resample(held)[lead // step_in * step_out : done // step_in * step_out]
        lead = min(context, done)
        held = held[done - lead :]
    yield resample(held)[lead // step_in * step_out :]
