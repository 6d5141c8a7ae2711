"""Whether training goes well, from its losses by epoch: what has diverged, and what a user should know and try.

Pure: the engine keeps the curves, undoes what has diverged and shows what is remarked. What only a task can see (no
word right) its ``Evaluation.notes`` say. The limits are such that no healthy phase recorded below ``recipes/`` comes
near them (``tests/engine/test_watch.py`` holds them against all).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from seqdsd.engine.task import Note

IN_A_ROW = 2
"""Epochs after which a loss that has risen is remarked: one alone often comes back by itself."""


Number = float | int


class Losses(NamedTuple):
    """Mean losses an item of an epoch: while it was trained, and on dev after it."""

    train: Number
    dev: Number


def has_diverged(now: Losses, *, good: Losses, first: Losses | None) -> bool:
    """Whether an epoch has lost what was learned: both losses are far above those of a good epoch.

    Far is nearer to the run's first epoch than to the good one, and at least 1.4 times it. One loss alone may rise in a
    run that goes on well: dev's, where batch norm's statistics lag behind (AN4, 2 times); training's, where a phase
    warms up to a high rate.

    Args:
        now: Of the epoch that has ended.
        good: Of the phase's best epoch so far.
        first: Of the run's first epoch; None where that did not begin untrained. Then far is 4 times as much.
    """
    limits = [_limit(*pair, least=0.4, share=0.5, alone=3.0) for pair in _pairs(good, first)]
    return all(map(_is_above, now, limits))


def remarks(now: Losses, *, lowest: Losses, first: Losses | None, is_best: bool) -> list[Note]:
    """What the losses of an epoch call for.

    Args:
        now: Of the epoch that has ended.
        lowest: Each loss's lowest in the phase's epochs before.
        first: As in ``has_diverged``.
        is_best: Whether the epoch is the phase's best so far by its dev score.
    """
    (train, first_train), (dev, first_dev) = _pairs(lowest, first)
    if _is_above(now.train, _limit(train, first_train, least=0.2, share=0.25, alone=1.0)):
        return [
            Note(
                "loss rises",
                f"the training loss has risen from {train:.4g} to {now.train:.4g} an item. Try half the learning rate "
                "(--learning-rates); the phase's best epoch is kept",
                epochs=IN_A_ROW,
            )
        ]
    if not is_best and _is_above(now.dev, _limit(dev, first_dev, least=0.5, share=0.1, alone=0.5)):
        return [
            Note(
                "dev loss parts from training",
                f"the dev loss has risen from {dev:.4g} to {now.dev:.4g} an item, the training loss "
                f"{_hardly(train, now.train)}. If it comes back and jumps again, try a lower learning rate "
                "(--learning-rates); if it keeps rising, the network learns the training set by heart: try more data "
                "or variation (--augment), more dropout, fewer epochs or a smaller --hidden-size",
                epochs=IN_A_ROW,
            )
        ]
    return []


def _hardly(lowest: Number, now: Number) -> str:
    """What is to be said of a loss that has not risen enough for a remark of its own."""
    return f"has not ({now:.4g})" if now <= lowest else f"by less (from {lowest:.4g} to {now:.4g})"


def _pairs(good: Losses, first: Losses | None) -> list[tuple[Number, Number | None]]:
    return list(zip(good, first or (None, None), strict=True))


def _is_above(value: Number, limit: Number) -> bool:
    """NaN is above every limit; nothing is above one of a loss that was not finite either."""
    return math.isfinite(limit) and not value <= limit


def _limit(good: Number, first: Number | None, *, least: float, share: float, alone: float) -> Number:
    """Above ``good`` by a share of what was gained since ``first`` and by a share of itself at least.

    So losses near 0, which double for nothing, may; and so may those of a first epoch, since when little was gained.
    """
    return good * (1 + alone) if first is None else max(good * (1 + least), good + share * (first - good))
