"""Reading against soundfile's own whole-file read and torchaudio's whole-file resampling."""

import csv
import io
import logging
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional

from seqdsd.audio import (
    AudioBytes,
    AudioError,
    Waveform,
    audio_seconds,
    encode_flac,
    read_audio,
    read_blocks,
    read_segment,
)
from seqdsd.audio.reading import _resampler

FORMATS = {
    "tone.wav": {},
    "tone24.wav": {"subtype": "PCM_24"},
    "tone.flac": {},
    "tone.ogg": {},
    "tone.opus": {"format": "OGG", "subtype": "OPUS"},
    "tone.mp3": {},
    "tone.sph": {"format": "NIST"},
    "ulaw.sph": {"format": "NIST", "subtype": "ULAW"},
    "tone.aiff": {},
    "tone.au": {},
}
DATA = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[2] / "../shared/data"))


def tone(seconds: float = 1.5, rate_hz: int = 16_000, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def write(path: Path, samples: np.ndarray, rate_hz: int = 16_000, **options: str) -> Path:
    soundfile.write(path, samples, rate_hz, **options)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_tone_back(tmp_path, name):
    path = write(tmp_path / name, tone(), **FORMATS[name])
    waveform = read_audio(path)
    assert waveform.samples.dtype == torch.float32
    assert (waveform.sample_rate_hz, waveform.original_sample_rate_hz) == (16_000, 16_000)
    assert audio_seconds(path) == pytest.approx(1.5)
    middle = slice(8000, 16_000)  # lossy codecs ring at the edges
    # Vorbis and mp3 at their default quality stay within 0.02 of this tone.
    np.testing.assert_allclose(waveform.samples[middle].numpy(), tone()[middle], atol=0.02)


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_resampling_agrees_with_torchaudio_on_the_whole_file(tmp_path, rate_hz, suffix):
    path = write(tmp_path / f"tone.{suffix}", tone(1.2, rate_hz), rate_hz)
    raw = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    waveform = read_audio(path)
    expected = torchaudio.functional.resample(raw, rate_hz, 16_000)
    assert waveform.original_sample_rate_hz == rate_hz
    torch.testing.assert_close(waveform.samples, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("wanted_hz", [16_000, 11_025])
@pytest.mark.parametrize("block_seconds", [0.003, 0.37, 1.5, 10.0])
def test_blocks_are_the_whole_file(tmp_path, name, wanted_hz, block_seconds):
    path = write(tmp_path / name, tone(hertz=300.0), **FORMATS[name])
    raw = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    blocks = list(read_blocks(path, sample_rate_hz=wanted_hz, block_seconds=block_seconds))
    if block_seconds < 1:
        assert len(blocks) > 2
        assert max(map(len, blocks)) <= (block_seconds + 0.2) * wanted_hz
    expected = torchaudio.functional.resample(raw, 16_000, wanted_hz)
    torch.testing.assert_close(torch.cat(blocks), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_in_memory_is_read_as_on_disk(tmp_path, name):
    path = write(tmp_path / name, tone(1.0, 11_025), 11_025, **FORMATS[name]) if "opus" not in name else None
    path = path or write(tmp_path / name, tone(), **FORMATS[name])
    audio = AudioBytes("a shard: member one", path.read_bytes())
    assert torch.equal(read_audio(audio).samples, read_audio(path).samples)
    assert audio_seconds(audio) == audio_seconds(path)
    part = {"start_seconds": 0.25, "seconds": 0.5}
    assert torch.equal(read_segment(audio, **part).samples, read_segment(path, **part).samples)


def test_bad_files_in_memory_are_called_by_their_name(tmp_path):
    half = write(tmp_path / "tone.flac", tone()).read_bytes()[:3000]
    cases = {
        b"": "0 bytes",
        b"no audio" * 99: "not audio",
        b"NIST_1A shorten" * 9: "shorten",
        half: "trunc|damaged",
    }
    for data, what in cases.items():
        with pytest.raises(AudioError, match=rf"^a shard: member one: .*({what}).*\. \w"):
            read_audio(AudioBytes("a shard: member one", data))


@pytest.mark.parametrize("rate_hz", [8000, 16_000])
def test_sixteen_bits_come_back_from_flac_as_they_were(tmp_path, rate_hz):
    """Every value that 16 bits can have, the loudest included."""
    samples = np.arange(-(2**15), 2**15).astype(np.int16)
    path = write(tmp_path / "all.wav", samples, rate_hz)
    data = encode_flac(read_audio(path, sample_rate_hz=None))
    again, again_hz = soundfile.read(io.BytesIO(data), dtype="int16")
    assert again_hz == rate_hz and np.array_equal(again, samples)
    part = read_segment(path, start_seconds=0.5, seconds=0.25, sample_rate_hz=None)
    assert part.sample_rate_hz == rate_hz and len(part.samples) == rate_hz / 4


def test_what_is_too_loud_for_flac_is_clipped():
    loud = Waveform(torch.tensor([-1.5, 0.0, 1.0, 1.5]), 16_000, 16_000)
    samples, _ = soundfile.read(io.BytesIO(encode_flac(loud)), dtype="int16")
    assert samples.tolist() == [-(2**15), 0, 2**15 - 1, 2**15 - 1]


def test_odd_rate_needs_no_giant_kernel(tmp_path):
    path = write(tmp_path / "odd.wav", tone(1.0, 16_001), 16_001)
    assert read_audio(path).samples.numel() == pytest.approx(16_000, rel=1e-3)
    assert _resampler(16_001, 16_000).orig_freq < 2000


def test_channels_are_averaged(tmp_path):
    left, right = tone(0.5), tone(0.5, hertz=1000.0)
    path = write(tmp_path / "two.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path).samples.numpy(), (left + right) / 2, atol=1e-6)


def test_resampling_is_said_once(tmp_path, caplog):
    _resampler.cache_clear()
    paths = [write(tmp_path / f"{i}.wav", tone(0.2, 12_000), 12_000) for i in range(3)]
    with caplog.at_level(logging.INFO, "seqdsd.audio"):
        for path in paths:
            read_audio(path)
    assert [record.getMessage() for record in caplog.records] == [
        "resampling audio from 12000 Hz to 16000 Hz"
    ]


@pytest.mark.parametrize("read", [read_audio, audio_seconds, lambda path: list(read_blocks(path))])
def test_missing_empty_and_other_files_are_named(tmp_path, read):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not audio\n" * 100)
    cases = {"missing.wav": "no such file", "empty.wav": "0 bytes", "text.wav": "not audio"}
    for name, reason in cases.items():
        with pytest.raises(AudioError, match=rf"{name}: .*{reason}.*\. \w+"):
            read(tmp_path / name)


def test_a_directory_is_not_audio(tmp_path):
    with pytest.raises(AudioError, match="no such file"):
        read_audio(tmp_path)


@pytest.mark.parametrize("rate_hz", [16_000, 8000])
def test_no_samples(tmp_path, rate_hz):
    path = write(tmp_path / "none.wav", tone(0), rate_hz)
    with pytest.raises(AudioError, match=r"none\.wav: .*holds no samples"):
        read_audio(path)
    with pytest.raises(AudioError, match="holds no samples"):
        list(read_blocks(path))


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_in_half_is_refused(tmp_path, name):
    path = write(tmp_path / name, tone(3.0), **FORMATS[name])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"truncated|damaged"):
        read_audio(path, expected_seconds=3.0)


def test_truncation_tolerance(tmp_path):
    path = write(tmp_path / "tone.wav", tone(10.0))
    read_audio(path, expected_seconds=10.19)
    with pytest.raises(AudioError, match=r"tone\.wav: truncated: 10\.00 s of the 10\.30 s"):
        read_audio(path, expected_seconds=10.3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_refused_with_their_place(tmp_path, bad):
    samples = tone(1.0)
    samples[8000] = bad
    path = write(tmp_path / "bad.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"bad\.wav: NaN or infinite sample at 0\.500 s"):
        read_audio(path)
    with pytest.raises(AudioError, match=r"at 0\.500 s"):
        list(read_blocks(path, block_seconds=0.3))


def test_shortened_sphere_names_the_tool(tmp_path):
    path = write(tmp_path / "tone.sph", tone(), format="NIST")
    data = path.read_bytes()
    header = data[:1024].replace(b"sample_coding -s3 pcm", b"sample_coding -s26 pcm,embedded-shorten-v2.00")
    path.write_bytes(header[:1024] + data[1024:])
    with pytest.raises(AudioError, match=r"tone\.sph: .*shorten.*sph2pipe"):
        read_audio(path)


def test_flac_without_a_length_is_refused(tmp_path):
    path = write(tmp_path / "piped.flac", tone())
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO's 36-bit count of samples, as an encoder that writes to a pipe leaves it
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(AudioError, match="states no length"):
        audio_seconds(path)


@pytest.mark.skipif(
    not (DATA / "an4").is_dir(), reason="AN4 is not here; set SEQDSD_DATA to its parent folder"
)
def test_an4_as_its_list_says():
    with (DATA / "an4/test.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[:20]
    assert rows
    for row in rows:
        path = DATA / "an4" / row["path"]
        waveform = read_audio(path, expected_seconds=float(row["seconds"]))
        assert waveform.samples.numel() / 16_000 == pytest.approx(float(row["seconds"]), abs=0.01)
        assert 0.01 < waveform.samples.abs().max() <= 1


def test_audio_longer_than_promised_is_refused(tmp_path):
    path = write(tmp_path / "long.wav", tone(seconds=2.0))
    with pytest.raises(AudioError, match=r"long\.wav: longer than the 1\.00 s promised.*duration"):
        read_audio(path, expected_seconds=1.0)
    assert len(read_audio(path, expected_seconds=1.95).samples) == 32_000  # manifests round


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("start_seconds", [0.0, 0.4])
def test_a_segment_is_that_part_of_the_whole(tmp_path, name, start_seconds):
    path = write(tmp_path / name, tone(), **FORMATS[name])
    whole = read_audio(path).samples
    part = read_segment(path, start_seconds=start_seconds, seconds=0.75).samples
    first = round(16_000 * start_seconds)
    torch.testing.assert_close(part, whole[first : first + 12_000], atol=2e-3, rtol=0)


def test_a_segment_is_resampled_and_its_channels_averaged(tmp_path):
    stereo = np.stack((tone(rate_hz=44_100), np.zeros(66_150, np.float32)), axis=1)
    path = write(tmp_path / "stereo.wav", stereo, 44_100)
    part = read_segment(path, start_seconds=0.5, seconds=0.5)
    assert (part.sample_rate_hz, part.original_sample_rate_hz, len(part.samples)) == (16_000, 44_100, 8_000)
    middle = slice(100, -100)  # a resampler knows nothing of what lies outside of the segment
    expected = torch.from_numpy(tone()[8_000:16_000] / 2)
    torch.testing.assert_close(part.samples[middle], expected[middle], atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("start_seconds", "seconds", "what"),
    [(1.4, 0.5, "truncated: 0.10 s of the 0.50 s promised"), (2.0, 0.5, "ends before 2.00 s")],
)
def test_a_segment_past_the_end_is_refused(tmp_path, start_seconds, seconds, what):
    path = write(tmp_path / "tone.wav", tone())
    with pytest.raises(AudioError, match=f"{path}: {what}"):
        read_segment(path, start_seconds=start_seconds, seconds=seconds)


def test_a_segment_with_nan_is_refused_with_its_place(tmp_path):
    samples = tone()
    samples[12_000] = np.nan
    path = write(tmp_path / "nan.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"sample at 0\.750 s"):
        read_segment(path, start_seconds=0.5, seconds=0.5)
    assert read_segment(path, start_seconds=0.8, seconds=0.5).samples.isfinite().all()


def with_rate(path: Path, rate_hz: int) -> Path:
    """A wav file whose header is damaged in one place."""
    data = bytearray(write(path, tone(2.0)).read_bytes())
    data[24:28] = struct.pack("<I", rate_hz)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("rate_hz", [1, 8, 999, 1_000_001, 16_000 ^ 1 << 26, 2**31 - 1])
def test_a_rate_that_no_recorder_has_is_refused_before_anything_is_made(tmp_path, rate_hz):
    path = with_rate(tmp_path / "rate.wav", rate_hz)
    for read in (read_audio, audio_seconds, lambda path: next(read_blocks(path))):
        with pytest.raises(
            AudioError, match=rf"rate\.wav: its header states {rate_hz:,} Hz, outside 1,000 to"
        ):
            read(path)


@pytest.mark.parametrize("bit", range(10, 20))
def test_no_flipped_bit_in_a_rate_takes_more_memory_than_the_samples(tmp_path, bit):
    rate_hz = 16_000 ^ 1 << bit
    path = with_rate(tmp_path / "rate.wav", rate_hz)
    read_audio(path)
    kernel = _resampler(rate_hz, 16_000).kernel
    assert kernel.numel() < 2e6
    with pytest.raises(AudioError, match=r"rate\.wav: (truncated|longer than)"):
        read_audio(path, expected_seconds=2.0)


@pytest.mark.parametrize("loud", [3e38, -1e10])
def test_a_sample_far_too_loud_is_refused_with_its_place(tmp_path, loud):
    samples = tone(1.0)
    samples[8000:8010] = loud
    path = write(tmp_path / "loud.wav", samples, subtype="FLOAT")
    for read in (read_audio, lambda path: read_segment(path, start_seconds=0.25, seconds=0.5)):
        with pytest.raises(
            AudioError, match=rf"loud\.wav: a sample of {re.escape(f'{loud:.1e}')} at 0\.500 s"
        ):
            read(path)


def test_floats_of_full_scale_2_to_31_are_read(tmp_path):
    path = write(tmp_path / "raw.wav", np.float32(2.0**31) * tone(0.5), subtype="FLOAT")
    assert read_audio(path).samples.abs().max() > 2.0**29


def test_parts_longer_than_the_file_are_refused_before_memory_is_taken(tmp_path):
    path = write(tmp_path / "tone.wav", tone())
    with pytest.raises(AudioError, match=r"truncated: 1\.50 s of the 1000000\.00 s promised"):
        read_segment(path, start_seconds=0.0, seconds=1e6)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_taken(tmp_path):
    path = write(tmp_path / "tone.wav", tone())
    with pytest.raises(
        AudioError, match=r"200,000 s at 16,000 Hz are too much to hold at once. Cut it into parts"
    ):
        read_audio(path, expected_seconds=2e5)


def test_a_header_of_years_is_refused(tmp_path):
    path = write(tmp_path / "years.flac", tone())
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"years\.flac: its header states .* s, more than 1,000,000"):
        audio_seconds(path)


def test_names_that_are_not_utf8_are_read(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write(tmp_path / "tone.wav", tone()).rename(path)
    assert audio_seconds(path) == 1.5 and len(read_audio(path).samples) == 24_000
