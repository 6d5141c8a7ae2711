"""Waveforms to normalised log spectrograms, in batches, on the device they lie on: the models' only input.

Leaves out reading (``audio.reading``) and masking (``audio.augment``). The geometry of frames is fixed; a frame has
the paper's 161 linear bins, or mel filters. Audio at another rate is resampled when read.
"""

import math
import warnings
from typing import Literal, get_args, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import Spectrogram

SAMPLE_RATE_HZ = 16_000
WINDOW_SAMPLES = 320  # 20 ms
HOP_SAMPLES = 160  # 10 ms
LINEAR_BINS = WINDOW_SAMPLES // 2 + 1

MEL_FFT_SAMPLES = (
    512  # the window with zeros around it: bins 31 Hz apart, so that the lowest mel filters hold some
)
LOWEST_MEL_HZ = 20.0
HIGHEST_MEL_HZ = SAMPLE_RATE_HZ / 2
LEAST_HIGHEST_HZ = 1000.0
MOST_MELS = 191  # up to 8 kHz; of 192 one lies between two bins

# Power of a bin that 16-bit rounding noise gives: (sum of squared window = 120) / (12 * 2^30) = 9e-9.
# What lies below carries no speech, and digital silence needs a finite logarithm.
POWER_FLOOR = 1e-8
# Noise of any kind has a log-power SD above 1; a bin with less than this is constant (a resampled telephone
# call's upper half, digital silence), and dividing by its SD would blow rounding errors up to unit variance.
SD_FLOOR = 0.1
# A mel filter's power is a mean of bins': with a floor a hundred times the rounding noise, the noise's log hardly moves
# (SD 0.007). Speech has a log-power SD of 2 to 4 in every filter; of a resampled telephone call, what is left above
# 4 kHz has up to 0.3.
MEL_POWER_FLOOR = 1e-6
MEL_SD_FLOOR = 0.5

Normalise = Literal["utterance", "bin", "mean"]


