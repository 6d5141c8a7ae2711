"""Files cut short against what was written: soundfile writes them, and a knife makes them shorter."""

import io
import struct

import numpy as np
import pytest
import soundfile

from seqdsd.audio import AudioBytes, AudioError, audio_seconds, read_audio, read_blocks, read_segment

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "float.wav": ("WAVEX", "FLOAT"),
    "aiff": ("AIFF", "PCM_24"),
    "au": ("AU", "ULAW"),
    "w64": ("W64", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "alac.caf": ("CAF", "ALAC_16"),
    "sph": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
READERS = {
    "header": audio_seconds,
    "whole": read_audio,
    "blocks": lambda audio: list(read_blocks(audio)),
}


def encoded(name: str, seconds: float = 2.0) -> bytes:
    samples = 0.3 * np.sin(np.arange(round(16_000 * seconds)) / 9)
    samples += 0.1 * np.random.default_rng(0).standard_normal(len(samples))  # which no codec makes small
    file, (format_, subtype) = io.BytesIO(), FORMATS[name]
    soundfile.write(file, samples.clip(-1, 1), 16_000, format=format_, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("name", FORMATS)
def test_what_was_cut_short_is_refused_as_truncated(name, read):
    data = encoded(name)
    read(AudioBytes("whole", data))
    for share in (0.34, 0.5, 0.9):
        with pytest.raises(AudioError, match=r"^cut: truncated: .*\. \w"):
            read(AudioBytes("cut", data[: round(share * len(data))]))


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_a_part_that_is_there_is_read_from_a_recording_cut_further_on(name):
    data = encoded(name)
    cut = AudioBytes("cut", data[: len(data) // 2])
    part = read_segment(cut, start_seconds=0.25, seconds=0.5)
    whole = read_audio(AudioBytes("whole", data)).samples
    assert np.array_equal(part.samples, whole[4_000:12_000])
    with pytest.raises(AudioError, match="truncated|damaged"):
        read_segment(cut, start_seconds=0.75, seconds=1.0)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_F000])
def test_what_was_written_to_a_pipe_is_as_long_as_it_is(size):
    data = bytearray(encoded("wav"))
    data[40:44] = struct.pack("<I", size)
    assert audio_seconds(AudioBytes("piped", bytes(data[:44_044]))) == 22_000 / 16_000
    assert len(read_audio(AudioBytes("piped", bytes(data))).samples) == 32_000


def test_chunks_and_tags_around_the_samples_are_passed_over():
    data = encoded("wav")
    odd = data[:36] + b"note\x03\x00\x00\x00abc\x00" + data[36:] + b"LIST\x04\x00\x00\x00INFO"
    assert audio_seconds(AudioBytes("chunks", odd)) == 2.0
    with pytest.raises(AudioError, match="truncated"):
        audio_seconds(AudioBytes("chunks", odd[:30_000]))
    assert audio_seconds(AudioBytes("tag", encoded("ogg") + b"TAG".ljust(128, b"\0"))) == pytest.approx(2.0)
    tagged = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256) + encoded("mp3")
    assert audio_seconds(AudioBytes("tag", tagged)) == pytest.approx(2.0, abs=0.1)
    with pytest.raises(AudioError, match="truncated"):
        audio_seconds(AudioBytes("tag", tagged[: len(tagged) // 2]))


def test_a_few_bytes_more_or_less_are_a_sloppy_writer_s():
    data = encoded("wav")
    assert audio_seconds(AudioBytes("short", data[:-1_000])) == pytest.approx(2.0, abs=0.05)


def test_an_rf64_file_that_ends_with_its_header():
    sizes = b"ds64" + bytes(4), b"data" + b"\xff" * 4
    with pytest.raises(AudioError, match=r"^short: "):
        read_audio(AudioBytes("short", b"RF64" + b"\xff" * 4 + b"WAVE" + b"".join(sizes)))


@pytest.mark.parametrize("name", FORMATS)
def test_headers_that_send_the_reader_astray_end(name):
    """Sizes and offsets of all kinds of nonsense, over the first 200 bytes."""
    data = encoded(name, 0.1)
    for at in range(4, 200, 4):
        for nonsense in (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"):
            spoilt = AudioBytes("spoilt", data[:at] + nonsense + data[at + 4 :])
            try:
                audio_seconds(spoilt)
            except AudioError as error:
                assert str(error).startswith("spoilt: ")
