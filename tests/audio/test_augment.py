"""Masks counted by hand or in a slow loop; speed perturbation by the pitch and length that come out."""

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdsd.audio import SpecAugment, pitch_shift, speed_perturb, time_stretch

BINS = 161


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masked(augment: SpecAugment, lengths: list[int], seed: int = 0) -> torch.Tensor:
    """True where a batch of ones was masked."""
    ones = torch.ones(len(lengths), max(lengths), BINS)
    return augment(ones, torch.tensor(lengths), generator=seeded(seed)) == 0


def num_runs(flags: torch.Tensor) -> int:
    """Stretches of True in one dimension."""
    padded = [False, *flags.tolist()]
    return sum(now and not before for before, now in zip(padded, padded[1:], strict=False))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(0, 170),
    st.integers(0, 3),
    st.integers(0, 80),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_masks_keep_every_bound(lengths, freq_masks, freq_width, time_masks, time_width, share, seed):
    augment = SpecAugment(freq_masks, freq_width, time_masks, time_width, share)
    for item, length in zip(masked(augment, lengths, seed), lengths, strict=True):
        bins, frames = item.all(dim=0), item.all(dim=1)
        # A mask is whole rows or whole columns, nothing else.
        if not bins.all() and not frames.all():
            assert torch.equal(item, bins[None, :] | frames[:, None])
            assert frames.sum() <= min(share * length + 1e-4, time_masks * time_width)
            assert not frames[length:].any()
            assert num_runs(frames) <= time_masks
            assert bins.sum() <= freq_masks * freq_width
            assert num_runs(bins) <= freq_masks


def test_same_seed_same_masks_and_items_differ():
    augment = SpecAugment()
    first = masked(augment, [300] * 8)
    assert torch.equal(first, masked(augment, [300] * 8))
    assert not torch.equal(first, masked(augment, [300] * 8, seed=1))
    assert len({item.numpy().tobytes() for item in first}) == 8


def test_widths_and_places_are_uniform():
    augment = SpecAugment(freq_masks=1, freq_width_bins=4, time_masks=0)
    bins = masked(augment, [1] * 20_000).all(dim=1)
    widths = torch.bincount(bins.sum(dim=1), minlength=5) / 20_000
    torch.testing.assert_close(widths, torch.full((5,), 0.2), atol=0.015, rtol=0)
    hit = bins.float().mean(dim=0)  # mean width 2 of 161 bins, less at the edges
    torch.testing.assert_close(hit[4:-4].mean(), torch.tensor(2 / BINS), atol=1e-3, rtol=0)
    assert hit[0] > 0 and hit[-1] > 0


def test_unmasked_values_and_the_input_are_untouched():
    features = torch.randn(4, 100, BINS, generator=seeded(3))
    before = features.clone()
    out = SpecAugment()(features, torch.full((4,), 100), generator=seeded())
    assert torch.equal(features, before)
    assert ((out == features) | (out == 0)).all()
    assert (out == 0).any()


@pytest.mark.parametrize("field", ["freq_masks", "freq_width_bins", "time_masks", "time_width_frames"])
def test_negative_settings_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be 0 or more, got -1"):
        SpecAugment(**{field: -1})


def test_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"max_time_share .* got 1\.5"):
        SpecAugment(max_time_share=1.5)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("rate_hz", [8000, 16_000])
def test_speed_scales_length_and_pitch(factor, rate_hz):
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(2 * rate_hz) / rate_hz)
    faster = speed_perturb(tone, factor, rate_hz)
    assert len(faster) == pytest.approx(2 * rate_hz / factor, abs=1)
    peak_hz = torch.fft.rfft(faster * torch.hann_window(len(faster))).abs().argmax() * rate_hz / len(faster)
    assert peak_hz == pytest.approx(500 * factor, abs=1)
    assert torch.equal(faster, speed_perturb(tone, factor, rate_hz))


def test_speed_one_changes_nothing():
    samples = torch.randn(1000, generator=seeded())
    assert torch.equal(speed_perturb(samples, 1.0, 16_000), samples)


@pytest.mark.parametrize("factor", [0.0, -1.0, 3.0])
def test_speed_out_of_range(factor):
    with pytest.raises(ValueError, match="factor must lie in"):
        speed_perturb(torch.zeros(10), factor, 16_000)