class LogSpectrogram(nn.Module):
    """Log power spectrogram: 20 ms Hann window, 10 ms hop, 16 kHz, normalised per utterance.

    A frame never reaches past its utterance's end (no centring, no reflection), and the statistics come from
    valid frames only, so an utterance's features do not depend on what it is batched with.

    Args:
        normalise: ``"bin"`` shifts and scales each frequency bin to mean 0, SD 1 over the utterance's frames;
            ``"mean"`` shifts each bin to mean 0 and scales all by one SD, so that a microphone's frequency response
            is taken away as by ``"bin"``, and bins in which much happens stay larger; ``"utterance"`` uses one mean
            and SD for all its bins and frames, keeping the spectrum's tilt.
        num_mels: Mel filters (see ``mel_filters``) in place of the 161 linear bins. The frames are the same.
        highest_hz: Where the mel filters end; linear bins end at 8 kHz always.

    Attributes:
        num_bins: Features of a frame.
    """

    def __init__(
        self, normalise: Normalise = "bin", *, num_mels: int | None = None, highest_hz: float = HIGHEST_MEL_HZ
    ) -> None:
        super().__init__()
        if normalise not in get_args(Normalise):
            raise ValueError(f"normalise must be one of {get_args(Normalise)}, got {normalise!r}")
        self.normalise = normalise
        self.num_bins = LINEAR_BINS if num_mels is None else num_mels
        self.power_floor = POWER_FLOOR if num_mels is None else MEL_POWER_FLOOR
        self.sd_floor = SD_FLOOR if num_mels is None else MEL_SD_FLOOR
        fft_samples = WINDOW_SAMPLES if num_mels is None else MEL_FFT_SAMPLES
        self.spectrogram = Spectrogram(
            n_fft=fft_samples,
            win_length=WINDOW_SAMPLES,
            hop_length=HOP_SAMPLES,
            pad=(fft_samples - WINDOW_SAMPLES) // 2,  # so that the first window begins with the first sample
            power=None,  # complex: torch's absolute value takes four times as long as both squares
            center=False,
            window_fn=torch.hann_window,
        )
        self.filters: Tensor | None
        self.register_buffer("filters", None if num_mels is None else mel_filters(num_mels, highest_hz))

    @overload
    @staticmethod
    def num_frames(num_samples: int) -> int: ...
    @overload
    @staticmethod
    def num_frames(num_samples: Tensor) -> Tensor: ...
    @staticmethod
    def num_frames(num_samples: int | Tensor) -> int | Tensor:
        """Frames that ``num_samples`` samples give: whole windows only, so 0 or less below 320 samples."""
        return (num_samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1

    def forward(
        self, waveforms: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch frames bins"], Int[Tensor, "batch"]]:
        """Compute float32 features, under autocast too.

        Args:
            waveforms: Samples in [-1, 1] at 16 kHz; those past ``num_samples`` are ignored, even NaN.
            num_samples: Valid samples of each utterance.

        Returns:
            The features, exactly 0 past an utterance's end, and each utterance's number of valid frames.

        Raises:
            ValueError: If an utterance is shorter than one window or longer than ``waveforms``. Checked only
                where ``num_samples`` lies on the CPU: reading it from a GPU would make every step wait.
                There, an utterance shorter than a window has 0 frames.
        """
        _check_lengths(num_samples, waveforms.shape[1])
        with torch.autocast(waveforms.device.type, enabled=False):
            num_samples = num_samples.to(waveforms.device, non_blocking=True)
            power = self._power(waveforms.float(), num_samples)
            log_power = torch.log(power + self.power_floor)
            num_frames = self.num_frames(num_samples).clamp(min=0)
            is_padding = torch.arange(log_power.shape[1], device=waveforms.device) >= num_frames[:, None]
            return self._normalised(log_power, num_frames, is_padding[:, :, None]), num_frames

    def _power(
        self, waveforms: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch frames bins"]:
        if self.filters is None:
            return self._squared(waveforms)
        # The zeros around a window weigh what lies beyond the utterance's end, and 0 times NaN is NaN.
        is_beyond = torch.arange(waveforms.shape[1], device=waveforms.device) >= num_samples[:, None]
        return self._squared(waveforms.masked_fill(is_beyond, 0)) @ self.filters

    def _squared(self, waveforms: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch frames fft_bins"]:
        spectrum = self.spectrogram(waveforms).transpose(1, 2)
        return spectrum.real.square() + spectrum.imag.square()

    def _normalised(
        self,
        log_power: Float[Tensor, "batch frames bins"],
        num_frames: Int[Tensor, "batch"],
        is_padding: Bool[Tensor, "batch frames 1"],
    ) -> Float[Tensor, "batch frames bins"]:
        """Shift and scale each item by means and SDs of its valid frames; padding becomes 0."""
        speech = log_power.masked_fill(is_padding, 0)
        mean = self._mean(speech, num_frames, by_bin=self.normalise != "utterance")
        centred = (log_power - mean).masked_fill(is_padding, 0)
        sd = self._mean(centred.square(), num_frames, by_bin=self.normalise == "bin").sqrt()
        return centred / sd.clamp(min=self.sd_floor)

    def _mean(
        self, values: Float[Tensor, "batch frames bins"], num_frames: Int[Tensor, "batch"], *, by_bin: bool
    ) -> Float[Tensor, "batch 1 _"]:
        """Over an item's frames, whose padding is 0: each bin's, or one for all."""
        count = num_frames.clamp(min=1)[:, None, None] * (1 if by_bin else self.num_bins)
        return values.sum((1,) if by_bin else (1, 2), keepdim=True) / count


def mel_filters(num_mels: int, highest_hz: float = HIGHEST_MEL_HZ) -> Float[Tensor, "fft_bins mels"]:
    """Triangles from 20 Hz up, spaced by Slaney's mel scale: linear below 1 kHz, logarithmic above.

    Each sums to 1, so that a filter's power is a mean of its bins', and one floor fits all. Of the two usual scales it
    is the one that at 80 mels up to 8 kHz puts no two filters on the same single bin.

    Args:
        num_mels: How many.
        highest_hz: Where the last one ends.

    Raises:
        ValueError: If there would be none, or one that holds no bin of the FFT (as of 192 up to 8 kHz, of 149 up to
            4), or if they would end below 1 kHz or above 8.

    Reference: Slaney 1998 (Auditory Toolbox), as ``torchaudio.functional.melscale_fbanks`` has it. Departure: the
    sum of 1, where his triangles have an area of 1.
    """
    if not LEAST_HIGHEST_HZ <= highest_hz <= HIGHEST_MEL_HZ:
        raise ValueError(
            f"highest_hz must lie in [{LEAST_HIGHEST_HZ:g}, {HIGHEST_MEL_HZ:g}], got {highest_hz}"
        )
    filters = _triangles(num_mels, highest_hz) if 1 <= num_mels <= MOST_MELS else None
    if filters is None or not filters.any(dim=0).all():
        most = next(n for n in range(MOST_MELS, 0, -1) if _triangles(n, highest_hz).any(dim=0).all())
        raise ValueError(
            f"num_mels must lie in [1, {most}] up to {highest_hz:g} Hz, got {num_mels}: a filter would hold nothing"
        )
    return filters / filters.sum(dim=0)


def _triangles(num_mels: int, highest_hz: float) -> Float[Tensor, "fft_bins mels"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of empty ones
        return melscale_fbanks(
            n_freqs=MEL_FFT_SAMPLES // 2 + 1,
            f_min=LOWEST_MEL_HZ,
            f_max=highest_hz,
            n_mels=num_mels,
            sample_rate=SAMPLE_RATE_HZ,
            mel_scale="slaney",
        )


def as_dense(num_mels: int, highest_hz: float) -> int:
    """How many filters up to ``highest_hz`` lie as close as ``num_mels`` up to 8 kHz."""
    lowest, highest, top = map(_slaney_mels, (LOWEST_MEL_HZ, highest_hz, HIGHEST_MEL_HZ))
    return round(num_mels * (highest - lowest) / (top - lowest))


def _slaney_mels(hz: float) -> float:
    """15 up to 1 kHz, then 27 for each factor of 6.4."""
    return 3 * hz / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def _check_lengths(num_samples: Int[Tensor, "batch"], samples: int) -> None:
    if samples < WINDOW_SAMPLES:
        raise ValueError(f"a batch of {samples} samples is shorter than one window of {WINDOW_SAMPLES}")
    if num_samples.device.type != "cpu":
        return
    for item, length in enumerate(num_samples.tolist()):
        if not WINDOW_SAMPLES <= length <= samples:
            raise ValueError(
                f"utterance {item} of the batch has {length} samples; it needs at least one window "
                f"({WINDOW_SAMPLES}) and at most the batch's {samples}"
            )
