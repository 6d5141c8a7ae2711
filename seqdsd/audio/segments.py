"""Cuts recordings of any length into pieces that a recogniser can take, in pauses, as they stream in.

Leaves out voice activity detection: every sample of the recording is in exactly one piece.
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

_FRAME_SECONDS, _HOP_SECONDS = 0.025, 0.01
_PAUSE_SECONDS = 0.15
"""Shorter ones may be within a word: stops (p, t, k) close the mouth for up to a tenth of a second."""
_BELOW_LOUDEST_DB = (60, 50, 40, 35)
_QUIET_SECONDS = 0.1


def split_at_quiet(
    blocks: Iterable[Float[Tensor, "_samples"]],
    *,
    sample_rate_hz: int,
    max_seconds: float = 15.0,
    search_seconds: float = 5.0,
) -> Iterator[tuple[float, Float[Tensor, "_samples"]]]:
    """Cut a stream into pieces of at most ``max_seconds``, in the middle of the longest pause near their end.

    A pause is a stretch of 0.15 s or more that is as far below the loudest sound of the piece as any is: 60, 50, 40 or
    35 dB, frame by frame. Where there is none, the cut is in the quietest tenth of a second.

    Args:
        blocks: The recording in order, in blocks of any lengths (``read_blocks``).
        sample_rate_hz: Rate of the samples.
        max_seconds: Longest piece.
        search_seconds: How far before ``max_seconds`` a cut may lie.

    Yields:
        A piece's start in the recording, in seconds, and its samples; together the pieces are the recording,
        sample for sample. None is shorter than 50 ms unless the whole recording is.

    Raises:
        ValueError: If not 0.1 <= search_seconds < max_seconds.
    """
    if not _QUIET_SECONDS <= search_seconds < max_seconds:
        raise ValueError(
            f"search_seconds must be at least {_QUIET_SECONDS} and less than max_seconds ({max_seconds}), "
            f"got {search_seconds}"
        )
    max_samples, search_samples = int(max_seconds * sample_rate_hz), int(search_seconds * sample_rate_hz)
    held, start = torch.empty(0), 0
    for block in blocks:
        held = torch.cat([held, block])
        while held.numel() > max_samples:
            cut = _cut(held[:max_samples], max_samples - search_samples, sample_rate_hz)
            yield start / sample_rate_hz, held[:cut]
            held, start = held[cut:], start + cut
    if held.numel():
        yield start / sample_rate_hz, held


def _cut(samples: Float[Tensor, "samples"], search_from: int, sample_rate_hz: int) -> int:
    """Where to cut, at least 50 ms after ``search_from`` and before the end."""
    frame, hop = round(_FRAME_SECONDS * sample_rate_hz), round(_HOP_SECONDS * sample_rate_hz)
    margin = int(_QUIET_SECONDS * sample_rate_hz) // 2
    first, last = search_from + margin, len(samples) - margin
    power = _power(pad(samples, (frame // 2, frame // 2)), frame, hop)  # frames around every hop'th sample
    for decibels in _BELOW_LOUDEST_DB:
        begin, end = _longest_pause(
            power <= power.max() * 10 ** (-decibels / 10), hop, search_from, len(samples)
        )
        if end - begin >= _PAUSE_SECONDS * sample_rate_hz:
            return min(max((begin + end) // 2, first), last)
    return first + int(_power(samples[search_from:], 2 * margin, hop).argmin()) * hop


def _power(samples: Float[Tensor, "samples"], frame: int, hop: int) -> Float[Tensor, "frames"]:
    """Each frame's mean square."""
    return samples.unfold(0, frame, hop).square().mean(1)


def _longest_pause(
    quiet: Bool[Tensor, "frames"], hop: int, search_from: int, num_samples: int
) -> tuple[int, int]:
    """Begin and end, in samples, of the longest stretch of quiet frames, as far as it lies within the search."""
    sides = pad(quiet.int(), (1, 1)).diff().nonzero().flatten() * hop  # of each stretch: its begin, its end
    stretches = sides.clamp(search_from, num_samples).view(-1, 2)
    if not len(stretches):
        return search_from, search_from
    begin, end = stretches[stretches.diff().argmax()].tolist()
    return begin, end
