"""Recordings in formats that libsndfile lacks (m4a, aac, webm …), decoded by an installed ffmpeg through audioread.

They are decoded whole into memory, as FLAC of 16 bits and one channel: an hour takes some 100 MB.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from seqdsd.audio.reading import AudioError

_GUESSED = (".aac", ".amr")
"""Streams without a header that states a length: ffmpeg guesses one from the bit rate."""


def decode(path: Path) -> bytes:
    """Decode a recording to a FLAC file at its own rate, channels averaged.

    Raises:
        AudioError: If there is no ffmpeg, it finds no audio in the file, or finds less than the file's header promises
            by more than 0.1 s and more than 2 %.
    """
    # Not audioread's own choice of backends: looking for them imports modules that the standard library deprecates.
    from audioread import ffdec
    from audioread.exceptions import DecodeError

    data = io.BytesIO()
    num_samples = 0
    try:
        with ffdec.FFmpegAudioFile(str(path.absolute())) as sound:
            if not sound.samplerate or not sound.channels:
                raise DecodeError
            with soundfile.SoundFile(data, "w", sound.samplerate, 1, "PCM_16", format="FLAC") as flac:
                for mono in _mono_blocks(sound):
                    flac.write(mono)
                    num_samples += len(mono)
            seconds, promised = num_samples / sound.samplerate, sound.duration
    except ffdec.NotInstalledError as error:
        raise AudioError(
            path,
            f"{path.suffix} files are decoded by ffmpeg, which is not here",
            "Install ffmpeg, or convert the file to wav or flac",
        ) from error
    except (DecodeError, OSError) as error:
        raise AudioError(
            path, "not audio, or damaged (ffmpeg)", "Copy it again, or convert it to wav or flac"
        ) from error
    if path.suffix.lower() not in _GUESSED and promised - seconds > max(0.1, 0.02 * promised):
        raise AudioError(
            path, f"truncated: {seconds:.2f} s of the {promised:.2f} s promised", "Copy it again"
        )
    return data.getvalue()


def _mono_blocks(sound: Any) -> Iterator[np.ndarray]:
    """Blocks of 16-bit samples; what ffmpeg hands over may end within one."""
    held, frame_bytes = b"", 2 * sound.channels
    for block in sound:
        held += block
        whole = len(held) // frame_bytes * frame_bytes
        frames = np.frombuffer(held[:whole], "<i2").reshape(-1, sound.channels)
        held = held[whole:]
        yield frames.mean(axis=1).round().astype(np.int16)
