"""Audio files to mono float32 tensors at one rate, whole or block by block; every fault names its file.

A file lies on disk, or in memory (``AudioBytes``). Reads what libsndfile reads: wav, flac, ogg, mp3, NIST SPHERE and
more; and m4a, webm and their like through ffmpeg. Leaves out shorten-compressed SPHERE. Manifests and transcripts are
not its business.
"""

import functools
import io
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import get_worker_info
from torchaudio.transforms import Resample

from seqdsd.audio.containers import is_unfinished_ogg, missing_share

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".wv1", ".wv2", ".aiff", ".au")
FFMPEG_SUFFIXES = (".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr")

_SPHERE_HEADER_BYTES = 1024
_LENGTH_UNKNOWN = 2**63 - 1  # libsndfile's SF_COUNT_MAX
_RATES_HZ = (1_000, 1_000_000)  # the lowest and the highest in use are 4,000 and 768,000
_MAX_SECONDS = 1e6
_MAX_SAMPLES_AT_ONCE = 2**30  # 4 GB: 18 hours at 16 kHz
_MAX_BLOCK_VALUES = 2**23  # samples of all channels
_LOUDEST = 2.0**31  # full scale is 1, but floats that were 32-bit whole numbers are met with
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
    """Return the length that the file's header states; no more is decoded than FLAC's last sample.

    Raises:
        AudioError: If the file is missing, empty, not audio, holds no samples, states no length, was cut short, or
            states a rate outside 1 kHz to 1 MHz or a length above 10^6 s.
    """
    with _opened(path) as sound:
        _check_whole(sound)
        # FLAC's header does not tell where the file ends.
        if sound.format == "FLAC" and not _has_last_sample(sound.audio):
            raise _cut_short(path)
        return sound.frames / sound.samplerate


def audio_channels(path: AudioFile) -> int:
    """Return the number of channels that the file's header states.

    Raises:
        AudioError: If the file is missing, empty or not audio.
    """
    with _opened(path) as sound:
        return sound.channels


def audio_rate_hz(path: AudioFile) -> int:
    """Return the sample rate that the file's header states.

    Raises:
        AudioError: If the file is missing, empty or not audio.
    """
    with _opened(path) as sound:
        return sound.samplerate


