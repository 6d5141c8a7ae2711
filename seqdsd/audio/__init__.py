"""Sound in: reading and cutting files, and turning batches of samples into a model's features.

Batches are padded, so every function here takes or returns valid lengths beside the samples or frames.
"""

from seqdsd.audio.augment import SpecAugment, pitch_shift, speed_perturb, time_stretch
from seqdsd.audio.features import LogSpectrogram
from seqdsd.audio.reading import (
    AUDIO_SUFFIXES,
    FFMPEG_SUFFIXES,
    AudioBytes,
    AudioError,
    AudioFile,
    Waveform,
    audio_channels,
    audio_rate_hz,
    audio_seconds,
    encode_flac,
    encode_flac_samples,
    read_audio,
    read_blocks,
    read_segment,
)
from seqdsd.audio.segments import split_at_quiet

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioBytes",
    "AudioError",
    "AudioFile",
    "FFMPEG_SUFFIXES",
    "LogSpectrogram",
    "SpecAugment",
    "Waveform",
    "audio_channels",
    "audio_rate_hz",
    "audio_seconds",
    "encode_flac",
    "encode_flac_samples",
    "pitch_shift",
    "read_audio",
    "read_blocks",
    "read_segment",
    "speed_perturb",
    "split_at_quiet",
    "time_stretch",
]
