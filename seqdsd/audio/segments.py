"""Cuts recordings of any length into pieces that a recogniser can take, at quiet places, as they stream in.

Leaves out voice activity detection: every sample of the recording is in exactly one piece.
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

_QUIET_SECONDS = 0.1
_STEP_SECONDS = 0.01


def split_at_quiet(
    blocks: Iterable[Float[Tensor, "_samples"]],
    *,
    sample_rate_hz: int,
    max_seconds: float = 15.0,
    search_seconds: float = 5.0,
) -> Iterator[tuple[float, Float[Tensor, "_samples"]]]:
    """Cut a stream into pieces of at most ``max_seconds``, at the quietest tenth of a second near their end.

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
            search_from = max_samples - search_samples
            cut = search_from + _quietest(held[search_from:max_samples], sample_rate_hz)
            yield start / sample_rate_hz, held[:cut]
            held, start = held[cut:], start + cut
    if held.numel():
        yield start / sample_rate_hz, held


def _quietest(samples: Float[Tensor, "samples"], sample_rate_hz: int) -> int:
    """Return the middle of the 100 ms with the least energy, looking every 10 ms."""
    width, step = round(_QUIET_SECONDS * sample_rate_hz), round(_STEP_SECONDS * sample_rate_hz)
    energy = samples.square().unfold(0, width, step).sum(dim=1)
    return int(energy.argmin()) * step + width // 2
