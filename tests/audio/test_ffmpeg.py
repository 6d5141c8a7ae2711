"""Formats that libsndfile lacks, made and read by an installed ffmpeg."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from seqdsd.audio import AudioError, audio_seconds, read_audio, read_blocks, read_segment

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.fixture
def tone(tmp_path) -> np.ndarray:
    """Two seconds: silence, then a tone on the left channel alone."""
    samples = np.zeros((44_100 * 2, 2))
    samples[44_100:, 0] = 0.4 * np.sin(np.arange(44_100) * 0.1)
    soundfile.write(tmp_path / "tone.wav", samples, 44_100)
    return samples


def converted(folder: Path, suffix: str) -> Path:
    path = folder / f"tone{suffix}"
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", folder / "tone.wav", path], check=True)
    return path


@needs_ffmpeg
@pytest.mark.parametrize("suffix", [".m4a", ".aac", ".webm", ".mp4"])
def test_what_ffmpeg_decodes_is_read(tmp_path, tone, suffix):
    path = converted(tmp_path, suffix)
    assert audio_seconds(path) == pytest.approx(2, abs=0.1)
    waveform = read_audio(path)
    expected = read_audio(tmp_path / "tone.wav").samples
    assert waveform.original_sample_rate_hz in (44_100, 48_000) and waveform.sample_rate_hz == 16_000
    loudness, original = (
        torch.stack([half.square().mean().sqrt() for half in one[:31_000].split(15_500)])
        for one in (waveform.samples, expected)
    )
    assert loudness[0] < 0.02 < loudness[1] == pytest.approx(float(original[1]), rel=0.1)
    blocks = torch.cat(list(read_blocks(path, block_seconds=0.5)))
    torch.testing.assert_close(blocks, waveform.samples, rtol=0, atol=1e-5)
    part = read_segment(path, start_seconds=1.2, seconds=0.5).samples
    assert len(part) == 8_000 and part.square().mean().sqrt() == pytest.approx(float(original[1]), rel=0.1)


@needs_ffmpeg
def test_what_is_no_audio_is_named(tmp_path, tone):
    path = converted(tmp_path, ".m4a")
    (tmp_path / "text.m4a").write_text("not audio" * 99)
    (tmp_path / "cut.m4a").write_bytes(path.read_bytes()[:5_000])
    for name in ("text", "cut"):
        with pytest.raises(AudioError, match=rf"{name}\.m4a: not audio, or damaged"):
            read_audio(tmp_path / f"{name}.m4a")


@needs_ffmpeg
def test_a_truncated_recording_is_named(tmp_path, tone):
    path = converted(tmp_path, ".webm")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(AudioError, match=r"tone\.webm: truncated: \d\.\d\d s of the 2\.\d\d s promised"):
        read_audio(path)


def test_without_ffmpeg_the_remedy_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"x")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        AudioError, match=r"a\.m4a: \.m4a files are decoded by ffmpeg.* Install ffmpeg, or convert"
    ):
        read_audio(tmp_path / "a.m4a")
