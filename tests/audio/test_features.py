"""Features against a slow spectrogram made of one DFT matrix, log-mel against librosa's, and both in other batches."""

import math
import os
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch

from seqdsd.audio import LogSpectrogram, read_audio
from seqdsd.audio.features import MEL_POWER_FLOOR, MEL_SD_FLOOR, POWER_FLOOR, SD_FLOOR, mel_filters

DATA = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[2] / "../shared/data"))


def slow_features(samples: np.ndarray, normalise: str) -> np.ndarray:
    """One frame at a time, in float64, with the DFT written out."""
    n = np.arange(320)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 320)
    dft = np.exp(-2j * np.pi * np.outer(n, np.arange(161)) / 320)
    starts = range(0, len(samples) - 320 + 1, 160)
    frames = [np.abs((samples[start : start + 320] * window) @ dft) ** 2 for start in starts]
    log_power = np.log(np.array(frames) + POWER_FLOOR)
    return normalised(log_power, normalise, SD_FLOOR)


def normalised(log_power: np.ndarray, normalise: str, sd_floor: float) -> np.ndarray:
    """By numpy: frames of bins."""
    centred = log_power - log_power.mean(None if normalise == "utterance" else 0)
    return centred / np.maximum(centred.std(0 if normalise == "bin" else None), sd_floor)


