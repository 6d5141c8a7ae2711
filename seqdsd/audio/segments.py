"""Cuts recordings of any length into pieces that a recogniser can take, in pauses, as they stream in.

Leaves out voice activity detection: every sample of the recording is in exactly one piece.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

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

    A pause is what ``librosa.effects.split`` finds between sounds, of 0.15 s or more and as far below the loudest sound
    of the piece as any is. Where there is none, the cut is in the quietest tenth of a second.

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
            cut = _cut(held[:max_samples].numpy(), max_samples - search_samples, sample_rate_hz)
            yield start / sample_rate_hz, held[:cut]
            held, start = held[cut:], start + cut
    if held.numel():
        yield start / sample_rate_hz, held


def _cut(samples: Float[np.ndarray, "samples"], search_from: int, sample_rate_hz: int) -> int:
    """Where to cut, at least 50 ms after ``search_from`` and before the end."""
    import librosa  # half a second, for recordings that must be cut

    frame, hop = round(_FRAME_SECONDS * sample_rate_hz), round(_HOP_SECONDS * sample_rate_hz)
    margin = int(_QUIET_SECONDS * sample_rate_hz) // 2
    first, last = search_from + margin, len(samples) - margin
    for top_db in _BELOW_LOUDEST_DB:
        sounds = librosa.effects.split(samples, top_db=top_db, frame_length=frame, hop_length=hop)
        borders = np.clip([0, *sounds.ravel(), len(samples)], search_from, len(samples)).reshape(-1, 2)
        begin, end = borders[np.diff(borders).argmax()]
        if end - begin >= _PAUSE_SECONDS * sample_rate_hz:
            return int(np.clip((begin + end) // 2, first, last))
    loudness = librosa.feature.rms(
        y=samples[search_from:], frame_length=2 * margin, hop_length=hop, center=False
    )
    return first + int(loudness.argmin()) * hop