def peak_hz(samples: torch.Tensor, rate_hz: int) -> float:
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
    return int(spectrum.argmax()) * rate_hz / len(samples)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_stretching_scales_the_length_alone(factor):
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(32_000) / 16_000)
    faster = time_stretch(tone, factor)
    assert len(faster) == pytest.approx(32_000 / factor, abs=1) and faster.dtype == torch.float32
    assert peak_hz(faster, 16_000) == pytest.approx(500, abs=2)
    assert torch.equal(faster, time_stretch(tone, factor))


def slow_stretch(samples: np.ndarray, factor: float) -> np.ndarray:
    """A phase vocoder frame by frame, in float64: magnitudes between two frames, phases that go on as theirs do."""
    window, hop = scipy.signal.get_window("hann", 2048), 512
    padded = np.pad(samples, (1024, 1024 + 3 * hop))
    count = len(samples) // hop + 1
    frames = np.stack([np.fft.rfft(padded[hop * t :][:2048] * window) for t in range(count)])
    frames = np.concatenate([frames, np.zeros((2, 1025))])  # past the end
    expected = np.pi * hop * np.arange(1025) / 1024
    phase, length = np.angle(frames[0]), round(len(samples) / factor)
    places = np.arange(0, count, factor)
    sums, weights = (np.zeros(hop * len(places) + 2048 + length) for _ in range(2))
    for index, place in enumerate(places):
        before, after = frames[int(place)], frames[int(place) + 1]
        magnitude = (1 - place % 1) * np.abs(before) + place % 1 * np.abs(after)
        sums[hop * index :][:2048] += np.fft.irfft(magnitude * np.exp(1j * phase)) * window
        weights[hop * index :][:2048] += window**2
        moved = np.angle(after) - np.angle(before) - expected
        phase = phase + expected + moved - 2 * np.pi * np.round(moved / (2 * np.pi))
    return sums[1024:][:length] / np.maximum(weights[1024:][:length], 1e-8)


@pytest.mark.parametrize("factor", [0.83, 1.27])
def test_stretching_is_a_phase_vocoders(factor):
    noise = torch.randn(9001, generator=seeded(), dtype=torch.double)
    inside = slice(2048, round(9001 / factor) - 2048)  # where whole windows overlap
    np.testing.assert_allclose(
        time_stretch(noise, factor).numpy()[inside], slow_stretch(noise.numpy(), factor)[inside], atol=1e-5
    )


@pytest.mark.parametrize("rate_hz", [11_025, 22_050])
def test_pitch_is_shifted_at_rates_that_are_no_hundreds(rate_hz):
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(rate_hz) / rate_hz)
    assert peak_hz(pitch_shift(tone, 1.17, rate_hz), rate_hz) == pytest.approx(500 * 1.07, abs=2)


@pytest.mark.parametrize("semitones", [-3.0, 0.0, 0.5, 12.0])
def test_shifting_scales_the_pitch_alone(semitones):
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(32_000) / 16_000)
    higher = pitch_shift(tone, semitones, 16_000)
    assert len(higher) == 32_000 and higher.dtype == torch.float32
    assert peak_hz(higher, 16_000) == pytest.approx(500 * 2 ** (semitones / 12), rel=0.005)


def test_what_is_shorter_than_the_vocoders_window_stays():
    short = torch.randn(2047, generator=seeded())
    assert torch.equal(time_stretch(short, 1.2), short) and torch.equal(
        pitch_shift(short, 2.0, 16_000), short
    )


def test_tempo_and_pitch_out_of_range():
    with pytest.raises(ValueError, match=r"factor must lie in \[0.5, 2\], got 3"):
        time_stretch(torch.zeros(10), 3.0)
    with pytest.raises(ValueError, match=r"semitones must lie in \[-12, 12\], got 13"):
        pitch_shift(torch.zeros(10), 13.0, 16_000)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_masks_alike_on_the_gpu():
    ones, lengths = torch.ones(4, 200, BINS), torch.tensor([200, 150, 100, 50])
    on_cpu = SpecAugment()(ones, lengths, generator=seeded())
    assert torch.equal(SpecAugment()(ones.cuda(), lengths.cuda(), generator=seeded()).cpu(), on_cpu)
