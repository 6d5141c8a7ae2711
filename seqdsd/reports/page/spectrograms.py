"""Pictures of utterances for a page: mel spectrograms as small PNGs, and when each word was said, where that is known.

Leaves out drawing the words, which is the page's, and finding their times: ``seqdsd transcribe --timestamps ctm`` does.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from seqdsd.records import RunFolder, RunFolderError
from seqdsd.reports.page.media import data_uri

WORDS_FILE = "words.ctm"
"""Of a run folder: what ``seqdsd transcribe RUN RECORDINGS --timestamps ctm`` prints."""

TimedWords = list[tuple[str, float, float]]
"""Words with start and end in seconds."""

_MAX_COLUMNS = 480
_NUM_MELS = 64
_TOP_HZ = 8000
_SECONDS = (0.1, 60.0)
_WINDOW_SECONDS, _HOP_SECONDS = 0.025, 0.01
_RANGE_DB, _LEVELS = 60, 16
# One ink, from invisible to opaque, so that the page's own paper shows through by day and by night.
_INK = (70, 120, 190)
_OPACITIES = bytes(255 * level // (_LEVELS - 1) for level in range(_LEVELS))


def spectrogram_uri(path: Path) -> str:
    """A recording's log-mel spectrogram, low frequencies at the bottom: a PNG of some 10 kB.

    Raises:
        ValueError: If it cannot be read, is silent, or lasts less than 0.1 s or more than a minute, of which no picture
            of this size shows a word.
    """
    try:
        with soundfile.SoundFile(path) as sound:
            if not _SECONDS[0] <= sound.frames / sound.samplerate <= _SECONDS[1]:
                raise ValueError(f"{path}: too short or too long for a picture")
            rate_hz = sound.samplerate
            samples = sound.read(dtype="float32", always_2d=True).mean(axis=1)
    except (OSError, soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(f"{path}: cannot be read as a recording ({error})") from error
    if not np.isfinite(samples).all() or not samples.any():
        raise ValueError(f"{path}: nothing to draw")
    data = io.BytesIO()
    _picture(samples, rate_hz).save(data, "PNG", optimize=True, bits=4, transparency=_OPACITIES)
    return data_uri(data.getvalue(), "image/png")


def audio_duration(path: Path) -> float:
    """Seconds of a recording whose picture was drawn: what its words' times are shares of."""
    return float(soundfile.info(path).duration)


def read_words(folder: RunFolder) -> dict[str, TimedWords]:
    """The words of ``words.ctm`` by the stem of their recording's name; nothing where the run has no such file.

    Raises:
        RunFolderError: If a line is damaged (it is named).
    """
    path = folder.path / WORDS_FILE
    words: dict[str, TimedWords] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n") if path.is_file() else (), start=1):
        try:
            if not (fields := line.decode("utf-8").split()):
                continue
            name, _, start, seconds, word = fields[:5]
            timed = (word, float(start), float(start) + float(seconds))
            if not 0 <= timed[1] <= timed[2] < math.inf:
                raise ValueError(f"from {start} for {seconds} s")
        except ValueError as error:
            raise RunFolderError(
                f"{path}:{number}: not NAME 1 START SECONDS WORD; make it again by seqdsd transcribe --timestamps ctm"
            ) from error
        words.setdefault(name, []).append(timed)
    return words


def words_of(path: Path, words: dict[str, TimedWords]) -> TimedWords:
    """Those of a recording; CTM files have no spaces in names."""
    return words.get(path.stem.replace(" ", "_"), [])


def _picture(samples: np.ndarray, rate_hz: int) -> Image.Image:
    from scipy.signal import ShortTimeFFT, get_window  # half a second, for reports with recordings

    hop = max(round(_HOP_SECONDS * rate_hz), -(-len(samples) // _MAX_COLUMNS))
    window = round(_WINDOW_SECONDS * rate_hz)
    fourier = ShortTimeFFT(
        get_window("hann", window),
        hop,
        rate_hz,
        mfft=1 << (max(window, rate_hz // 16, 256) - 1).bit_length(),  # fine enough for the lowest mel bands
    )
    bands = _mel_bands(fourier.spectrogram(samples, p0=0, p1=len(samples) // hop + 1), fourier.f)
    decibels = 10 * np.log10(np.maximum(bands, bands.max() / 10 ** (_RANGE_DB / 10)) / bands.max())
    levels = np.rint((decibels / _RANGE_DB + 1) * (_LEVELS - 1)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels[::-1]), "P")
    image.putpalette(_INK * _LEVELS)
    return image


def _mel_bands(power: np.ndarray, hz: np.ndarray) -> np.ndarray:
    """The mean power of bands of one width on the mel scale, lowest first; ``hz`` are the bins' frequencies."""
    highest = 2595 * np.log10(1 + min(_TOP_HZ, hz[-1]) / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, _NUM_MELS + 1) / 2595) - 1)
    bins = np.searchsorted(hz, edges)
    return np.add.reduceat(power[: bins[-1]], bins[:-1]) / np.diff(bins)[:, None]
