"""Which utterances go together: length-bucketed batches under a budget, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of similar length, none larger than ``max_batch_seconds`` of audio, padding included.

    An utterance that is longer is alone in its batch.

    An epoch's batches are a function of (seed, epoch) alone, so a run can go on in the middle of one: ``first`` batches
    are left out. Lengths are jittered by up to ``jitter`` before sorting, so that other neighbours meet in each epoch.

    Where utterances lie in shards, an epoch takes the shards in an order of its own, ``open_shards`` at a time, and is
    through with these before it takes the next: whoever fetches or caches shards has few at once to deal with.

    Reference: the first epoch by length is SortaGrad (Amodei et al. 2015, section 3.3).
    """

    def __init__(
        self,
        seconds: Sequence[float],
        *,
        max_batch_seconds: float,
        seed: int = 0,
        epoch: int = 0,
        first: int = 0,
        by_length: bool = False,
        jitter: float = 0.05,
        shards: Sequence[int] | None = None,
        open_shards: int = 8,
    ) -> None:
        """Plan one epoch.

        Args:
            seconds: Each utterance's duration.
            max_batch_seconds: Budget of a batch: utterances times the longest one's duration.
            seed: Of the whole run.
            epoch: Counted over the whole run.
            first: Batches already done.
            by_length: Shortest first, in order and without jitter (SortaGrad, evaluation); with ``shards``, among the
                shards that are open.
            jitter: Relative, at most this much longer or shorter.
            shards: Each utterance's shard, if it is in one.
            open_shards: How many shards a batch may come from.

        Raises:
            ValueError: If there is no utterance.
        """
        lengths = np.asarray(seconds, dtype=np.float64)
        if len(lengths) == 0:
            raise ValueError("no utterance to make batches of")
        generator = np.random.default_rng((seed, epoch))
        noise = 0 if by_length else generator.uniform(-jitter, jitter, len(lengths))
        jittered = lengths * (1 + noise)
        batches: list[list[int]] = []
        for window in _windows(shards, len(lengths), open_shards, generator):
            order = window[np.argsort(jittered[window], kind="stable")]
            own = _fill(order, lengths, max_batch_seconds)
            batches += own if by_length else [own[i] for i in generator.permutation(len(own))]
        self._batches = batches[first:]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def padding_share(seconds: Sequence[float], batches: Sequence[Sequence[int]]) -> float:
    """Share of a whole epoch's frames that are padding."""
    valid = sum(seconds[i] for batch in batches for i in batch)
    padded = sum(len(batch) * max(seconds[i] for i in batch) for batch in batches)
    return 1 - valid / padded


def _windows(
    shards: Sequence[int] | None, num_utterances: int, open_shards: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """The utterances that may meet in a batch, in their own order: of a few shards, or all of them."""
    if shards is None:
        yield np.arange(num_utterances)
        return
    numbers, shard = np.unique(np.asarray(shards), return_inverse=True)
    order = generator.permutation(len(numbers))
    window_of_shard = np.empty(len(numbers), dtype=np.int64)
    # As even as can be, lest the last be a single shard, whose batches would have more padding.
    for window, opened in enumerate(np.array_split(order, -(-len(order) // open_shards))):
        window_of_shard[opened] = window
    windows = window_of_shard[shard]
    yield from np.split(np.argsort(windows, kind="stable"), np.cumsum(np.bincount(windows))[:-1])


def _fill(order: np.ndarray, lengths: np.ndarray, budget: float) -> list[list[int]]:
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = 0.0
    for index in order.tolist():
        longest = max(longest, lengths[index])
        if batch and (len(batch) + 1) * longest > budget:
            batches.append(batch)
            batch, longest = [], lengths[index]
        batch.append(index)
    return [*batches, batch]
