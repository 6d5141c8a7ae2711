"""Cuts where a test put the silence, and nothing lost on the way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqdsd.audio import split_at_quiet

RATE_HZ = 1000


def noise(num_samples: int) -> torch.Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(0))


@settings(deadline=None)
@given(
    st.integers(0, 70_000),
    st.integers(100, 30_000),
    st.sampled_from([(15.0, 5.0), (2.0, 0.1), (3.0, 2.99), (0.3, 0.2)]),
)
def test_pieces_are_the_recording(num_samples, block_samples, seconds):
    max_seconds, search_seconds = seconds
    recording = noise(num_samples)
    blocks = recording.split(block_samples)
    pieces = list(
        split_at_quiet(blocks, sample_rate_hz=RATE_HZ, max_seconds=max_seconds, search_seconds=search_seconds)
    )
    if num_samples:
        assert torch.equal(torch.cat([samples for _, samples in pieces]), recording)
    position = 0
    for start, samples in pieces:
        assert start == position / RATE_HZ
        assert len(samples) <= max_seconds * RATE_HZ
        assert len(samples) >= min(num_samples, 50)
        position += len(samples)
    for _, samples in pieces[:-1]:
        assert len(samples) >= (max_seconds - search_seconds) * RATE_HZ


@pytest.mark.parametrize("pause_at", [10.5, 12.0, 14.7])
def test_cuts_in_the_middle_of_the_pause(pause_at):
    recording = noise(20_000)
    pause = round(pause_at * RATE_HZ)
    recording[pause - 60 : pause + 60] *= 0.01
    (_, first), (start, _) = split_at_quiet([recording], sample_rate_hz=RATE_HZ)
    assert len(first) / RATE_HZ == start == pytest.approx(pause_at, abs=0.015)


def test_a_pause_between_words_not_a_closed_mouth_within_one():
    """A stop is silent for a tenth of a second; between words somebody breathes."""
    recording = noise(20_000)
    recording[11_000:11_110] = 0
    recording[13_000:13_400] *= 0.01
    recording[14_000:14_300] *= 0.2
    (_, first), _ = split_at_quiet([recording], sample_rate_hz=RATE_HZ)
    assert len(first) / RATE_HZ == pytest.approx(13.2, abs=0.015)


def test_in_noise_the_pause_is_what_is_quieter():
    """Noise 40 dB below the speech hides no pause; the cut is in its middle."""
    recording = noise(20_000)
    recording[12_000:12_500] *= 0.01
    (_, first), _ = split_at_quiet([recording], sample_rate_hz=RATE_HZ)
    assert len(first) / RATE_HZ == pytest.approx(12.25, abs=0.015)


def test_speech_without_a_pause_is_cut_where_it_is_quietest():
    recording = noise(20_000)
    recording[12_350:12_450] *= 0.3
    (_, first), _ = split_at_quiet([recording], sample_rate_hz=RATE_HZ)
    assert len(first) / RATE_HZ == pytest.approx(12.4, abs=0.015)


def test_a_pause_before_the_search_is_left_alone():
    recording = noise(16_000)
    recording[9000:9500] = 0
    (_, first), _ = split_at_quiet([recording], sample_rate_hz=RATE_HZ)
    assert len(first) > 10_000


@pytest.mark.parametrize("rate_hz", [11_025, 11_030, 12_345])
def test_the_shortest_search_at_any_rate(rate_hz):
    recording = noise(2 * rate_hz)
    pieces = split_at_quiet([recording], sample_rate_hz=rate_hz, max_seconds=1.0, search_seconds=0.1)
    lengths = [len(samples) for _, samples in pieces]
    assert sum(lengths) == 2 * rate_hz and lengths[0] / rate_hz == pytest.approx(0.95, abs=1e-3)


def test_blocks_do_not_matter():
    recording = noise(50_000)
    whole = [start for start, _ in split_at_quiet([recording], sample_rate_hz=RATE_HZ)]
    in_parts = [start for start, _ in split_at_quiet(recording.split(777), sample_rate_hz=RATE_HZ)]
    assert whole == in_parts and len(whole) > 3


def test_streams_without_reading_ahead():
    blocks_read = 0

    def blocks():
        nonlocal blocks_read
        for _ in range(1000):
            blocks_read += 1
            yield noise(1000)

    next(split_at_quiet(blocks(), sample_rate_hz=RATE_HZ))
    assert blocks_read == 16


@pytest.mark.parametrize("search_seconds", [0.0, 0.05, 15.0, 20.0])
def test_search_out_of_range(search_seconds):
    with pytest.raises(ValueError, match="search_seconds"):
        next(split_at_quiet([noise(10)], sample_rate_hz=RATE_HZ, search_seconds=search_seconds))