def read_audio(
    path: AudioFile, *, sample_rate_hz: int | None = 16_000, expected_seconds: float | None = None
) -> Waveform:
    """Read a whole file: channels averaged, resampled to ``sample_rate_hz`` (the log says so once per rate).

    Args:
        path: Any file that libsndfile reads, at any rate.
        sample_rate_hz: Rate of the samples returned; None leaves them as recorded.
        expected_seconds: Length that a manifest promises; by default the one that the file's header promises.

    Raises:
        AudioError: As ``audio_seconds``; and if the file holds samples that are not finite or above 2^31, or is shorter
            (truncated) or longer than promised by more than 0.1 s and more than 2 %, or too long for the memory.
    """
    with _opened(path) as sound:
        _check_whole(sound)
        wanted_hz = sample_rate_hz or sound.samplerate
        seconds = sound.frames / sound.samplerate if expected_seconds is None else expected_seconds
        _check_room(path, seconds, max(wanted_hz, sound.samplerate))
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
        AudioError: As ``read_audio``; and if the recording ends more than 0.1 s and 2 % before the part does. A
            recording that was cut short further on is none of its business.
    """
    with _opened(path) as sound:
        rate_hz = sound.samplerate
        first, num_samples = round(start_seconds * rate_hz), round(seconds * rate_hz)
        there = sound.frames - first
        if there <= 0:
            raise AudioError(path, f"ends before {start_seconds:.2f} s", "Correct the segment's start")
        _check_length(path, min(there, num_samples) / rate_hz, seconds)
        _check_room(path, seconds, max(rate_hz, sample_rate_hz or 0))
        _skip(sound, first)
        blocks = list(_mono_blocks(path, sound, first=first, num_samples=num_samples))
    mono = torch.cat(blocks) if blocks else torch.empty(0)
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
        _check_whole(sound)
        yield from _blocks(path, sound, sample_rate_hz, block_seconds=block_seconds)


def encode_flac(waveform: Waveform) -> bytes:
    """A FLAC file of 16 bits: what was read from 16 bits, at the rate of its recording, comes back as it was."""
    # As whole numbers: libsndfile multiplies floats by 32,767 when it writes, but divides by 32,768 when it reads.
    samples = (waveform.samples * 2**15).round().clamp(-(2**15), 2**15 - 1).to(torch.int16)
    return encode_flac_samples(samples.numpy(), waveform.sample_rate_hz)


def encode_flac_samples(samples: NDArray[np.int16], sample_rate_hz: int) -> bytes:
    """A FLAC file of 16 bits, of samples [samples]."""
    data = io.BytesIO()
    soundfile.write(data, samples, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return data.getvalue()


class _Stream(soundfile.SoundFile):
    """A sound file that is only ever read forwards.

    soundfile seeks after every read of a seekable file, and a seek within an mp3 restarts its decoder with
    wrong samples (``test_blocks_are_the_whole_file`` fails without this class).
    """

    audio: AudioFile
    """What is read: of a file that ffmpeg decodes, what it has made of it."""

    def seekable(self) -> bool:
        return False


class _Memory(io.BytesIO):
    """Stays where it is when a damaged header sends it to nowhere: soundfile would print a traceback."""

    def seek(self, offset: int, whence: int = 0) -> int:
        with suppress(ValueError, OverflowError):
            super().seek(offset, whence)
        return self.tell()


@contextmanager
def _opened(path: AudioFile) -> Iterator[_Stream]:
    """Open for decoding; what libsndfile refuses, here or within the block, becomes an AudioError."""
    path = path if isinstance(path, AudioBytes) else Path(path)
    if isinstance(path, Path) and not os.path.isfile(path):
        raise AudioError(path, "there is no such file", "Paths in a manifest are relative to the manifest")
    if _num_bytes(path) == 0:
        raise AudioError(path, "the file is empty (0 bytes)", "Copy or convert it again")
    if isinstance(path, Path) and path.suffix.lower() in FFMPEG_SUFFIXES:
        from seqdsd.audio.ffmpeg import decode  # which needs this module

        path = AudioBytes(str(path), decode(path))
    try:
        with _Stream(_source(path)) as sound:
            sound.audio = path
            _check_header(path, sound)
            yield sound
    except soundfile.LibsndfileError as error:
        raise _refusal(path, error.error_string) from error


def _source(path: AudioFile) -> bytes | io.BytesIO:
    """What soundfile opens; it would refuse a name that is not UTF-8."""
    return _Memory(path.data) if isinstance(path, AudioBytes) else os.fsencode(path)


def _bytes_of(path: AudioFile) -> io.BufferedIOBase:
    return io.BytesIO(path.data) if isinstance(path, AudioBytes) else open(path, "rb")


def _num_bytes(path: Path | AudioBytes) -> int:
    return len(path.data) if isinstance(path, AudioBytes) else path.stat().st_size


def _check_header(path: AudioFile, sound: _Stream) -> None:
    """Refuse what memory or time would be asked for on a damaged header's word."""
    if sound.format == "NIST" and _is_shortened(path):  # libsndfile may take it for noise
        raise _shortened(path)
    lowest, highest = _RATES_HZ
    if not lowest <= sound.samplerate <= highest:
        raise AudioError(
            path,
            f"its header states {sound.samplerate:,} Hz, outside {lowest:,} to {highest:,}",
            "Copy it again, or correct its header",
        )
    if sound.frames == _LENGTH_UNKNOWN:
        raise AudioError(path, "its header states no length", "Encode it again, not through a pipe")
    if sound.frames / sound.samplerate > _MAX_SECONDS:
        raise AudioError(
            path,
            f"its header states {sound.frames / sound.samplerate:.3g} s, more than {_MAX_SECONDS:,.0f}",
            "Copy it again, or correct its header",
        )


def _check_whole(sound: _Stream) -> None:
    """Refuse a file that ends before its container says: libsndfile counts what is there and says nothing."""
    path = sound.audio
    with _bytes_of(path) as file:
        if is_unfinished_ogg(file):
            raise _cut_short(path)
        missing = missing_share(file)
    if missing and (missing == 1 or sound.frames == 0):
        raise _cut_short(path)
    seconds = sound.frames / sound.samplerate
    _check_length(path, seconds, seconds / (1 - missing))


def _has_last_sample(path: AudioFile) -> bool:
    try:
        with _Stream(_source(path)) as sound:
            sound.seek(sound.frames - 1)
            return len(sound.read(1)) == 1
    except soundfile.LibsndfileError:
        return False