def librosa_features(samples: np.ndarray, normalise: str, num_mels: int, highest_hz: float) -> np.ndarray:
    """By NumPy and librosa's filters; not its spectrogram, for which a new installation compiles for half a minute."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, 320)[::160] * (
        0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 320)
    )
    power = np.abs(np.fft.rfft(windows, 512)).T ** 2
    filters = librosa.filters.mel(
        sr=16_000, n_fft=512, n_mels=num_mels, fmin=20, fmax=highest_hz, dtype=np.float64
    )
    mel = (filters / filters.sum(1, keepdims=True)) @ power
    log_power = np.log(mel.T + MEL_POWER_FLOOR)
    return normalised(log_power, normalise, MEL_SD_FLOOR)


@pytest.fixture
def noise() -> torch.Tensor:
    return 0.1 * torch.randn(32, 8000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("normalise", ["bin", "mean", "utterance"])
def test_against_a_written_out_dft(noise, normalise):
    lengths = torch.tensor([8000, 320, 479, 480, 7777])
    features, num_frames = LogSpectrogram(normalise)(noise[:5], lengths)
    assert features.shape == (5, 49, 161)
    for row, length, frames, item in zip(noise, lengths, num_frames, features, strict=False):
        expected = slow_features(row[:length].double().numpy(), normalise)
        assert len(expected) == frames
        np.testing.assert_allclose(item[:frames].numpy(), expected, atol=2e-3)
        assert (item[frames:] == 0).all()


@pytest.mark.parametrize("num_mels, highest_hz", [(23, 8000.0), (80, 8000.0), (62, 4000.0)])
@pytest.mark.parametrize("normalise", ["bin", "mean", "utterance"])
def test_log_mel_against_librosa(noise, normalise, num_mels, highest_hz):
    """Each utterance alone there, up to its own end; here in one batch, with NaN after each end."""
    noise = noise[:5] * torch.linspace(0, 1, 8000) ** 3  # from silence on: frames differ
    lengths = torch.tensor([8000, 320, 479, 480, 7777])
    spoilt = noise.masked_fill(torch.arange(8000) >= lengths[:, None], math.nan)
    features, num_frames = LogSpectrogram(normalise, num_mels=num_mels, highest_hz=highest_hz)(
        spoilt, lengths
    )
    assert features.shape == (5, 49, num_mels)
    for row, length, frames, item in zip(noise, lengths, num_frames, features, strict=True):
        expected = librosa_features(row[:length].double().numpy(), normalise, num_mels, highest_hz)
        assert len(expected) == frames
        np.testing.assert_allclose(item[:frames].numpy(), expected, atol=2e-3)
        assert (item[frames:] == 0).all()


@pytest.mark.parametrize(
    "num_mels, highest_hz", [(1, 8000.0), (80, 8000.0), (191, 8000.0), (80, 4000.0), (148, 4000.0)]
)
def test_every_mel_filter_is_a_mean_of_bins(num_mels, highest_hz):
    filters = mel_filters(num_mels, highest_hz)
    assert filters.shape == (257, num_mels)
    torch.testing.assert_close(filters.sum(0), torch.ones(num_mels))
    assert filters.min() == 0
    first_above = math.ceil(highest_hz / 31.25)
    assert (filters[first_above:] == 0).all() and filters[first_above - 4 : first_above].any()


@pytest.mark.parametrize(
    "num_mels, highest_hz, said",
    [
        (0, 8000.0, r"num_mels must lie in \[1, 191\] up to 8000 Hz, got 0: a filter would hold nothing"),
        (192, 8000.0, r"num_mels must lie in \[1, 191\] up to 8000 Hz, got 192"),
        (10**12, 8000.0, r"num_mels must lie in \[1, 191\] up to 8000 Hz, got 1000000000000"),
        (149, 4000.0, r"num_mels must lie in \[1, 148\] up to 4000 Hz, got 149"),
        (80, 8000.001, r"highest_hz must lie in \[1000, 8000\], got 8000.001"),
        (80, 8001.0, r"highest_hz must lie in \[1000, 8000\], got 8001"),
        (24, 999.0, r"highest_hz must lie in \[1000, 8000\], got 999"),
        (24, math.nan, r"highest_hz must lie in \[1000, 8000\], got nan"),
    ],
)
def test_filters_that_cannot_be_are_refused(num_mels, highest_hz, said):
    with pytest.raises(ValueError, match=said):
        LogSpectrogram(num_mels=num_mels, highest_hz=highest_hz)


def test_80_mel_filters_are_all_different():
    assert torch.linalg.matrix_rank(mel_filters(80).double()) == 80


@pytest.mark.parametrize("normalise", ["bin", "mean", "utterance"])
def test_rounding_noise_carries_nothing_in_log_mel(normalise):
    """Silence in 16 bits after dithering: errors of up to half a step, which linear bins blow up."""
    rounding = (torch.rand(1, 16_000, generator=torch.Generator().manual_seed(0)) - 0.5) / 2**15
    features, _ = LogSpectrogram(normalise, num_mels=80)(rounding, torch.tensor([16_000]))
    assert features.std() < 0.02


def test_what_a_telephone_call_lacks_is_not_blown_up_in_log_mel(tmp_path):
    """Noise in syllables, 8 kHz; above 5.5 kHz there is only what the resampler leaves of it."""
    rng = np.random.default_rng(0)
    syllables = np.maximum(np.sin(2 * np.pi * 3 * np.arange(16_000) / 8000), 0) ** 2
    soundfile.write(tmp_path / "call.wav", 0.02 * syllables * rng.standard_normal(16_000), 8000)
    samples = read_audio(tmp_path / "call.wav").samples
    features, _ = LogSpectrogram(num_mels=80)(samples[None], torch.tensor([len(samples)]))
    sd = features[0].std(0)
    edges = librosa.mel_frequencies(82, fmin=20, fmax=8000)  # filter i: from edge i to edge i + 2
    assert (sd[edges[2:] < 3500] > 0.95).all()
    assert (sd[edges[:-2] > 5500] < 0.5).all()


@pytest.mark.parametrize("num_mels", [None, 80])
@pytest.mark.parametrize("normalise", ["bin", "mean", "utterance"])
def test_mean_and_sd_of_valid_frames(noise, normalise, num_mels):
    louder = noise[:2] * torch.linspace(0, 1, 8000) ** 3
    features, num_frames = LogSpectrogram(normalise, num_mels=num_mels)(louder, torch.tensor([8000, 4000]))
    for item, frames in zip(features, num_frames, strict=True):
        valid = item[:frames].numpy()
        np.testing.assert_allclose(valid.mean(None if normalise == "utterance" else 0), 0, atol=1e-5)
        np.testing.assert_allclose(valid.std(0 if normalise == "bin" else None), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("normalise", "least", "most"), [("bin", 0, 0.1), ("mean", 0, 0.1), ("utterance", 0.5, 3)]
)
def test_a_microphone_s_response_is_taken_away_where_each_bin_has_its_mean(noise, normalise, least, most):
    """Pre-emphasis: 26 dB less at 0 Hz, 6 dB more at 8 kHz."""
    louder = noise[:2] * torch.linspace(0.1, 1, 8000)
    other = louder.clone()
    other[:, 1:] -= 0.95 * louder[:, :-1]
    spectrogram, lengths = LogSpectrogram(normalise, num_mels=40), torch.tensor([8000, 8000])
    moved = (spectrogram(louder, lengths)[0] - spectrogram(other, lengths)[0]).square().mean().sqrt()
    assert least < moved < most


@pytest.mark.parametrize("num_mels", [None, 80])
@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("normalise", ["bin", "mean", "utterance"])
def test_neither_batch_nor_padding_changes_a_result(noise, batch, normalise, num_mels):
    spectrogram = LogSpectrogram(normalise, num_mels=num_mels)
    alone, _ = spectrogram(noise[:1, :3333], torch.tensor([3333]))
    waveforms = noise[:batch].clone()
    lengths = torch.full((batch,), 8000)
    lengths[0] = 3333
    for filling in (0.0, 5.0, math.nan, math.inf):
        waveforms[0, 3333:] = filling
        features, num_frames = spectrogram(waveforms, lengths)
        torch.testing.assert_close(features[0, : num_frames[0]], alone[0], atol=1e-5, rtol=1e-5)
        assert (features[0, num_frames[0] :] == 0).all()


def test_num_frames_by_hand():
    for samples, frames in {320: 1, 479: 1, 480: 2, 16_000: 99}.items():
        assert LogSpectrogram.num_frames(samples) == frames
        assert LogSpectrogram.num_frames(torch.tensor([samples])).tolist() == [frames]


@pytest.mark.parametrize("num_mels", [None, 80])
def test_digital_silence_is_zero_not_nan(num_mels):
    features, _ = LogSpectrogram(num_mels=num_mels)(torch.zeros(1, 3200), torch.tensor([3200]))
    assert features.abs().max() < 1e-3


def test_a_bin_without_sound_is_not_blown_up():
    """A tone written in 16 bits leaves most bins at the level of rounding errors."""
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16_000).double() / 16_000)
    quantised = ((0.5 * tone * 2**15).round() / 2**15).float()
    features, _ = LogSpectrogram()(quantised[None], torch.tensor([16_000]))
    assert features.abs().max() < 0.05


def test_a_tone_peaks_in_its_bin():
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)
    features, _ = LogSpectrogram("utterance")(tone[None], torch.tensor([16_000]))
    assert (features[0].argmax(dim=1) == 20).all()  # bins are 50 Hz apart


@pytest.mark.parametrize("num_mels", [None, 80])
def test_float32_under_autocast(noise, num_mels):
    spectrogram = LogSpectrogram(num_mels=num_mels)
    plain, _ = spectrogram(noise[:2], torch.tensor([8000, 4000]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = spectrogram(noise[:2], torch.tensor([8000, 4000]))
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, atol=0, rtol=0)


@pytest.mark.parametrize("lengths", [[8000, 319], [8000, 8001], [0, 8000]])
def test_lengths_out_of_range_name_the_item(noise, lengths):
    bad = next(item for item, length in enumerate(lengths) if not 320 <= length <= 8000)
    with pytest.raises(ValueError, match=f"utterance {bad} .* {lengths[bad]} samples"):
        LogSpectrogram()(noise[:2], torch.tensor(lengths))


def test_a_batch_shorter_than_a_window():
    with pytest.raises(ValueError, match="100 samples is shorter than one window"):
        LogSpectrogram()(torch.zeros(1, 100), torch.tensor([100]))


@pytest.mark.skipif(
    not (DATA / "an4").is_dir(), reason="AN4 is not here; set SEQDSD_DATA to its parent folder"
)
def test_real_speech_against_a_written_out_dft():
    samples = read_audio(sorted((DATA / "an4/test").rglob("*.flac"))[0]).samples
    features, _ = LogSpectrogram()(samples[None], torch.tensor([len(samples)]))
    expected = slow_features(samples.double().numpy(), "bin")
    np.testing.assert_allclose(features[0].numpy(), expected, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_mels", [None, 80])
def test_same_on_the_gpu(noise, num_mels):
    lengths = torch.full((32,), 5000)
    on_cpu, _ = LogSpectrogram(num_mels=num_mels)(noise, lengths)
    on_gpu, num_frames = LogSpectrogram(num_mels=num_mels).cuda()(noise.cuda(), lengths.cuda())
    assert num_frames.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-3, rtol=1e-3)
