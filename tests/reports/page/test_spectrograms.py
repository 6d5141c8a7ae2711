"""Spectrograms by where a tone stands in them, and words by what CTM says."""

import base64
import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from seqdsd.records import RunFolder, RunFolderError
from seqdsd.reports.page.spectrograms import read_words, spectrogram_uri, words_of

RATE = 16_000


def drawn(path) -> np.ndarray:
    """Opacity of each pixel, the top row first."""
    head, _, data = spectrogram_uri(path).partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))[..., 3]


def tone(hz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 192_000])
def test_time_runs_to_the_right_and_pitch_upwards(tmp_path, rate):
    silence = np.zeros(rate)
    samples = np.concatenate([silence, tone(300, 1, rate), tone(3000, 1, rate), silence])
    soundfile.write(tmp_path / "a.wav", samples, rate)
    picture = drawn(tmp_path / "a.wav")
    height, width = picture.shape
    assert height == 64 and 390 < width < 410  # a column for 10 ms
    assert not picture[:, : width // 4 - 5].any() and not picture[:, -width // 4 + 5 :].any()
    low, high = (picture[:, width * place // 8].argmax() for place in (3, 5))
    mel = 2595 * np.log10(1 + np.array([300, 3000, min(8000, rate / 2)]) / 700)
    assert abs(low - height * (1 - mel[0] / mel[2])) < 2 and abs(high - height * (1 - mel[1] / mel[2])) < 2
    assert picture.max() == 255


@pytest.mark.parametrize("rate", [1000, 1450, 2050, 4000])
def test_every_band_of_a_low_rate_has_a_bin(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, rate), rate)
    picture = drawn(tmp_path / "a.wav")
    assert picture.any(axis=1).all() and picture.max() == 255


def test_long_ones_are_no_wider_and_small(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 50 * RATE)
    soundfile.write(tmp_path / "noise.flac", noise, RATE)
    assert 470 < drawn(tmp_path / "noise.flac").shape[1] <= 482
    assert len(spectrogram_uri(tmp_path / "noise.flac")) < 22_000  # nothing is harder to pack than noise


@pytest.mark.parametrize("seconds", [0.05, 61])
def test_what_no_picture_shows(tmp_path, seconds):
    soundfile.write(tmp_path / "a.wav", tone(300, seconds), RATE)
    with pytest.raises(ValueError, match="too short or too long"):
        spectrogram_uri(tmp_path / "a.wav")


def test_what_cannot_be_drawn(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"a\.wav: cannot be read"):
        spectrogram_uri(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="cannot be read"):
        spectrogram_uri(tmp_path / "gone.wav")
    for name, values in (("silent.wav", np.zeros(RATE)), ("nan.wav", np.full(RATE, np.nan))):
        soundfile.write(tmp_path / name, values, RATE, subtype="FLOAT")
        with pytest.raises(ValueError, match="nothing to draw"):
            spectrogram_uri(tmp_path / name)


def test_words_of_a_recording(tmp_path):
    folder = RunFolder(tmp_path)
    assert read_words(folder) == {}
    (tmp_path / "words.ctm").write_text(
        "a_1 1 0.50 0.25 one 0.98\na_1 1 1.00 0.10 two 0.5\nb 1 0.00 0.10 x 1.00\n"
    )
    words = read_words(folder)
    assert words_of(tmp_path / "a 1.wav", words) == [("one", 0.5, 0.75), ("two", 1.0, 1.1)]
    assert words_of(tmp_path / "c.wav", words) == []


@pytest.mark.parametrize(
    "line", [b"b 1 soon 0.10 x", b"b 1 nan 0.10 x", b"b 1 -1 0.10 x", b"b 1 0 0.1", b"\xff"]
)
def test_a_line_of_no_word_is_named(tmp_path, line):
    (tmp_path / "words.ctm").write_bytes(b"b 1 0.00 0.10 x\n" + line + b"\n")
    with pytest.raises(RunFolderError, match=r"words\.ctm:2: not NAME 1 START"):
        read_words(RunFolder(tmp_path))
