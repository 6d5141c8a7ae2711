"""Training-time variation: masks on features (SpecAugment); speed, tempo and pitch of samples.

Leaves out added noise and reverberation, which need a corpus of their own. Nothing here draws from a global
generator, so a resumed run repeats its draws.
"""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.functional import phase_vocoder
from torchaudio.transforms import Resample

_VOCODER_SAMPLES = 2048


@dataclass(frozen=True)
class SpecAugment:
    """Set random bands of bins and stretches of frames to 0, the mean of normalised features.

    Each item of a batch gets its own masks. A mask's width is uniform from 0 to its maximum.

    Reference: Park et al. 2019 (SpecAugment), frequency and time masking. Departures: no time warping (the
    paper finds it the costliest and least influential part), and ``max_time_share`` bounds all time masks
    together, where the paper's p bounds each, so that a short utterance keeps enough frames for CTC.
    """

    freq_masks: int = 2
    freq_width_bins: int = 27
    time_masks: int = 2
    time_width_frames: int = 50
    max_time_share: float = 0.2

    def __post_init__(self) -> None:
        for name in ("freq_masks", "freq_width_bins", "time_masks", "time_width_frames"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.max_time_share <= 1:
            raise ValueError(f"max_time_share must lie in [0, 1], got {self.max_time_share}")

    def __call__(
        self,
        features: Float[Tensor, "batch frames bins"],
        num_frames: Int[Tensor, "batch"],
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "batch frames bins"]:
        """Return masked features; the same generator state gives the same masks.

        A CPU generator gives the same masks on every device, for a small transfer per batch.
        """
        _, frames, bins = features.shape
        num_frames = num_frames.to(features.device, non_blocking=True)
        num_bins = torch.full_like(num_frames, bins)
        share = (num_frames * self.max_time_share / max(1, self.time_masks)).long()
        masked_bins = _draw_masks(
            bins, num_bins, num_bins.clamp(max=self.freq_width_bins), self.freq_masks, generator
        )
        masked_frames = _draw_masks(
            frames, num_frames, share.clamp(max=self.time_width_frames), self.time_masks, generator
        )
        return features.masked_fill(masked_bins[:, None, :] | masked_frames[:, :, None], 0.0)


def _draw_masks(
    size: int,
    valid: Int[Tensor, "batch"],
    max_width: Int[Tensor, "batch"],
    count: int,
    generator: torch.Generator,
) -> Bool[Tensor, "batch size"]:
    """Draw ``count`` stretches per item, each 0 to ``max_width`` wide, inside its first ``valid`` places."""
    draws = torch.rand(2, len(valid), count, generator=generator, device=generator.device)
    draws = draws.to(valid.device, non_blocking=True)
    width = (draws[0] * (max_width[:, None] + 1)).long()
    start = (draws[1] * (valid[:, None] - width + 1)).long()
    place = torch.arange(size, device=valid.device)
    inside = (place >= start[:, :, None]) & (place < (start + width)[:, :, None])
    return inside.any(dim=1)


def speed_perturb(
    samples: Float[Tensor, "samples"], factor: float, sample_rate_hz: int
) -> Float[Tensor, "perturbed"]:
    """Play samples ``factor`` times as fast: duration and pitch both change, the sample rate stays.

    Args:
        samples: One utterance.
        factor: Between 0.5 and 2; the paper uses 0.9, 1.0 and 1.1. Whole hundredths are fast.
        sample_rate_hz: Rate of the samples, before and after.

    Raises:
        ValueError: If the factor lies outside that range.

    Reference: Ko et al. 2015 (Audio augmentation for speech recognition). Departure: torchaudio's
    windowed-sinc resampler in place of SoX's.
    """
    if not 0.5 <= factor <= 2:
        raise ValueError(f"factor must lie in [0.5, 2], got {factor}")
    ratio = Fraction(factor).limit_denominator(sample_rate_hz)
    return _speed_resampler(ratio.numerator, ratio.denominator)(samples)


def time_stretch(samples: Float[Tensor, "samples"], factor: float) -> Float[Tensor, "stretched"]:
    """Play samples ``factor`` times as fast at the same pitch, by torchaudio's phase vocoder.

    Args:
        samples: One utterance; what is shorter than the vocoder's window of 2,048 samples stays as it is.
        factor: Between 0.5 and 2.

    Raises:
        ValueError: If the factor lies outside that range.
    """
    if not 0.5 <= factor <= 2:
        raise ValueError(f"factor must lie in [0.5, 2], got {factor}")
    if factor == 1 or len(samples) < _VOCODER_SAMPLES:
        return samples
    hop, window = _VOCODER_SAMPLES // 4, torch.hann_window(_VOCODER_SAMPLES)
    spectrum = torch.stft(
        samples, _VOCODER_SAMPLES, hop, window=window, pad_mode="constant", return_complex=True
    )
    phase_advance = torch.linspace(0, math.pi * hop, len(spectrum))[:, None]
    stretched = phase_vocoder(spectrum, factor, phase_advance)
    return torch.istft(stretched, _VOCODER_SAMPLES, hop, window=window, length=round(len(samples) / factor))


def pitch_shift(
    samples: Float[Tensor, "samples"], semitones: float, sample_rate_hz: int
) -> Float[Tensor, "samples"]:
    """Raise the pitch by so many semitones, or lower it; the length stays. Stretched, then played as much faster.

    The ratio of the pitches is rounded to whole hundredths, 0.2 semitones off at most: resampling by others is slow.

    Args:
        samples: One utterance; what is shorter than the vocoder's window of 2,048 samples stays as it is.
        semitones: Twelve are an octave; below 0 is lower.
        sample_rate_hz: Rate of the samples.

    Raises:
        ValueError: If it is more than an octave.
    """
    if not abs(semitones) <= 12:
        raise ValueError(f"semitones must lie in [-12, 12], got {semitones}")
    factor = round(2 ** (semitones / 12), 2)
    if factor == 1 or len(samples) < _VOCODER_SAMPLES:
        return samples
    shifted = speed_perturb(time_stretch(samples, 1 / factor), factor, sample_rate_hz)
    return pad(shifted, (0, len(samples) - len(shifted)))


@functools.lru_cache(maxsize=256)
def _speed_resampler(original_hz: int, wanted_hz: int) -> Resample:
    return Resample(original_hz, wanted_hz)