def _check_room(path: AudioFile, seconds: float, rate_hz: int) -> None:
    if seconds * rate_hz > _MAX_SAMPLES_AT_ONCE:
        raise AudioError(
            path,
            f"{seconds:,.0f} s at {rate_hz:,} Hz are too much to hold at once",
            f"Cut it into parts of at most {_MAX_SAMPLES_AT_ONCE // rate_hz:,} s",
        )


def _is_shortened(path: AudioFile) -> bool:
    with _bytes_of(path) as file:
        header = file.read(_SPHERE_HEADER_BYTES)
    return header.startswith(b"NIST_1A") and b"shorten" in header


def _shortened(path: AudioFile) -> AudioError:
    return AudioError(path, "SPHERE compressed with shorten", "Unpack it: sph2pipe -f wav IN OUT")


def _cut_short(path: AudioFile) -> AudioError:
    return AudioError(path, "truncated: the file ends before its last sample", "Copy or convert it again")


def _refusal(path: Path | AudioBytes, reason: str) -> AudioError:
    if _is_shortened(path):
        return _shortened(path)
    with _bytes_of(path) as file:
        is_flac = file.read(4) == b"fLaC"
        is_cut = is_unfinished_ogg(file) or missing_share(file) > 0
    if is_cut or (is_flac and not _has_last_sample(path)):
        return _cut_short(path)
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
    seconds = sound.frames / rate_hz if promised is None else promised
    for mono in _mono_blocks(path, sound, block_samples=round(block_seconds * rate_hz)):
        num_samples += len(mono)
        if num_samples / rate_hz > seconds + _tolerance(seconds):
            raise AudioError(
                path, f"longer than the {seconds:.2f} s promised", "Correct the manifest's duration"
            )
        yield mono
    _check_length(path, num_samples / rate_hz, seconds)


def _mono_blocks(
    path: AudioFile,
    sound: _Stream,
    *,
    first: int = 0,
    num_samples: int | None = None,
    block_samples: int = _MAX_BLOCK_VALUES,
) -> Iterator[Float[Tensor, "_samples"]]:
    """Yield ``num_samples`` (or all) from the next on, which has the number ``first``; channels are averaged."""
    left = sound.frames - first if num_samples is None else num_samples
    # soundfile makes room for all it is asked for: a whole minute for a short file took most of the reading time.
    at_once = max(1, min(block_samples, left, _MAX_BLOCK_VALUES // sound.channels))
    while left > 0 and len(block := sound.read(min(at_once, left), dtype="float32", always_2d=True)):
        samples = torch.from_numpy(block)
        mono = samples[:, 0] if sound.channels == 1 else samples.mean(dim=1)
        lowest, highest = (float(one) for one in mono.aminmax())
        if not (lowest >= -_LOUDEST and highest <= _LOUDEST):  # both false for NaN
            raise _bad_sample(path, mono, first, sound.samplerate)
        first, left = first + len(mono), left - len(mono)
        yield mono


def _bad_sample(
    path: AudioFile, mono: Float[Tensor, "samples"], first: int, sample_rate_hz: int
) -> AudioError:
    index = int((~(mono.abs() <= _LOUDEST)).nonzero()[0])
    value = float(mono[index])
    what = f"a sample of {value:.1e}" if math.isfinite(value) else "NaN or infinite sample"
    return AudioError(
        path, f"{what} at {(first + index) / sample_rate_hz:.3f} s", "Make it again from its source"
    )


def _skip(sound: _Stream, num_samples: int) -> None:
    """Go forwards, without decoding where the format's decoder can do that."""
    if sound.format != "MP3":
        sound.seek(num_samples)
        return
    at_once = _MAX_BLOCK_VALUES // sound.channels
    for skipped in range(0, num_samples, at_once):  # a seek gives wrong samples after it
        sound.read(min(at_once, num_samples - skipped), dtype="float32")


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
    if get_worker_info() is None:
        _logger.warning("resampling audio from %d Hz to %d Hz", original_hz, wanted_hz)
    # The kernel grows with both terms of the ratio: 48 001 : 16 000 as it stands would fill gigabytes. The
    # nearest ratio of small terms is at most 0.1 % off, and exact for all rates in use.
    largest = max(1, _MAX_RATIO_TERM * wanted_hz // max(original_hz, wanted_hz))
    ratio = Fraction(original_hz, wanted_hz).limit_denominator(largest)
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
