"""Which utterances go together: length-bucketed batches under a budget, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of similar length, none larger than ``max_batch_seconds`` of audio, padding included.

    An epoch's batches are a function of (seed, epoch) alone, so a run can go on in the middle of one: ``first`` batches
    are left out. Lengths are jittered by up to ``jitter`` before sorting, so that other neighbours meet in each epoch.

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
    ) -> None:
        """Plan one epoch.

        Args:
            seconds: Each utterance's duration.
            max_batch_seconds: Budget of a batch: utterances times the longest one's duration.
            seed: Of the whole run.
            epoch: Counted over the whole run.
            first: Batches already done.
            by_length: Shortest first, in order and without jitter (SortaGrad, evaluation).
            jitter: Relative, at most this much longer or shorter.

        Raises:
            ValueError: If there is no utterance, or the longest one alone exceeds the budget.
        """
        lengths = np.asarray(seconds, dtype=np.float64)
        if len(lengths) == 0:
            raise ValueError("no utterance to make batches of")
        longest = int(lengths.argmax())
        if lengths[longest] > max_batch_seconds:
            raise ValueError(
                f"utterance {longest} lasts {lengths[longest]:.1f} s, more than a whole batch may "
                f"(max_batch_seconds = {max_batch_seconds}); raise the budget or split the recording"
            )
        generator = np.random.default_rng((seed, epoch))
        noise = 0 if by_length else generator.uniform(-jitter, jitter, len(lengths))
        order = np.argsort(lengths * (1 + noise), kind="stable")
        batches = _fill(order, lengths, max_batch_seconds)
        if not by_length:
            batches = [batches[i] for i in generator.permutation(len(batches))]
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
